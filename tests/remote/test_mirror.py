"""A dataset in an object store is copied once, checked, and found again."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from agcnn_jax.data.records import open_records
from agcnn_jax.runtime import mirror
from agcnn_jax.runtime.errors import UserError
from tests.support.disks import mounted
from tests.support.programs import ROOT, run

FOLDER = "data/chest_xray14/1.0.0/"


def downloads(store):
    return [path for _, path in store.requests if "alt=media" in path and "array_record" in path]


def copies(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_the_copy_is_the_dataset(store, data_in_bucket, data_dir, cache, capsys):
    local, remote = open_records(data_dir), open_records(data_in_bucket)
    assert remote.fingerprint == local.fingerprint and len(remote) == len(local)
    np.testing.assert_array_equal(remote.image_ids, local.image_ids)
    np.testing.assert_array_equal(remote.boxes.corners, local.boxes.corners)
    ours, theirs = remote.images_and_labels(), local.images_and_labels()
    for index in (0, len(local) - 1):
        np.testing.assert_array_equal(ours[index]["image"], theirs[index]["image"])
    assert remote.directory.parent == cache
    assert "copying gs://bucket/data" in capsys.readouterr().err


def test_it_is_copied_once(store, data_in_bucket, data_dir, cache, capsys):
    first = open_records(data_in_bucket)
    capsys.readouterr()
    store.requests.clear()
    assert open_records(data_in_bucket + "/").directory == first.directory
    assert downloads(store) == []
    assert capsys.readouterr().err == ""
    # A dataset that moved is not copied again.
    for name in store.names("bucket", "data/"):
        store.put("bucket", f"moved/{name}", store.read("bucket", name))
    assert open_records("gs://bucket/moved/data").directory == first.directory


def test_another_dataset_at_the_same_place_is_another_copy(store, data_in_bucket, cache):
    first = open_records(data_in_bucket)
    name = FOLDER + "metadata.json"
    changed = store.read("bucket", name).replace(first.fingerprint.encode(), b"0" * 64)
    store.put("bucket", name, changed)
    second = open_records(data_in_bucket)
    assert (second.fingerprint, len(copies(cache))) == ("0" * 64, 2)


def test_an_interrupted_copy_is_continued(store, data_in_bucket, cache, monkeypatch):
    shards = [name for name in store.names("bucket", FOLDER) if "array_record" in name]
    content, name = store.read("bucket", shards[1]), shards[1].rsplit("/", 1)[1]
    client, _ = fsspec.core.url_to_fs(data_in_bucket)
    get = client.get

    def interrupted(sources, targets):
        if not sources[0].endswith(name):
            return get(sources, targets)
        # As gcsfs leaves a large file: its size is right, its content is not.
        Path(targets[0]).write_bytes(bytes(len(content)))
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "AT_ONCE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(client, "get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_records(data_in_bucket)
    (part,) = copies(cache)
    assert part.endswith(".part")
    store.requests.clear()
    records = open_records(data_in_bucket)
    assert len(list(records.images_and_labels())) == len(records)
    assert copies(cache) == [part.removesuffix(".part")]
    again = {path.split("?")[0].rsplit("%2F", 1)[-1] for path in downloads(store)}
    assert again == {shard.rsplit("/", 1)[1] for shard in shards[1:]}
    assert not list((cache / copies(cache)[0]).glob("*.unfinished"))


def test_processes_of_one_host_copy_once(store, data_in_bucket, cache):
    program = "import sys; from agcnn_jax.data.records import open_records; "
    program += "print(len(open_records(sys.argv[1])))"
    command = [sys.executable, "-c", program, data_in_bucket]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({count for count, _ in outputs}) == 1
    shards = [name for name in store.names("bucket", FOLDER) if "array_record" in name]
    assert len(downloads(store)) == len(shards)
    assert len(copies(cache)) == 1


class TestMistakes:
    """Each is one line that names the path and the remedy."""

    @pytest.mark.parametrize("place", ["gs://bucket/nothing", "gs://none/data"])
    def test_nothing_there(self, store, cache, place):
        with pytest.raises(UserError, match=r"data_prep/chestxray14\.py --raw_dir") as error:
            open_records(place)
        assert str(error.value).startswith(place)
        assert not cache.exists()

    def test_no_permission(self, store, data_in_bucket, cache):
        store.forbidden.add("bucket")
        with pytest.raises(UserError, match=r"^gs://bucket/data cannot be read: .*permission"):
            open_records(data_in_bucket)

    def test_a_shard_that_is_damaged_there(self, store, data_in_bucket, cache):
        shard = next(name for name in store.names("bucket", FOLDER) if "array_record" in name)
        store.put("bucket", shard, store.read("bucket", shard)[:1000])
        with pytest.raises(UserError, match=r"a copy of gs://bucket/data/.*delete (\S+) ") as error:
            open_records(data_in_bucket)
        (copy,) = copies(cache)
        assert f"delete {cache / copy} and run" in str(error.value)
        assert shard.rsplit("/", 1)[1] in str(error.value)

    def test_a_cache_that_cannot_be_written(self, store, data_in_bucket, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(mirror.CACHE_VARIABLE, os.fspath(tmp_path / "file" / "cache"))
        with pytest.raises(UserError, match=r"cannot be written: Not a directory.*AGCNN_JAX_CACHE"):
            open_records(data_in_bucket)

    def test_a_disk_too_small(self, store, data_in_bucket, cache, monkeypatch):
        monkeypatch.setattr(mirror.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(UserError, match=r"needs 0\.0 GB in .*AGCNN_JAX_CACHE"):
            open_records(data_in_bucket)

    def test_a_disk_that_fills_up(self, store, data_in_bucket, tmp_path, monkeypatch):
        """Another program fills it during the copy."""
        with mounted(tmp_path / "disk") as disk:
            cache = disk.outside / "cache"
            cache.mkdir()
            monkeypatch.setenv(mirror.CACHE_VARIABLE, os.fspath(cache))
            monkeypatch.setattr(mirror.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e12))
            disk.fill(leave=50_000)
            expected = r"\.part cannot be written: No space left on device; free some space, or"
            with pytest.raises(UserError, match=expected):
                open_records(data_in_bucket)
            (part,) = copies(cache)
            assert part.endswith(".part")
            disk.make_room()
            assert len(open_records(data_in_bucket)) > 0

    def test_a_dataset_that_changes_during_the_copy(
        self, store, data_in_bucket, cache, monkeypatch
    ):
        async def longer(self, source, target, **_):
            Path(target).write_bytes(b"x" * 10**6)

        monkeypatch.setattr(fsspec.get_filesystem_class("gs"), "_get_file", longer)
        with pytest.raises(UserError, match=r"^gs://bucket/data.* changed while it was copied"):
            open_records(data_in_bucket)
        assert [name for name in copies(cache) if not name.endswith(".part")] == []

    def test_a_program_prints_one_line(self, store, data_in_bucket, cache):
        store.forbidden.add("bucket")
        program = "import sys; from agcnn_jax.runtime import errors; "
        program += "from agcnn_jax.data.records import open_records; "
        program += "errors.run(lambda: print(open_records(sys.argv[1])))"
        done = run("-c", program, data_in_bucket, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr

    @pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
    def test_a_missing_package(self, scheme, package):
        program = f"""
import sys
sys.modules[{package!r}] = None
from agcnn_jax.runtime import errors
from agcnn_jax.data.records import open_records
errors.run(lambda: print(open_records("{scheme}://bucket/data")))
"""
        done = run("-c", program, check=False)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"{scheme}://bucket/data cannot be read" in line and "make install EXTRA=" in line


def test_where_copies_lie(monkeypatch, tmp_path):
    monkeypatch.delenv(mirror.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert mirror.cache_folder() == tmp_path / ".cache" / "agcnn_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert os.fspath(mirror.cache_folder()) == "/xdg/agcnn_jax"
    monkeypatch.setenv(mirror.CACHE_VARIABLE, "~/here")
    assert mirror.cache_folder() == tmp_path / "here"
