"""The scripts and manifests of launch/, and how tests run them."""

import os
import subprocess
import time

import yaml

from tests.support.programs import ROOT

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


def pod_of(name):
    jobset = yaml.safe_load((LAUNCH / name).read_text())
    [job] = jobset["spec"]["replicatedJobs"]
    return jobset, job, job["template"]["spec"]["template"]["spec"]
