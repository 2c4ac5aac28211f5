"""Pieces, lists and films in a bucket."""

import errno
import time

import fsspec
import numpy as np
import pytest
from etils import epath

from agcnn_jax import predict
from agcnn_jax.data.films import resize_film
from agcnn_jax.inference.decoding import decode_films
from agcnn_jax.inference.film_list import read_list
from agcnn_jax.inference.folder import FILES
from agcnn_jax.inference.load import load_exported
from agcnn_jax.inference.pieces import join
from agcnn_jax.runtime import storage
from agcnn_jax.runtime.errors import Stopped, UserError
from tests.data_prep.film_files import film_bytes
from tests.inference.test_pieces import (
    NAMES,
    SHARDS,
    check_any_order,
    check_grown,
    check_killed,
    check_retry,
    check_twice_at_once,
    network,  # noqa: F401
    piece,
)
from tests.inference.tiny_model import export_tiny
from tests.support.onnx_stand_in import write_stand_in


@pytest.fixture
def out(store):
    return storage.absolute("gs://bucket/out")


@pytest.fixture
def films(store):
    store.put("bucket", "films.txt", "".join(f"{name}\n" for name in NAMES).encode())
    return storage.absolute("gs://bucket/films.txt")


SLOW = pytest.mark.slow
CHECKS = (
    check_any_order,
    *(pytest.param(one, marks=SLOW) for one in (check_killed, check_retry, check_grown)),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_pieces_in_a_bucket(network, films, out, tmp_path, check):  # noqa: F811
    check(network, films, out, tmp_path / "whole")


@SLOW
def test_twice_at_once(network, films, out, tmp_path, monkeypatch):  # noqa: F811
    check_twice_at_once(network, films, out, tmp_path / "whole", monkeypatch)


def test_no_object_is_written_twice_but_the_tables(store, network, films, out):  # noqa: F811
    written = []
    put = store.put
    store.put = lambda bucket, name, content: written.append(name) or put(bucket, name, content)
    try:
        for shard in range(SHARDS):
            piece(films, out, shard)
            piece(films, out, shard, retry=True)
        join(out)
    finally:
        del store.put
    assert len(written) == len(set(written))
    assert {f"out/{name}" for name in FILES} <= set(written)


def test_a_damaged_part_leaves_the_tables_of_a_bucket(store, network, films, out):  # noqa: F811
    for shard in range(SHARDS):
        piece(films, out, shard)
    part = next(name for name in store.names("bucket", "out/pieces") if "predictions.csv" in name)
    store.put("bucket", part, b"other")
    with pytest.raises(UserError, match="was changed or is damaged"):
        join(out)
    assert not [name for name in store.names("bucket", "out/") if name.count("/") == 1]


def test_films_of_a_bucket_are_listed_and_read(store, tmp_path):
    for name in ("b/2.png", "a.png", "b/notes.txt", ".hidden.png"):
        store.put("bucket", f"films/{name}", film_bytes("x.png", len(name), 40))
    predict.main(["--write_list", "gs://bucket/films", "--out", "gs://bucket/list.txt"])
    content = store.read("bucket", "list.txt").decode()
    assert content == "gs://bucket/films/a.png\ngs://bucket/films/b/2.png\n"
    assert read_list(epath.Path("gs://bucket/list.txt")).lines == 2
    store.put("bucket", "films/empty.png", b"")
    local = tmp_path / "local.png"
    local.write_bytes(film_bytes("x.png", 5, 40))
    paths = [*content.split(), "gs://bucket/films/empty.png", "gs://bucket/films/no.png"]
    a, b, empty, missing, same = decode_films([*paths, str(local)], 32, workers=2)
    assert (empty, missing) == ("empty file", "No such file or directory")
    np.testing.assert_array_equal(a.stored, same.stored)
    assert (b.width, b.height) == (47, 40)
    assert a.stored.shape == resize_film(np.zeros((40, 40), np.uint8), 32).shape


def test_a_folder_of_a_bucket_that_cannot_be_listed_is_not_left_out(store, tmp_path, monkeypatch):
    for name in ("a.png", "b/", "c/2.png"):
        store.put("bucket", f"films/{name}", b"")
    out = tmp_path / "list.txt"
    predict.main(["--write_list", "gs://bucket/films", f"--out={out}"])
    assert out.read_text() == "gs://bucket/films/a.png\ngs://bucket/films/c/2.png\n"
    out.unlink()
    client = fsspec.core.url_to_fs("gs://bucket")[0]
    listing = client.ls

    def failing(path, **options):
        if path.endswith("/c"):
            raise ConnectionResetError("the store hung up")
        return listing(path, **options)

    monkeypatch.setattr(client, "ls", failing)
    with pytest.raises(Stopped, match="gs://bucket/films cannot be read: the store hung up"):
        predict.main(["--write_list", "gs://bucket/films", f"--out={out}"])
    assert not out.exists()


@pytest.mark.parametrize("write", [pytest.param(export_tiny, marks=SLOW), write_stand_in])
def test_an_exported_model_in_a_bucket(store, tmp_path, write):
    folder = write(tmp_path / "model")
    for path in folder.iterdir():
        store.put("bucket", f"model/{path.name}", path.read_bytes())
    assert load_exported("gs://bucket/model").digest == load_exported(folder).digest
    store.put("bucket", "model/config.json", b"{}")
    with pytest.raises(UserError, match=r"gs://bucket/model/config.json was changed"):
        load_exported("gs://bucket/model")
    with pytest.raises(UserError, match=r"gs://bucket/none/SHA256SUMS cannot be read: not found"):
        load_exported("gs://bucket/none")


@SLOW
def test_requests_wait_together(store):
    """One after the other, 60 films would take 60 times the latency."""
    for number in range(60):
        store.put("bucket", f"films/{number}.png", film_bytes("x.png", number, 40))
    paths = [f"gs://bucket/films/{number}.png" for number in range(60)]
    next(decode_films(paths[:1], 32, workers=1))
    store.latency = 0.5
    try:
        began = time.monotonic()
        assert len(list(decode_films(paths, 32, workers=2))) == 60
        assert time.monotonic() - began < 60 * 0.5 / 2
    finally:
        store.latency = 0


def test_a_bucket_that_fails_is_no_film_that_fails(store):
    """The same command continues later, instead of refusing all films."""
    import requests  # comes with gcsfs

    store.forbidden.add("bucket")
    assert "orbidden" in next(decode_films(["gs://bucket/a.png"], 32, workers=1))
    # Of gcsfs and s3fs: a lost connection, 502, 503.
    hung_up, proxy = ConnectionResetError("the store hung up"), requests.exceptions.ProxyError()
    for error in (hung_up, proxy, OSError(errno.EBUSY, "SlowDown")):
        assert storage.is_passing(error)
    for lasting in (PermissionError(), FileNotFoundError(), None):
        assert not storage.is_passing(lasting)


def test_a_failing_store_ends_the_piece_with_75(monkeypatch):
    from agcnn_jax.inference import fetch

    def failing(path):
        raise ConnectionResetError("the store hung up")

    monkeypatch.setattr(fetch.fsspec.core, "url_to_fs", failing)
    with pytest.raises(Stopped, match=r"gs://bucket/a.png cannot be read: .*run the same command"):
        next(decode_films(["gs://bucket/a.png"], 32, workers=1))
