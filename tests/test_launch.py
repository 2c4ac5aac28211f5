"""The scripts of launch/, with tiny commands and stand-ins for gcloud, srun and scontrol."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from configs import common
from tests.programs import ROOT, run

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run"])
JOBSETS = sorted(LAUNCH.glob("jobset_*.yaml"))
RUN_AGAIN = 75


def script(path, *arguments, env=None, cwd=ROOT, timeout=60):
    """Run a script to its end, with additional environment variables."""
    return subprocess.run(
        [str(path), *[str(argument) for argument in arguments]],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def executable(path, body):
    """Write a bash script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}")
    path.chmod(0o755)
    return path


def on_path(folder):
    """An environment in which a folder's programs come before the system's."""
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# All scripts.


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path):
    shellcheck = shutil.which("shellcheck") or f"{sys.prefix}/bin/shellcheck"
    done = script(shellcheck, path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path):
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


# until_done.sh


def until_done(*command, **env):
    return script(LAUNCH / "until_done.sh", *command, env={"UNTIL_DONE_WAIT": "0", **env})


def counting(tmp_path, *statuses):
    """A command that ends with one status after the other and counts its runs in `runs`."""
    body = f'echo run >> "{tmp_path}/runs"\nstatuses=({" ".join(map(str, statuses))})\n'
    body += f'exit "${{statuses[$(wc -l < "{tmp_path}/runs") - 1]}}"\n'
    return executable(tmp_path / "command", body)


def runs(tmp_path):
    return len((tmp_path / "runs").read_text().splitlines())


@pytest.mark.parametrize("last", [0, 1, 2, 130, 137])
def test_until_done_runs_again_after_75_and_passes_other_statuses_on(tmp_path, last):
    done = until_done(counting(tmp_path, RUN_AGAIN, RUN_AGAIN, last))
    assert (done.returncode, runs(tmp_path)) == (last, 3)


def test_until_done_passes_arguments_and_output_on():
    done = until_done("printf", "%s|", "a b", "*", "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a b|*||", "")


def test_until_done_gives_up_after_max_tries(tmp_path):
    command = counting(tmp_path, *[RUN_AGAIN] * 9)
    done = until_done(command, UNTIL_DONE_MAX_TRIES="3")
    assert (done.returncode, runs(tmp_path)) == (RUN_AGAIN, 3)
    assert "3 tries" in done.stderr.splitlines()[-1]


def test_until_done_waits_longer_each_time_up_to_the_longest(tmp_path):
    (tmp_path / "sleep").write_text(f'#!/usr/bin/env bash\necho "$1" >> "{tmp_path}/waits"\n')
    (tmp_path / "sleep").chmod(0o755)
    command = counting(tmp_path, *[RUN_AGAIN] * 5, 0)
    settings = {"UNTIL_DONE_WAIT": "2", "UNTIL_DONE_MAX_WAIT": "10", **on_path(tmp_path)}
    assert until_done(command, **settings).returncode == 0
    assert (tmp_path / "waits").read_text().split() == ["2", "4", "8", "10", "10"]


@pytest.mark.parametrize(
    ("sent", "received"),
    [(signal.SIGTERM, "TERM"), (signal.SIGHUP, "TERM"), (signal.SIGINT, "INT")],
)
def test_until_done_hands_signals_on_and_does_not_run_again(tmp_path, sent, received):
    # Python handles SIGINT only if its parent does not ignore it.
    command = tmp_path / "command.py"
    command.write_text(
        "import pathlib, signal, sys, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "def leave(number, frame):\n"
        "    (here / 'received').write_text(signal.Signals(number).name)\n"
        "    time.sleep(0.5)\n"
        "    sys.exit(75)\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "signal.signal(signal.SIGINT, leave)\n"
        "with open(here / 'runs', 'a') as file:\n"
        "    print('run', file=file)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [LAUNCH / "until_done.sh", sys.executable, command],
        env={**os.environ, "UNTIL_DONE_WAIT": "0"},
    )
    wait_until((tmp_path / "runs").exists)
    process.send_signal(sent)
    assert process.wait(timeout=20) == RUN_AGAIN
    assert (tmp_path / "received").read_text() == f"SIG{received}"
    assert runs(tmp_path) == 1


def test_until_done_told_to_stop_between_two_runs_leaves_with_75(tmp_path):
    process = subprocess.Popen(
        [LAUNCH / "until_done.sh", counting(tmp_path, RUN_AGAIN, 0)],
        env={**os.environ, "UNTIL_DONE_WAIT": "60"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "the same command again in 60 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == RUN_AGAIN
    assert runs(tmp_path) == 1


@pytest.mark.parametrize(
    ("command", "env", "names"),
    [
        ([], {}, "no command"),
        (["true"], {"UNTIL_DONE_WAIT": "1m"}, "'1m'"),
        (["true"], {"UNTIL_DONE_MAX_TRIES": "-1"}, "'-1'"),
    ],
)
def test_until_done_names_mistakes_in_one_line(command, env, names):
    done = until_done(*command, **env)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert names in done.stderr


# slurm.sbatch


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


# tpu_v5e.sh and tpu_worker.sh

PROGRAM = ["train.py", "--config", "configs/demo.py", "--workdir", "gs://bucket/runs/demo"]

# A Google Cloud of two files: `states`, the answers to describe, of which the last is repeated; and
# `calls`. Its hosts are folders. create adds ACTIVE; delete removes hosts and states.
GCLOUD = r"""
here=$(dirname "$0")/..
echo "$*" >> "$here/calls"
case "$*" in
  *" describe "*)
    state=$(head -n 1 "$here/states")
    if [[ $(wc -l < "$here/states") -gt 1 ]]; then sed -i 1d "$here/states"; fi
    if [[ -z $state ]]; then echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; fi
    echo "$state"
    ;;
  *" create "*) cat "$here/after_create" > "$here/states" ;;
  *" delete "*) rm -rf "$here"/host-*; echo > "$here/states" ;;
  *" ssh "*)
    [[ ! -e $here/broken ]] || exit 255
    for number in 0 1 2 3; do
      mkdir -p "$here/host-w-$number"
      for argument; do
        case $argument in
          --command=*) 
            (cd "$here/host-w-$number" && HOME=$PWD bash -c "${argument#--command=}") || exit
            ;;
        esac
      done
    done
    ;;
  *" scp "*)
    for number in 0 1 2 3; do
      mkdir -p "$here/host-w-$number" && cp "$5" "$here/host-w-$number/agcnn.tar.gz"
    done
    ;;
esac
"""

# A host's Python: installing makes an environment whose Python is the test's `program`.
PYTHON3 = r"""
echo "$(basename "$HOME") $*" >> "$(dirname "$0")/../installs"
if [[ $3 == venv ]]; then
  mkdir -p .venv/bin && cp "$(dirname "$0")/../program" .venv/bin/python
fi
"""


@pytest.fixture
def cloud(tmp_path):
    """A cloud in a folder, with a repository that has the scripts of this one."""
    repository = tmp_path / "repository"
    shutil.copytree(LAUNCH, repository / "launch")
    shutil.copy(ROOT / "requirements.lock", repository)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "."]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    executable(tmp_path / "bin" / "gcloud", GCLOUD)
    executable(tmp_path / "bin" / "python3", PYTHON3)
    executable(tmp_path / "bin" / "hostname", 'echo "t1v-n-0123-$(basename "$HOME" | cut -c6-)"\n')
    executable(tmp_path / "program", "exit 0\n")
    (tmp_path / "states").write_text("\n")
    (tmp_path / "after_create").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    return tmp_path


def tpu(cloud, action, *options, program=PROGRAM, env=None):
    """Run tpu_v5e.sh; return how it ended and the calls of gcloud, as words."""
    arguments = [action, "--zone", "us-west4-a", "--poll", "0", *options]
    if program:
        arguments += ["--", *program]
    done = script(
        cloud / "repository" / "launch" / "tpu_v5e.sh",
        *arguments,
        env={**on_path(cloud / "bin"), **(env or {})},
        timeout=120,
    )
    calls = cloud / "calls"
    return done, [shlex.split(call) for call in calls.read_text().splitlines()] if (
        calls.exists()
    ) else []


def verbs(calls):
    """The verbs of calls about queued resources, without describe."""
    return [call[3] for call in calls if call[2] == "queued-resources" and call[3] != "describe"]


def test_tpu_dry_run_prints_the_commands_and_runs_none(cloud):
    done, calls = tpu(
        cloud,
        "run",
        *("--dry-run", "--spot", "--name", "chest", "--project", "p", "--type", "v5litepod-32"),
        *("--service-account", "a@p", "--create-flags", "--network=n --tags=t", "--setup", "ls -a"),
    )
    assert (done.returncode, done.stderr, calls) == (0, "", [])
    create, describe, archive, scp, unpack, install, setup, start, status, delete = (
        shlex.split(line) for line in done.stdout.splitlines()
    )
    place = ["--zone=us-west4-a", "--project=p"]
    assert create == [
        *("gcloud", "compute", "tpus", "queued-resources", "create", "chest", "--node-id=chest"),
        *("--accelerator-type=v5litepod-32", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
        *("--service-account=a@p", "--network=n", "--tags=t", *place),
    ]
    assert describe[3:] == [
        *("queued-resources", "describe", "chest", "--format=value(state.state)", *place)
    ]
    assert archive[:2] == ["git", "-C"]
    assert archive[-1] == "HEAD"
    assert scp[3:5] == ["tpu-vm", "scp"]
    assert scp[6:] == ["chest:agcnn.tar.gz", "--worker=all", "--quiet", *place]
    for call in (unpack, install, setup, start, status):
        assert call[3:8] == ["tpu-vm", "ssh", "chest", "--worker=all", "--quiet"]
        assert call[9:] == place
    assert setup[8] == "--command=cd agcnn/code && ls -a"
    worker = "agcnn/code/launch/tpu_worker.sh"
    assert shlex.split(start[8].removeprefix("--command=")) == [worker, "start", *PROGRAM]
    assert delete[4:] == ["delete", "chest", "--force", "--quiet", *place]


def test_tpu_dry_run_clones_a_repository(cloud):
    options = ("--dry-run", "--repo", "https://example.org/agcnn", "--commit", "v1")
    done, _ = tpu(cloud, "run", *options)
    assert "scp" not in done.stdout
    clone = next(line for line in done.stdout.splitlines() if "clone" in line)
    assert "https://example.org/agcnn agcnn/code" in " ".join(shlex.split(clone))
    assert "checkout --quiet v1" in " ".join(shlex.split(clone))


def test_tpu_options_are_read_from_the_environment(cloud):
    env = {"AGCNN_TPU_NAME": "mine", "AGCNN_TPU_SPOT": "1", "AGCNN_TPU_TYPE": "v5litepod-8"}
    done, _ = tpu(cloud, "run", "--dry-run", env=env)
    create = shlex.split(done.stdout.splitlines()[0])
    assert {"mine", "--spot", "--accelerator-type=v5litepod-8"} <= set(create)


def test_tpu_runs_the_program_on_all_hosts_until_it_is_done(cloud):
    # All hosts start again after each of the two statuses 75.
    executable(
        cloud / "program",
        'echo "$(basename "$HOME") $*" >> "$HOME/../ran"\n'
        '[[ $(grep -c "$(basename "$HOME")" "$HOME/../ran") -gt 2 ]] || exit 75\n',
    )
    done, calls = tpu(cloud, "run")
    assert done.returncode == 0, done.stderr
    assert verbs(calls) == ["create", "delete"]
    ran = (cloud / "ran").read_text().splitlines()
    assert sorted(ran) == sorted(f"host-w-{n} {' '.join(PROGRAM)}" for n in range(4) for _ in "123")
    installs = (cloud / "installs").read_text().splitlines()
    assert len(installs) == 4 * 3
    assert (
        "host-w-3 -m uv pip install --quiet --python .venv/bin/python -c requirements.lock"
        in (installs[-1])
    )
    assert "WAITING_FOR_RESOURCES" in done.stderr


def test_tpu_asks_for_another_slice_when_it_was_taken_away(cloud):
    # The first slice is preempted while the program runs; the program ends on the second.
    executable(
        cloud / "program",
        'echo "$(basename "$HOME")" >> "$HOME/../ran"\n'
        'if [[ $(grep -c "$(basename "$HOME")" "$HOME/../ran") -eq 1 ]]; then\n'
        '  echo SUSPENDING > "$HOME/../states"; echo SUSPENDED >> "$HOME/../states"; exit 137\n'
        "fi\n",
    )
    done, calls = tpu(cloud, "run", "--spot")
    assert done.returncode == 0, done.stderr
    assert verbs(calls) == ["create", "delete", "create", "delete"]
    assert "requesting another" in done.stderr
    created = [call for call in calls if call[3] == "create"]
    assert created[0] == created[1]
    assert "--spot" in created[0]
    assert len((cloud / "ran").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("others", "one", "expected"),
    [(RUN_AGAIN, 2, 2), (RUN_AGAIN, 1, 1), (2, 1, 2), (0, 0, 0)],
)
def test_tpu_ends_with_the_status_of_the_cause(cloud, others, one, expected):
    executable(
        cloud / "program", f"[[ $HOME == *-2 ]] && exit {one}\necho from $HOME\nexit {others}\n"
    )
    done, calls = tpu(cloud, "run")
    assert done.returncode == expected, done.stderr
    assert verbs(calls) == ["create", "delete"]
    assert "host-w-3" in done.stdout  # the end of the log


def test_tpu_gives_up_after_max_tries_and_keeps_the_slice_if_asked_to(cloud):
    executable(cloud / "program", 'echo x >> "$HOME/../ran"; exit 75\n')
    done, calls = tpu(cloud, "run", "--max-tries", "2", "--keep")
    assert done.returncode == RUN_AGAIN
    assert verbs(calls) == ["create"]
    assert len((cloud / "ran").read_text().splitlines()) == 2 * 4


def test_tpu_waits_for_a_program_that_is_at_work_already(cloud):
    executable(
        cloud / "program",
        'echo x >> "$HOME/../ran"\n'
        "trap 'exit 75' TERM\n"
        "until [[ -e $HOME/../go ]]; do sleep 0.05; done\n",
    )
    # After an interrupted call, as by Ctrl-C, the slice keeps running.
    arguments = [cloud / "repository/launch/tpu_v5e.sh", "run", "--zone=z"]
    arguments[2:] = ["--zone", "us-west4-a", "--poll", "0", "--", *PROGRAM]
    first = subprocess.Popen(
        arguments, env={**os.environ, **on_path(cloud / "bin")}, stderr=subprocess.PIPE, text=True
    )
    for line in first.stderr:
        if "started on 4 host(s)" in line:
            break
    first.terminate()
    first.wait(timeout=20)
    states, _ = tpu(cloud, "status", program=None)
    assert [line.split()[:3] for line in states.stdout.splitlines()[1:]] == [
        ["agcnn-worker", str(number), "running"] for number in range(4)
    ]
    (cloud / "after_create").unlink()  # any create would fail
    second = subprocess.Popen(
        arguments, env={**os.environ, **on_path(cloud / "bin")}, stderr=subprocess.PIPE, text=True
    )
    for line in second.stderr:
        if "already running there" in line:
            break
    (cloud / "go").touch()
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert len((cloud / "ran").read_text().splitlines()) == 4


def test_tpu_stop_lets_the_program_save_and_ends_the_waiting(cloud):
    executable(
        cloud / "program",
        "trap 'echo saved; exit 75' TERM\n"
        'echo x >> "$HOME/../ran"\n'
        "while true; do sleep 0.05; done\n",
    )
    arguments = [cloud / "repository/launch/tpu_v5e.sh", "run", "--zone", "z", "--poll", "0"]
    running = subprocess.Popen(
        [*arguments, "--", *PROGRAM],
        env={**os.environ, **on_path(cloud / "bin")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in running.stderr:
        if "started on 4 host(s)" in line:
            break
    # Wait until all of them can be signalled.
    end = time.monotonic() + 60
    while not (cloud / "ran").exists() or (cloud / "ran").read_text().count("x") < 4:
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)
    stopped, _ = tpu(cloud, "stop", program=None)
    assert stopped.returncode == 0, stopped.stderr
    output, _ = running.communicate(timeout=60)
    assert running.returncode == RUN_AGAIN
    assert output.count("saved") == 4
    assert len((cloud / "ran").read_text().splitlines()) == 4


def test_tpu_gives_up_on_a_request_that_failed(cloud):
    (cloud / "after_create").write_text("WAITING_FOR_RESOURCES\nFAILED\n")
    done, calls = tpu(cloud, "run")
    assert done.returncode == 1
    assert "the request failed" in done.stderr.splitlines()[-1]
    assert verbs(calls) == ["create"]


def test_tpu_gives_up_when_the_hosts_stay_out_of_reach(cloud):
    (cloud / "broken").touch()
    done, calls = tpu(cloud, "run")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr.splitlines()[-1]
    assert "delete --name agcnn" in done.stderr.splitlines()[-1]
    assert verbs(calls) == ["create"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "''"),
        (["train"], "'train'"),
        (["status"], "--zone"),
        (["status", "--zone"], "--zone needs a value"),
        (["status", "--zone=z"], "--zone=z"),
        (["run", "--zone", "z", "--type", "v5e-16", "--", *PROGRAM], "'v5e-16'"),
        (["run", "--zone", "z", "--name", "Chest", "--", *PROGRAM], "'Chest'"),
        (["run", "--zone", "z", "--poll", "1m", "--", *PROGRAM], "'1m'"),
        (["run", "--zone", "z", "--commit", "nowhere", "--", *PROGRAM], "'nowhere'"),
        (["run", "--zone", "z"], "train.py"),
        (["run", "--zone", "z", "--", "python", "train.py"], "'python'"),
        (["run", "--zone", "z", "--", "train.py", "--workdir", "runs/x"], "gs://"),
        (["run", "--zone", "z", "--", "train.py", "--workdir=gs://"], "gs://"),
    ],
)
def test_tpu_names_mistakes_in_one_line(cloud, arguments, names):
    scripts = cloud / "repository" / "launch"
    done = script(scripts / "tpu_v5e.sh", *arguments, env=on_path(cloud / "bin"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert names in done.stderr
    assert not (cloud / "calls").exists()


def test_tpu_help_names_all_options():
    done = script(LAUNCH / "tpu_v5e.sh", "--help")
    assert done.returncode == 0
    parsing = re.search(r"^while .*?^done", (LAUNCH / "tpu_v5e.sh").read_text(), re.M | re.S)[0]
    options = {*re.findall(r"--[a-z][a-z-]+", parsing)}
    assert len(options) > 12
    assert options <= {*re.findall(r"--[a-z][a-z-]+", done.stdout)}


# The manifests.


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.name)
def test_jobset_restarts_on_75_and_fails_on_a_mistake(path):
    jobset = yaml.safe_load(path.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    # The first pod that fails ends the job; its status selects the policy.
    assert spec["backoffLimit"] == 0
    [rule] = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    assert RUN_AGAIN in rule["onExitCodes"]["values"]
    assert not {0, 1, 2} & set(rule["onExitCodes"]["values"])
    assert spec["parallelism"] == spec["completions"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy requires it
    assert pod["terminationGracePeriodSeconds"] >= 30
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def pod_of(name):
    jobset = yaml.safe_load((LAUNCH / name).read_text())
    [job] = jobset["spec"]["replicatedJobs"]
    return jobset, job, job["template"]["spec"]["template"]["spec"]


def test_jobset_tpu_has_a_pod_for_each_host_of_its_topology():
    _, job, pod = pod_of("jobset_tpu.yaml")
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert job["template"]["spec"]["parallelism"] * chips == int(rows) * int(columns)


def test_jobset_gpu_names_its_first_pod_as_coordinator():
    jobset, job, pod = pod_of("jobset_gpu.yaml")
    [container] = pod["containers"]
    flags = dict(word.split("=", 1) for word in container["command"] if word.startswith("--"))
    host, port = flags["--coordinator_address"].split(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert container["ports"] == [{"containerPort": int(port)}]
    assert int(flags["--num_processes"]) == job["template"]["spec"]["parallelism"]
    assert flags["--process_id"] == "$(JOB_COMPLETION_INDEX)"


def test_dockerfile_installs_the_locked_versions_of_an_extra():
    text = (LAUNCH / "Dockerfile").read_text()
    assert '-c requirements.lock -e ".[$EXTRA,gcs]"' in text
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"EXTRA=(\w+)", text):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    for copied in re.search(r"^COPY (.*) \./$", text, re.MULTILINE)[1].split():
        assert (ROOT / copied).is_file()


# The commands in launch/ and its documentation.


def commands():
    """Yield the file, the program and the options of each command with train.py or eval.py."""
    for path in [*SCRIPTS, *JOBSETS, LAUNCH / "Dockerfile", ROOT / "docs" / "pods.md"]:
        if path in JOBSETS:
            texts = [" ".join(pod_of(path.name)[2]["containers"][0]["command"])]
        else:
            texts = path.read_text().replace("\\\n", " ").splitlines()
        for text in texts:
            for program, options in re.findall(r"\b(train\.py|eval\.py)\b( --[^`|;&]*)", text):
                yield path.name, program, re.findall(r" --([\w.]+)", options)
    # Options that the documentation names outside a command.
    text = (ROOT / "docs" / "pods.md").read_text()
    for option in re.findall(r"`--(config\.[\w.]+|config|workdir)[=`]", text):
        yield "pods.md", "train.py", [option]
    for key in re.findall(r"`config\.([\w.]+)`", text):
        yield "pods.md", "train.py", [f"config.{key}"]


def test_options_in_launch_and_its_documentation_exist():
    found = list(commands())
    assert {"jobset_tpu.yaml", "jobset_gpu.yaml", "slurm.sbatch", "tpu_v5e.sh", "pods.md"} <= {
        name for name, _, _ in found
    }
    config = common.get_config()
    flags = {
        program: set(re.findall(r"^  --(\w+)", run(program, "--help").stdout, re.MULTILINE))
        for program in ("train.py", "eval.py")
    }
    unknown = set()
    for name, program, options in found:
        for option in options:
            key, value = option.removeprefix("config."), config
            if key != option:
                for part in key.split("."):
                    value = value.get(part) if hasattr(value, "get") else None
                if value is None:
                    unknown.add((name, option))
            elif option not in flags[program] | {"help"}:
                unknown.add((name, option))
    assert not unknown
