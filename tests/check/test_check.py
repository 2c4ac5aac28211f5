"""Whole checks: that pass, and of setups that are broken."""

import json

import jax
import pytest
from etils import epath

from agcnn_jax.check import program
from agcnn_jax.check.check import check, remove, write_report
from agcnn_jax.run import run as experiment
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.training.fit import check_memory
from tests.configs import demo
from tests.pods.test_refused import another_repository
from tests.support.disks import WITH_DISK, mounted
from tests.support.processes import DEMO, Run
from tests.support.programs import ROOT
from tests.support.started import TINY

STAGES = ["1_global", "2_local", "3_fusion"]
# One of the processes starts in another folder.
OPTIONS = (
    f"--config={ROOT}/tests/configs/demo.py",
    *DEMO[1:],
    "--config.max_steps=4",
    "--config.log_every=1",
)
CHECK = ("-m", "agcnn_jax.check")


def read(workdir):
    """Read `check.json`, and assert that nothing else is left of a check."""
    assert {path.name for path in workdir.iterdir()} == {"check.json"}
    return json.loads((workdir / "check.json").read_text())


def checking(data_dir, workdir, *options, program=CHECK, **settings):
    """Start a check in two processes of four devices, unless `settings` differ."""
    return Run(
        *program,
        *OPTIONS,
        f"--config.data.dir={data_dir}",
        f"--workdir={workdir}",
        *options,
        **{"devices": 4, **settings},
    )


def test_a_report_from_a_workdir_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert write_report({"passed": False}, epath.Path(tmp_path / "file/run")) == "check.json"
    assert json.loads((tmp_path / "check.json").read_text()) == {"passed": False}
    workdir = epath.Path(tmp_path / "run")
    assert write_report({"passed": True}, workdir) == str(workdir / "check.json")
    assert json.loads((workdir / "check.json").read_text()) == {"passed": True}


def test_what_cannot_be_deleted_is_named(tmp_path, monkeypatch, capsys):
    folder = epath.Path(tmp_path / ".check")
    (folder / "a").mkdir(parents=True)

    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(folder), "rmtree", refuse)
    remove(folder)
    assert f"{folder} is left behind (PermissionError); delete it" in capsys.readouterr().out
    monkeypatch.undo()
    remove(folder)
    assert not folder.exists()
    remove(folder)


def succeed(run):
    """Wait until all processes have ended with status 0; return what each printed."""
    ends = run.finish(timeout=900)
    assert [status for status, _, _ in ends] == [0] * len(ends), ends
    return [output for _, output, _ in ends]


@pytest.fixture
def config(data_dir, monkeypatch):
    monkeypatch.setattr(experiment, "device_mesh", lambda: device_mesh(jax.devices()[:2]))
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.input_size = 56
    config.batch_size = (16,)
    config.eval_batch_size = 16
    config.max_steps = 4
    return config


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
class TestOneProcess:
    def test_too_little_memory(self, config, monkeypatch, tmp_path, capsys):
        """Planned for the local branch; the other stages are measured nevertheless."""
        device = type("Device", (), {"memory_stats": lambda self: {"bytes_limit": 1000}})()
        calls = []

        def check_second(memory, real):
            calls.append(real)
            check_memory(memory, device if len(calls) == 2 else real)

        monkeypatch.setattr(program, "check_memory", check_second)
        assert not check(config, str(tmp_path / "run"))
        content = read(tmp_path / "run")
        [failure] = content["failures"]
        assert failure["what"].startswith("stage 2_local: a training step needs 0.0")
        assert "raise --config.accumulate, lower --config.batch_size" in failure["what"]
        assert list(content["program"]) == ["1_global", "3_fusion"]
        assert "forecast" not in content
        assert f"FAILED: {failure['what']}" in capsys.readouterr().out

    def test_a_loss_that_is_not_finite(self, config, tmp_path):
        config.learning_rate = (1e30,)
        assert not check(config, str(tmp_path / "run"))
        failures = [one["what"] for one in read(tmp_path / "run")["failures"]]
        assert any(
            "the loss is" in one and "smaller config.learning_rate" in one for one in failures
        )


@pytest.mark.slow
def test_training_that_is_checked_first(data_dir, tmp_path):
    """The check has run the very steps that training then runs; a resumed run may check again."""
    workdir = tmp_path / "run"
    train = ("train.py", "--check_first")
    with checking(data_dir, workdir, program=train, processes=1, devices=2) as run:
        [output] = succeed(run)
    assert output.index("check passed") < output.index("AG-CNN with")
    content = json.loads((workdir / "check.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["stage"] == "1_global" and "loss" in line]
    assert content["program"]["1_global"]["losses"] == pytest.approx(losses[:3], rel=1e-6)
    # A check that was killed leaves its checkpoint.
    (workdir / ".check" / STAGES[0] / "1").mkdir(parents=True)
    with checking(data_dir, workdir, program=train, processes=1, devices=2) as run:
        [output] = succeed(run)
    assert output.index("check passed") < output.index("nothing left to do")
    assert not (workdir / ".check").exists()


@pytest.mark.slow
def test_two_processes(data_dir, tmp_path):
    with checking(data_dir, tmp_path / "run") as run:
        first, second = succeed(run)
    assert "1 host(s), 2 process(es), devices: 8 cpu" in first
    assert "check passed" in first
    assert second == ""
    content = read(tmp_path / "run")
    assert content["passed"]
    assert list(content["program"]) == STAGES
    for stage in content["program"].values():
        assert stage["parameters_equal"]
        assert stage["checkpoint"]["as_written"]
        assert len(stage["losses"]) == 3
    assert content["network"]["slowest_process"] == 1
    assert len(content["storage"]["records_a_second"]) == 2
    assert list(content["forecast"]["hours_by_stage"]) == STAGES


@pytest.mark.slow
def test_a_broken_host(data_dir, tmp_path):
    with checking(data_dir, tmp_path / "run", program=("-m", "tests.check.broken")) as run:
        ends = run.finish(timeout=900)
    assert [status for status, _, _ in ends] == [2, 2], ends
    found = [(one["part"], one["what"]) for one in read(tmp_path / "run")["failures"]]
    for part, words in (
        ("who", "the clock of process 1 on host0 is 5."),
        ("storage", "process 1 on host0 reads "),
        *(("program", f"stage {name}: after 3 steps process 1 on host0 has") for name in STAGES),
    ):
        assert any(one == part and words in what for one, what in found), (words, found)


@pytest.mark.slow
def test_hosts_with_other_code(data_dir, tmp_path):
    other = another_repository(tmp_path / "other")
    with checking(data_dir, tmp_path / "run", cwd={1: other}, devices=1) as run:
        ends = run.finish(timeout=900)
    assert [status for status, _, _ in ends] == [2, 2], ends
    content = read(tmp_path / "run")
    [failure] = content["failures"]
    assert (
        "process 1 on host0 differs from process 0 in file agcnn_jax/models/layers.py"
        in (failure["what"])
    )
    # Programs that differ would wait for each other.
    assert "program" not in content


@pytest.mark.slow
def test_a_full_disk(data_dir, tmp_path):
    with mounted(tmp_path / "disk") as disk:
        disk.fill(leave=20_000)
        with checking(
            data_dir,
            disk.path / "run",
            program=(*WITH_DISK, TINY, *CHECK),
            processes=1,
            devices=1,
            variables={0: disk.variables},
        ) as run:
            [(status, output, stderr)] = run.finish(timeout=900)
    assert status == 2, stderr
    assert "MB free, and the run will write" in output
    assert "free some space" in output
