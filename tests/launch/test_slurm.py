"""launch/slurm.sbatch with stand-ins for srun and scontrol."""

import re
import sys

import pytest

from tests.launch.scripts import LAUNCH, RUN_AGAIN, executable, on_path, script


def slurm(
    tmp_path, srun, *, restarts=0, program=("train.py", "--config", "configs/demo.py"), **env
):
    """Run the batch script with stand-ins, which write their arguments to `calls`."""
    executable(tmp_path / "srun", f'echo "srun $*" >> "{tmp_path}/calls"\n{srun}\n')
    executable(tmp_path / "scontrol", f'echo "scontrol $*" >> "{tmp_path}/calls"\n')
    settings = {
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_RESTART_COUNT": str(restarts),
        "PYTHON": sys.executable,
        **on_path(tmp_path),
        **env,
    }
    done = script("/usr/bin/env", "bash", LAUNCH / "slurm.sbatch", *program, env=settings)
    calls = tmp_path / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def directives():
    """The script's options for sbatch, which end at its first command."""
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    found = [line.split()[1] for line in lines[:first_command] if line.startswith("#SBATCH")]
    assert len(found) == sum(line.startswith("#SBATCH") for line in lines)
    return dict(option.lstrip("-").partition("=")[::2] for option in found)


def test_slurm_asks_for_a_task_for_each_gpu_and_a_signal_to_the_tasks():
    options = directives()
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    # With a leading B:, Slurm would signal the batch shell alone.
    assert re.fullmatch(r"TERM@\d+", options["signal"])
    assert {"requeue", "open-mode"} <= options.keys()


def test_slurm_runs_the_program_on_all_tasks_and_ends_with_it(tmp_path):
    done, calls = slurm(tmp_path, "exit 0")
    assert done.returncode == 0, done.stderr
    [call] = calls
    assert call.endswith(f"{sys.executable} train.py --config configs/demo.py")
    # JAX picks the task's GPU among all of the node's.
    assert {"--gpu-bind=none", "--cpus-per-task=8", "--kill-on-bad-exit=0"} <= set(call.split())


def test_slurm_runs_experiments(tmp_path):
    program = ("-m", "agcnn_jax.experiments", "tau", "--config", "configs/demo.py")
    done, [call] = slurm(tmp_path, "exit 0", program=program)
    assert done.returncode == 0, done.stderr
    assert call.endswith(" ".join((sys.executable, *program)))


@pytest.mark.parametrize("status", [RUN_AGAIN, 137])
def test_slurm_queues_the_job_again(tmp_path, status):
    done, calls = slurm(tmp_path, f"exit {status}", restarts=2)
    assert done.returncode == status
    assert calls[1:] == ["scontrol requeue 4711"]


@pytest.mark.parametrize("status", [1, 2, 130])
def test_slurm_passes_other_statuses_on(tmp_path, status):
    done, calls = slurm(tmp_path, f"exit {status}")
    assert (done.returncode, len(calls)) == (status, 1)


def test_slurm_leaves_a_job_that_was_cancelled_alone(tmp_path):
    done, calls = slurm(tmp_path, f"kill -s TERM $PPID; exit {RUN_AGAIN}")
    assert (done.returncode, len(calls)) == (RUN_AGAIN, 1)
    assert "ended from outside" in done.stderr


def test_slurm_gives_up_after_max_requeues(tmp_path):
    done, calls = slurm(tmp_path, f"exit {RUN_AGAIN}", restarts=5, MAX_REQUEUES="5")
    assert (done.returncode, len(calls)) == (RUN_AGAIN, 1)
    assert "MAX_REQUEUES" in done.stderr


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"program": ()}, "no program"),
        ({"program": ("tarin.py",)}, "tarin.py"),
        ({"program": ("-m", "agcnn_jax.experiment")}, "-m"),
        ({"PYTHON": "no/python"}, "no/python"),
        ({"SLURM_JOB_ID": ""}, "not a Slurm job"),
        ({"MAX_REQUEUES": "many"}, "'many'"),
    ],
)
def test_slurm_names_mistakes_in_one_line(tmp_path, options, names):
    done, calls = slurm(tmp_path, "exit 0", **options)
    assert (done.returncode, calls) == (2, [])
    assert len(done.stderr.splitlines()) == 1
    assert names in done.stderr
