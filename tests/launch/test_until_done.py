"""launch/until_done.sh with tiny commands."""

import os
import signal
import subprocess
import sys

import pytest

from tests.launch.scripts import LAUNCH, RUN_AGAIN, executable, on_path, script, wait_until


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
        # Tests under nohup ignore it, and a shell cannot trap what it was started to ignore.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
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
