"""Workdirs that cannot be written, listed or deleted from or are full; hosts that read slowly."""

import pytest
from etils import epath

from agcnn_jax.check import storage
from agcnn_jax.runtime.errors import UserError
from tests.support.disks import mounted


def test_a_workdir_that_works(tmp_path):
    workdir = epath.Path(tmp_path / "runs/a")
    storage.probe(workdir)
    assert list((workdir / storage.FOLDER).iterdir()) == []
    assert storage.free_bytes(epath.Path(tmp_path / "not/yet")) > 0


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run/.check/\w+ cannot be written: .*choose another"):
        storage.probe(epath.Path(tmp_path / "file/run"))


def test_a_workdir_that_cannot_be_deleted_from(tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path)

    def refuse(path, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(workdir), "unlink", refuse)
    message = "cannot be deleted: Operation not permitted; .* needs the permission to delete there"
    with pytest.raises(UserError, match=message):
        storage.probe(workdir)


def test_a_workdir_that_does_not_list_what_is_there(tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path)
    monkeypatch.setattr(type(workdir), "iterdir", lambda path: iter(()))
    with pytest.raises(UserError, match="does not list a file that was just written there"):
        storage.probe(workdir)


def test_a_full_disk(tmp_path):
    with mounted(tmp_path / "disk", size="1m") as disk:
        disk.fill()
        with pytest.raises(UserError, match="No space left on device"):
            storage.probe(epath.Path(disk.outside))
        free = storage.free_bytes(epath.Path(disk.outside))
    assert free < 10_000
    failure = storage.no_space(epath.Path("runs/a"), free, 2_000_000_000)
    assert failure.startswith("runs/a has 0.0")
    assert " MB free, and the run will write 2.00 GB; free some space" in failure


@pytest.mark.parametrize("free", [2_000_000_000, None])
def test_a_disk_with_enough_room(free):
    assert storage.no_space(epath.Path("runs/a"), free, 2_000_000_000) is None


def test_a_host_that_reads_slowly():
    part = storage.judge_reading([900.0, 300.0, 1000.0], ["a", "b", "c"])
    [failure] = part.failures
    assert failure.startswith("process 1 on b reads 300 records a second")
    assert "leave that host out" in failure
    assert part.figures == {"records_a_second": [900.0, 300.0, 1000.0], "slowest_process": 1}
    assert "2,200 a second by all, slowest process 1 on b with 300" in part.lines[0]
    assert storage.judge_reading([900.0, 400.0, 1000.0], ["a", "b", "c"]).failures == ()
    assert storage.judge_reading([900.0], ["a"]).failures == ()
