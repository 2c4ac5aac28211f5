"""All scripts, and the commands in launch/ and its documentation."""

import os
import re
import shutil
import sys

import pytest

from agcnn_jax.configs import common
from tests.launch.scripts import JOBSETS, LAUNCH, SCRIPTS, pod_of, script
from tests.support.programs import ROOT, run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path):
    shellcheck = shutil.which("shellcheck") or f"{sys.prefix}/bin/shellcheck"
    done = script(shellcheck, path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path):
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


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
