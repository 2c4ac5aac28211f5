"""Files on a disk are written atomically; messages for those that cannot be accessed."""

import errno
import json
import os
from pathlib import Path

import pytest
from etils import epath

from agcnn_jax.runtime import storage
from agcnn_jax.runtime.errors import UserError


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.fspath(storage.absolute("runs/a")) == f"{tmp_path}/runs/a"
    # etils would resolve this into the working directory.
    assert os.fspath(storage.absolute("gs://bucket/runs/a/")) == "gs://bucket/runs/a"
    assert storage.is_remote("s3://bucket/x") and not storage.is_remote(tmp_path)


@pytest.mark.parametrize("name", ["gs://", "gs:///x", "ftp://host/x"])
def test_invalid_paths_are_refused(name):
    with pytest.raises(UserError, match=f"^{name} is not a path"):
        storage.absolute(name)


def test_checkpoints_lie_on_disks_and_in_gs():
    assert storage.checkpoint_place("gs://b/run") == epath.Path("gs://b/run")
    assert storage.checkpoint_place("/x/run") == epath.Path("/x/run")
    with pytest.raises(UserError, match=r"--workdir s3://b/run: checkpoints can only lie on a"):
        storage.checkpoint_place("s3://b/run")


def test_json_round_trip_creates_the_folder(tmp_path):
    path = epath.Path(tmp_path) / "a" / "b.json"
    storage.write_json(path, {"é": [1, 0.5, None]})
    assert storage.read_json(path) == {"é": [1, 0.5, None]}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "a.json"
    storage.write_json(path, {"old": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError) as error:
        storage.write_json(path, {"new": 2})
    assert str(error.value) == (
        f"{path} cannot be written: No space left on device; free some space and run the same "
        "command again"
    )
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a\.json cannot be written: .+; use another$"):
        storage.write_json(epath.Path(tmp_path) / "file" / "a.json", {}, "use another")


@pytest.mark.parametrize("content", [None, b"[1", b"\xff", b"[1]", b"[" * 100_000])
def test_json_that_cannot_be_read(tmp_path, content):
    path = epath.Path(tmp_path) / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json .*; delete it$"):
        storage.read_json(path, "delete it")


def test_bugs_with_a_disk_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), storage.reported("/x", "read"):
        1 / 0  # noqa: B018
    # The clients of object stores may raise any exception.
    expected = r"^gs://b/x cannot be read: division by zero; wait$"
    with pytest.raises(UserError, match=expected), storage.reported("gs://b/x", "read", "wait"):
        1 / 0  # noqa: B018


def test_a_missing_client_is_named():
    expected = r"gs:// needs gcsfs and .* \(in a checkout: make install EXTRA=gcs\)"
    with pytest.raises(UserError, match=expected), storage.reported("gs://b/x", "read"):
        raise ImportError("Please install gcsfs")
    with pytest.raises(ImportError), storage.reported(Path("/x"), "read"):
        raise ImportError("something else")


def test_errors_of_tensorstore_become_those_of_the_system():
    error = ValueError(
        'RESOURCE_EXHAUSTED: Error writing local file "/x/y": Failed to write 37845 bytes to file '
        "11: No space left on device [os_error_code='28'] [tensorstore_spec='{...}']"
    )
    assert storage.error_number(error) == errno.ENOSPC
    assert storage.reason("/x", error) == "No space left on device"
    assert storage.advice("/x", error) == "free some space and run the same command again"
    assert storage.advice("gs://b/x", error) == storage.REACHABLE
    other = ValueError("DATA_LOSS: Expected 4 bytes [source locations='a.cc:3'] [spec='{...}']")
    assert storage.error_number(other) is None
    assert storage.reason("/x", other) == "DATA_LOSS: Expected 4 bytes"


def test_a_long_reason_keeps_both_its_ends():
    text = storage.reason("gs://b/x", OSError(f"begins {'so ' * 200} and ends"))
    assert text.startswith("begins so so") and text.endswith("so and ends")
    assert len(text) < 250
