"""launch/tpu_v5e.sh and tpu_worker.sh with a stand-in for gcloud."""

import re
import shlex

import pytest

from tests.launch.scripts import LAUNCH, RUN_AGAIN, executable, on_path, script
from tests.launch.tpu import PROGRAM, tpu, verbs


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


def test_tpu_runs_experiments(cloud):
    executable(cloud / "program", 'echo "$(basename "$HOME") $*" >> "$HOME/../ran"\n')
    program = ["-m", "agcnn_jax.experiments", "tau", "--workdir", "gs://bucket/runs/tau"]
    done, _ = tpu(cloud, "run", program=program)
    assert done.returncode == 0, done.stderr
    ran = (cloud / "ran").read_text().splitlines()
    assert sorted(ran) == [f"host-w-{n} {' '.join(program)}" for n in range(4)]


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
        (["run", "--zone", "z", "--", "python", "train.py"], "'python train.py'"),
        (["run", "--zone", "z", "--", "-m", "agcnn_jax.predict"], "'-m agcnn_jax.predict'"),
        (["run", "--zone", "z", "--", "-m", "agcnn_jax.experiments", "tau"], "gs://"),
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
