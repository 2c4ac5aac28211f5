"""A list of films: what is written is what is read, in any range and any chunks."""

import hashlib
import os
import resource

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.inference import film_list
from agcnn_jax.inference.film_list import names_of, read_list, write_list
from agcnn_jax.runtime.errors import UserError

NAMES = ["a.png", r"b\c.png", "d\ne.png", "胸部 x.png", "gs://bucket/f.dcm", "\udcff.png", "g.png"]


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path / "list.txt")


def names(path, first, end):
    return list(names_of(read_list(path), first, end))


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_a_range_of_lines_is_read_back(path, monkeypatch, chunk):
    monkeypatch.setattr(film_list, "CHUNK", chunk)
    assert write_list(NAMES, path) == len(NAMES)
    whole = read_list(path)
    content = path.read_bytes()
    assert (whole.lines, whole.size) == (len(NAMES), len(content))
    assert whole.sha256 == hashlib.sha256(content).hexdigest()
    for first in range(len(NAMES)):
        for end in range(first, len(NAMES) + 1):
            assert names(path, first, end) == list(enumerate(NAMES))[first:end]


@given(name=st.binary(min_size=1))
def test_any_name_is_reversible(tmp_path_factory, name):
    path = epath.Path(tmp_path_factory.mktemp("list") / "list.txt")
    write_list([os.fsdecode(name)], path)
    assert names(path, 0, 1) == [(0, os.fsdecode(name))]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_what_a_grown_list_begins_with(path, monkeypatch, chunk):
    """Also if its last line had no end before it grew."""
    monkeypatch.setattr(film_list, "CHUNK", chunk)
    path.write_text("a\nbc")
    before = read_list(path)
    assert (before.lines, before.size) == (2, 5)
    assert names(path, 0, 2) == [(0, "a"), (1, "bc")]
    path.write_text("a\nbc\nd\n")
    assert read_list(path, [5]).prefixes == {5: before.sha256}
    path.write_text("a\nbd\nd\n")
    assert read_list(path, [5]).prefixes[5] != before.sha256
    path.write_text("a\nbcd\n")
    assert read_list(path, [5, 99]).prefixes == {5: None, 99: None}


def test_lines_that_other_programs_wrote(path):
    path.write_bytes(b"a b.png\r\n\xff.png\n")
    assert names(path, 0, 2) == [(0, "a b.png"), (1, "\udcff.png")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no film; write it with --write_list"),
        (b"\na\n", "line 1: empty"),
        (b"a\nb\n\nc\n", "line 3: empty"),
        (b"a\nb\\x\n", "line 2: a backslash begins no escape"),
        (None, "cannot be read: No such file"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_mistakes(path, monkeypatch, chunk, content, words):
    monkeypatch.setattr(film_list, "CHUNK", chunk)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        names(path, 0, 2)


def test_a_list_that_cannot_be_completed_leaves_nothing(path):
    def stopped():
        yield "a.png"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_list(stopped(), path)
    assert list(path.parent.iterdir()) == []


def test_a_list_that_does_not_fit_leaves_nothing(path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"list.txt cannot be written: File too large"):
            write_list(["a.png"] * 5000, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_list_that_became_shorter(path, monkeypatch, chunk):
    monkeypatch.setattr(film_list, "CHUNK", chunk)
    write_list(NAMES, path)
    films = read_list(path)
    path.write_text("a.png\n")
    for first in range(len(NAMES)):
        with pytest.raises(UserError, match="became shorter while it was read"):
            list(names_of(films, first, max(first + 1, 2)))
