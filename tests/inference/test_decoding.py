"""Films decoded in processes: in order, and whatever a film does to its process."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from agcnn_jax.data.films import load_film, resize_film
from agcnn_jax.inference.decoding import decode_films, decode_path
from agcnn_jax.inference.films import DecodedFilm
from agcnn_jax.inference.inputs import find_films
from agcnn_jax.runtime.errors import UserError
from tests.inference.hostile import whole_films, write_hostile


def misbehave(path, size, shown):
    """Do what the name says."""
    if path == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path == "hang":
        time.sleep(60)
    if path == "slow":
        time.sleep(0.3)
    return path


def decode_and_measure(path, size, shown):
    """Also return the most memory, in kB, that this process has had so far."""
    film = decode_path(path, size, shown)
    # Unlike `getrusage`, it does not begin with what the process that started this one has had.
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in status if line.startswith("VmHWM")]
    return film, int(peak)


def test_order_and_pixels(tmp_path):
    paths = []
    for name, data in whole_films().items():
        paths.append(str(tmp_path / f"film.{name}"))
        (tmp_path / f"film.{name}").write_bytes(data)
    paths.insert(2, str(tmp_path / "missing.png"))
    found = list(decode_films(paths, 32, workers=2, shown=24))
    assert found.pop(2) == "No such file or directory"
    del paths[2]
    for path, film in zip(paths, found, strict=True):
        whole = load_film(path)
        np.testing.assert_array_equal(film.stored, resize_film(whole, 32))
        assert (film.width, film.height) == (48, 40)
        assert film.shown.shape == (20, 24)


def test_a_film_that_crashes_or_hangs_costs_its_process_alone():
    paths = ["slow", "a", "crash", "b", "hang", "crash", "c", "hang", "d"]
    found = list(decode_films(paths, 8, workers=2, seconds=1, decode=misbehave))
    assert [x for x in found if len(x) < 5] == ["slow", "a", "b", "c", "d"]
    assert found[2] == found[5] == "damaged: it crashed the decoder"
    assert found[4] == found[7] == "takes more than 1 s to decode"


def test_memory_does_not_grow_with_films():
    """Only a few are decoded ahead of the consumer."""
    films = decode_films([str(i) for i in range(200)], 8, workers=2, decode=misbehave)
    assert next(films) == "0"
    films.close()  # does not wait for the others


def test_hostile_files(tmp_path):
    """Every file is a film or a line that says why not; memory is bounded and nothing hangs."""
    paths = write_hostile(tmp_path)
    assert len(paths) > 510
    began = time.monotonic()
    answered = list(decode_films(paths, 64, workers=2, decode=decode_and_measure))
    assert time.monotonic() - began < 300
    # A film that costs its process has a reason alone.
    pairs = [answer if isinstance(answer, tuple) else (answer, 0) for answer in answered]
    found = [film for film, _ in pairs]
    assert 0 < max(peak for _, peak in pairs) < 1_500_000  # kB
    for path, film in zip(paths, found, strict=True):
        if isinstance(film, DecodedFilm):
            assert film.stored.shape == (64, 64)
        else:
            assert film and len(film) < 300 and "\n" not in film, path
    answers = {os.path.basename(path): film for path, film in zip(paths, found, strict=True)}
    assert "claims 50000 x 50000" in answers["large.png"]
    assert "claims 50000 x 50000" in answers["large.dcm"]
    assert answers["frames.dcm"] == "a DICOM object of several frames"
    assert answers["pipe.png"] == "not a file"
    assert answers["folder.png"] == answers["around"] == "Is a directory"
    assert "more than any radiograph" in answers["sparse.tif"]
    assert isinstance(answers["bomb.png"], DecodedFilm | str)
    # Those of another kind's name are films.
    assert sum(isinstance(film, DecodedFilm) for film in found) >= 100


def test_what_a_folder_holds(tmp_path):
    films = tmp_path / "films"
    for name, kind in {
        "b/2.PNG": "png",
        "a.dcm": "dcm",
        "b/1.tif": "tif",
        "IM0001": "dcm",
        ".hidden.png": "png",
        "DICOMDIR": "dcm",
        "b/Dicomdir": "dcm",
        "png": "png",
    }.items():
        (films / name).parent.mkdir(parents=True, exist_ok=True)
        (films / name).write_bytes(whole_films()[kind])
    # The storage class says what a directory is, whatever its name; here behind the preamble.
    (films / "index.dcm").write_bytes(128 * b"\0" + b"DICM\2\0\2\0UI\x14\x001.2.840.10008.1.3.10")
    (films / "labels.csv").write_text("film,label\n")
    os.mkfifo(films / "pipe")
    (films / "b/up").symlink_to(films)
    (films / "out").mkdir()
    (films / "out/picture.png").write_bytes(whole_films()["png"])
    found = find_films([str(films), str(films / "a.dcm")], films / "out")
    names = [os.path.relpath(path, films) for path in found.films]
    assert names == ["IM0001", "a.dcm", "b/1.tif", "b/2.PNG"]
    assert found.others == 7
    assert find_films([str(films / "labels.csv")], films / "out").films == [
        str(films / "labels.csv")
    ]


def test_no_films(tmp_path):
    with pytest.raises(UserError, match="no such file or folder; check the path"):
        find_films([str(tmp_path / "missing")], tmp_path / "out")
    with pytest.raises(UserError, match="no film in it; give PNG, JPEG, TIFF or DICOM"):
        find_films([str(tmp_path)], tmp_path / "out")
    assert list(decode_films([], 8, workers=2)) == []


def test_a_folder_below_that_cannot_be_listed_is_refused_as_a_film(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "film.png").write_bytes(whole_films()["png"])
    with pytest.raises(UserError, match="is also a folder of films; choose another --out"):
        find_films([str(tmp_path)], tmp_path)
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may list every folder
    found = find_films([str(tmp_path)], tmp_path / "out").films
    assert found == [str(tmp_path / "film.png"), str(tmp_path / "closed")]
    assert decode_path(found[1], 8, 0) == "Is a directory"  # or "Permission denied", but to root
    with pytest.raises(UserError, match="closed: Permission denied; check"):
        find_films([str(tmp_path / "closed")], tmp_path / "out")
