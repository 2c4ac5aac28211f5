"""The Python that `make` chooses among scripts that pretend to be one, in a path with blanks."""

import os
import shutil
import subprocess
import tomllib

import pytest

from tests.support.programs import ROOT

MAKE = shutil.which("make")
CLONE = "Ärzte und Forschung"

PYTHON = """#!/bin/sh
case "$1 $2" in
  *print*) echo {version} ;;
  *"import pip"*) exit {pip} ;;
  -c*) exit {status} ;;
  "-m venv")
    echo "{name} makes it" >&2
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python ;;
  "-m pip")
    for last; do :; done
    echo "$last" >> installs
    echo "{name} installs" >&2 ;;
esac
"""

# pyenv puts this on the PATH for a version that is installed but not chosen.
SHIM = """#!/bin/sh
echo "pyenv: $0: command not found" >&2
exit 127
"""


@pytest.fixture
def folder(tmp_path):
    """A folder to call make in, beside a PATH with the tools of recipes but no Python."""
    (tmp_path / CLONE).mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / CLONE)
    for tool in ("sh", "cp", "mkdir", "touch"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


# Stands for the system's df where the environment lies on a share whose name has a blank.
DF = """#!/bin/sh
echo "Filesystem 1048576-blocks Used Available Capacity Mounted on"
echo "//nas/our films 100000 1 {version} 1% /mnt/our films"
"""


def put(folder, name, version="3.11", status=0, pip=None, text=PYTHON):
    script = folder / "bin" / name
    pip = status if pip is None else pip
    script.write_text(text.format(name=name, version=version, status=status, pip=pip))
    script.chmod(0o755)
    return script


def make(folder, *arguments, status=0, target="install", **environment):
    done = subprocess.run(
        [MAKE, target, *arguments],
        cwd=folder / CLONE,
        env={"PATH": str(folder / "bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()


def used(name):
    return [f"{name} makes it", f"{name} installs"]


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (("python3.11", "python3.12", "python3.13", "python3.14", "python3"), "python3.14"),
        (("python3.11", "python3.12", "python3.13", "python3"), "python3.13"),
        (("python3.11", "python3.12", "python3"), "python3.12"),
        (("python3.11", "python3"), "python3.11"),
        (("python3",), "python3"),
    ],
)
def test_the_newest(folder, found, chosen):
    for name in found:
        put(folder, name)
    assert make(folder) == used(chosen)


def test_names_that_do_not_run_are_passed_over_in_silence(folder):
    for name in ("python3.14", "python3.13", "python3.12"):
        put(folder, name, text=SHIM)
    put(folder, "python3.11")
    assert make(folder) == used("python3.11")


def test_the_one_that_is_named(folder):
    for name in ("python3.13", "python3.12", "mine"):
        put(folder, name)
    assert make(folder, "PYTHON=python3.12") == used("python3.12")
    shutil.rmtree(folder / CLONE / ".venv")
    assert make(folder, PYTHON=str(folder / "bin" / "mine")) == used("mine")


@pytest.mark.parametrize(
    ("scripts", "arguments", "named"),
    [
        ({}, (), "no Python on the PATH"),
        ({"python3": 1}, (), "no Python on the PATH"),
        ({"python3.12": 0, "python3": 1}, ("PYTHON=python3",), "python3"),
        ({"python3.12": 0}, ("PYTHON=python4",), "python4"),
    ],
)
def test_none_that_can_be_used(folder, scripts, arguments, named):
    for name, status in scripts.items():
        put(folder, name, status=status)
    line, *rest = make(folder, *arguments, status=2)
    assert line.startswith(f"{named} is not a Python 3.11 or newer")
    assert line.endswith("make PYTHON=/path/to/python3.14 install")
    assert all(other.startswith("make: ***") for other in rest)
    assert not (folder / CLONE / ".venv").exists()


def installs(folder):
    """What pip was asked for since the last call."""
    path = folder / CLONE / "installs"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_a_python_without_pip_says_so(folder):
    put(folder, "python3.12", pip=1)
    for arguments in ((), ("PYTHON=python3.12",)):
        line, *rest = make(folder, *arguments, status=2)
        assert line.startswith("python3.12 has no pip, which installs the packages: get it from")
        assert all(other.startswith("make: ***") for other in rest)
    assert not (folder / CLONE / ".venv").exists()
    put(folder, "python3.11")
    assert make(folder) == used("python3.11")


def test_a_disk_with_too_little_space_is_named(folder):
    put(folder, "python3.12")
    put(folder, "df", version=1199, text=DF)
    line, *rest = make(folder, status=2)
    assert "takes more than 1200 MB, and 1199 MB are free there" in line
    assert all(other.startswith("make: ***") for other in rest)
    assert not (folder / CLONE / ".venv").exists()
    put(folder, "df", version=1200, text=DF)
    assert make(folder) == used("python3.12")
    line, *_ = make(folder, "EXTRA=cuda,dicom", status=2)
    assert "takes more than 4050 MB, and 1200 MB are free there" in line
    assert make(folder) == []


class TestExtras:
    @pytest.fixture(autouse=True)
    def python(self, folder):
        put(folder, "python3.11", "3.11")

    def test_the_makefile_knows_those_of_the_package(self):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())
        extras = known["project"]["optional-dependencies"]
        (line,) = [
            line for line in (ROOT / "Makefile").read_text().splitlines()
            if line.startswith("EXTRAS := ")
        ]  # fmt: skip
        assert set(line.split()[2:]) == set(extras)

    def test_are_installed_together_and_stay(self, folder):
        make(folder)
        assert installs(folder) == [".[train]"]
        make(folder, "EXTRA=dicom")
        assert installs(folder) == [".[dicom,train]"]
        make(folder, "EXTRA=dicom")
        assert installs(folder) == []
        make(folder, "EXTRA=s3,cuda")
        assert installs(folder) == [".[cuda,dicom,s3,train]"]
        make(folder, target=".venv/installed-test")
        assert installs(folder) == [".[cuda,dicom,s3,test,train]"]
        make(folder)
        assert installs(folder) == []

    def test_stay_when_packages_change_or_the_environment_is_made_again(self, folder):
        make(folder, "EXTRA=cuda")
        os.utime(folder / CLONE / ".venv" / "installed", (1, 1))  # before pyproject.toml
        make(folder)
        put(folder, "python3.13", "3.13")
        make(folder, "PYTHON=python3.13")
        assert installs(folder) == [".[cuda,train]"] * 3

    def test_that_failed_are_installed_by_the_next_call(self, folder):
        make(folder)
        put(folder, "python3.11", text=PYTHON.replace('echo "$last"', "exit 1"))
        make(folder, "EXTRA=cuda", status=2)
        put(folder, "python3.11")
        installs(folder)
        make(folder, "EXTRA=cuda")
        assert installs(folder) == [".[cuda,train]"]

    def test_an_unknown_one_is_refused_by_name(self, folder):
        (line,) = make(folder, "EXTRA=dicom,cud", status=2)
        assert "there is no extra cud; the extras are cuda tpu gcs s3 dicom" in line
        assert not (folder / CLONE / ".venv").exists()


class TestAnEnvironmentThatIsThere:
    @pytest.fixture(autouse=True)
    def environment(self, folder):
        put(folder, "python3.11", "3.11")
        make(folder)

    def test_is_kept_though_a_newer_python_came(self, folder):
        put(folder, "python3.13", "3.13")
        assert make(folder) == []

    def test_is_kept_if_its_own_version_is_named(self, folder):
        put(folder, "python3", "3.11")
        assert make(folder, "PYTHON=python3") == []
        assert make(folder, "PYTHON=.venv/bin/python") == []

    def test_is_made_again_with_another_that_is_named(self, folder):
        put(folder, "python3.13", "3.13")
        assert make(folder, "PYTHON=python3.13") == used("python3.13")
        assert make(folder, "PYTHON=python3.13") == []
        assert make(folder) == []

    def test_is_kept_if_the_named_one_cannot_be_used(self, folder):
        line, *_ = make(folder, "PYTHON=python4", status=2)
        assert line.startswith("python4 is not")
        assert (folder / CLONE / ".venv" / "made").exists()
        assert make(folder) == []

    def test_is_made_again_if_its_python_is_gone(self, folder):
        (folder / CLONE / ".venv" / "bin" / "python").unlink()
        assert make(folder) == used("python3.11")


def test_help_looks_for_none(folder):
    done = subprocess.run([MAKE], cwd=folder / CLONE, env={"PATH": ""}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
