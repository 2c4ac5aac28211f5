"""A stand-in for Google Cloud."""

import shutil
import subprocess

import pytest

from tests.launch.scripts import LAUNCH, executable
from tests.support.programs import ROOT

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
