"""launch/slurm_predict.sbatch with stand-ins for srun and scontrol."""

import sys

import pytest

from tests.launch.scripts import LAUNCH, RUN_AGAIN, executable, on_path, script

LIST = ("--workdir", "runs/resnet", "--list", "films.txt", "--shards", "100", "--out", "out")


def slurm(tmp_path, status, *, program=LIST, **env):
    """Run the batch script with stand-ins, which write their arguments to `calls`."""
    executable(tmp_path / "srun", f'echo "srun $*" >> "{tmp_path}/calls"\nexit {status}\n')
    executable(tmp_path / "scontrol", f'echo "scontrol $*" >> "{tmp_path}/calls"\n')
    settings = {
        "SLURM_JOB_ID": "4711",
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_CPUS_PER_TASK": "8",
        "PYTHON": sys.executable,
        **on_path(tmp_path),
        **env,
    }
    path = LAUNCH / "slurm_predict.sbatch"
    done = script("/usr/bin/env", "bash", path, *program, env=settings)
    calls = tmp_path / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_a_task_predicts_its_piece_and_the_join_none(tmp_path):
    done, [call] = slurm(tmp_path, 0)
    assert done.returncode == 0, done.stderr
    start = f"srun --cpus-per-task=8 {sys.executable} -m agcnn_jax.predict "
    assert call == f"{start}{' '.join(LIST)} --shard auto"
    done, calls = slurm(tmp_path, 2, program=("--join", "out"), SLURM_ARRAY_TASK_ID="")
    assert (done.returncode, calls[1:]) == (2, [f"{start}--join out"])


@pytest.mark.parametrize("status", [RUN_AGAIN, 137])
def test_a_piece_that_was_stopped_is_queued_again(tmp_path, status):
    done, calls = slurm(tmp_path, status, SLURM_RESTART_COUNT="2")
    assert (done.returncode, calls[1:]) == (status, ["scontrol requeue 4711"])
    done, calls = slurm(tmp_path, status, SLURM_RESTART_COUNT="3", MAX_REQUEUES="3")
    assert (done.returncode, len(calls)) == (status, 3)
    assert "MAX_REQUEUES" in done.stderr


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"program": ("films",)}, "--list LIST"),
        ({"SLURM_ARRAY_TASK_ID": ""}, "not an array"),
        ({"SLURM_JOB_ID": ""}, "not a Slurm job"),
        ({"PYTHON": "no/python"}, "no/python"),
        ({"MAX_REQUEUES": "many"}, "'many'"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, options, names):
    done, calls = slurm(tmp_path, 0, **options)
    assert (done.returncode, calls) == (2, [])
    assert len(done.stderr.splitlines()) == 1
    assert names in done.stderr
