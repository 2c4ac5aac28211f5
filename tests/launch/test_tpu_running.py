"""launch/tpu_v5e.sh while a program runs on the slice."""

import os
import subprocess
import time

from tests.launch.scripts import LAUNCH, RUN_AGAIN, executable, on_path, script
from tests.launch.tpu import PROGRAM, tpu


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


def test_worker_waits_for_the_status_of_a_program_that_has_just_ended(tmp_path):
    folder = tmp_path / "agcnn"
    folder.mkdir()
    ended = subprocess.run(["bash", "-c", "echo $$"], capture_output=True, text=True, check=True)
    (folder / "pid").write_text(ended.stdout)
    writer = subprocess.Popen(["bash", "-c", f"sleep 0.5; echo 0 > '{folder}/status'"])
    done = script(LAUNCH / "tpu_worker.sh", "status", env={"HOME": str(tmp_path)})
    writer.wait()
    assert done.stdout.split()[2] == "0"


def test_worker_on_a_host_that_restarted_has_no_program(tmp_path):
    folder = tmp_path / "agcnn"
    folder.mkdir()
    (folder / "pid").write_text("999999999\n")
    done = script(LAUNCH / "tpu_worker.sh", "status", env={"HOME": str(tmp_path)})
    assert done.stdout.split()[2] == "none"


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
