"""Calls of tpu_v5e.sh against the `cloud` of conftest.py."""

import shlex

from tests.launch.scripts import on_path, script

PROGRAM = ["train.py", "--config", "configs/demo.py", "--workdir", "gs://bucket/runs/demo"]


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
