"""Fixtures for the tests of object stores: a store, a bucket and a dataset."""

import importlib.util
import os

import fsspec
import pytest

from tests.remote.object_store import serving


@pytest.fixture(scope="session")
def server():
    """One store for all tests, since the clients in this process keep its address."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("the extra gcs is not installed")
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        # A new process does this too. gcsfs must not be imported earlier.
        fsspec.config.set_conf_env(fsspec.config.conf)
        yield server


@pytest.fixture
def store(server):
    """The store, with an empty bucket named `bucket`."""
    server.objects.clear()
    server.forbidden.clear()
    server.requests.clear()
    server.create("bucket")
    # Clients remember the folders of earlier tests.
    for client in list(fsspec.get_filesystem_class("gs")._cache.values()):
        client.invalidate_cache()
    return server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder for copies of datasets."""
    monkeypatch.setenv("AGCNN_JAX_CACHE", os.fspath(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data_in_bucket(store, data_dir):
    """The same dataset under `gs://bucket/data`."""
    for path in data_dir.rglob("*"):
        if path.is_file():
            store.put("bucket", f"data/{path.relative_to(data_dir)}", path.read_bytes())
    return "gs://bucket/data"
