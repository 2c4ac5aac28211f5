"""Downloads by name, from a local server that answers as the hub does."""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from agcnn_jax.interop import hub, weights
from agcnn_jax.runtime.errors import UserError
from tests.support.hub import HubHandler
from tests.support.programs import run

NAME = "timm/resnet50.tv_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NAME, True),
        ("owner/model", True),
        ("model", False),
        ("weights/resnet50.pth", False),
        ("weights/m.pth.tar", False),
        ("a/b/c", False),
        ("/tmp/x", False),
        ("../x/y", False),
    ],
)
def test_what_is_a_name(text, expected):
    assert hub.is_hub_name(text) is expected


def test_an_existing_path_is_no_name(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner/model").write_text("")
    monkeypatch.chdir(tmp_path)
    assert not hub.is_hub_name("owner/model")


def test_every_pin_is_a_commit_and_a_digest():
    assert len(hub.PINNED) == len(hub.IMAGENET)
    for pin in hub.PINNED.values():
        assert len(bytes.fromhex(pin.revision)) == 20
        assert len(bytes.fromhex(pin.sha256)) == 32


def test_a_name_without_a_pin_needs_a_revision(tmp_path):
    with pytest.raises(UserError, match=r"owner/model: no revision.*--revision COMMIT"):
        hub.download("owner/model", None, tmp_path)


def test_another_file_than_the_pinned_is_refused():
    pin = hub.PINNED[NAME]
    hub.check_pin(NAME, pin.revision, pin.sha256)
    hub.check_pin(NAME, COMMIT, "00")
    hub.check_pin("owner/model", COMMIT, "00")
    with pytest.raises(UserError, match=pin.sha256):
        hub.check_pin(NAME, pin.revision, "00")


class Hub(http.server.ThreadingHTTPServer):
    """Serves `owner/model` at revisions `main` and COMMIT; `stall` never finishes a file."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Answers)
        self.content = content
        self.requests = []
        self.stall = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(HubHandler):
    def answer(self, body):
        self.server.requests.append(self.path)
        error = None
        if "/resolve/" not in self.path or "no/model" in self.path:
            error = "RepoNotFound"
        elif "/resolve/none/" in self.path:
            error = "RevisionNotFound"
        elif "empty/model" in self.path:
            error = "EntryNotFound"
        if error:
            self.refuse(error)
            return
        content = self.server.content
        pinned = hub.PINNED[NAME].revision
        commit = pinned if pinned in self.path else COMMIT
        self.begin(len(content), commit, hashlib.sha256(content).hexdigest())
        if body:
            half = len(content) // 2
            self.wfile.write(content[:half])
            self.wfile.flush()
            while self.server.stall:
                time.sleep(0.05)
            self.wfile.write(content[half:])


@pytest.fixture
def server(small_state):
    from safetensors.numpy import save

    pytest.importorskip("huggingface_hub")
    server = Hub(save(small_state, {"format": "pt"}))
    yield server
    server.stall = False
    server.shutdown()
    server.server_close()


def call(tmp_path, endpoint, *arguments):
    """Return the arguments for `run` or `subprocess.Popen` that convert weights from a hub."""
    (tmp_path / "home").mkdir(exist_ok=True)
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": f"{tmp_path}/home", "NO_PROXY": "127.0.0.1"}
    command = ["data_prep/torch_weights.py", *arguments, "--out", str(tmp_path / "out/w")]
    return command, {**os.environ, **variables, "PYTHONPATH": "."}


def convert(tmp_path, endpoint, *arguments):
    """Convert; return exit status, standard output and standard error."""
    command, environment = call(tmp_path, endpoint, *arguments)
    done = run(*command, env=environment, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_download(tmp_path, server):
    arguments = ("--weights", "owner/model", "--revision", "main", "--backbone", "resnet_small")
    status, out, err = convert(tmp_path, server.url, *arguments)
    assert status == 0, err
    about = weights.describe(tmp_path / "out/w")
    assert about["source"] == f"owner/model@{COMMIT}"
    assert about["files"][0]["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert f"owner/model@{COMMIT}" in out
    assert os.listdir(tmp_path / "out") == ["w"]
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def one_line(err):
    return [line for line in err.splitlines() if line.startswith("torch_weights.py: error:")]


def test_the_pinned_commit_is_asked_for_and_its_file_checked(tmp_path, server):
    arguments = ("--weights", NAME, "--backbone", "resnet50")
    status, _, err = convert(tmp_path, server.url, *arguments)
    pin = hub.PINNED[NAME]
    assert any(f"/{NAME}/resolve/{pin.revision}/model.safetensors" in r for r in server.requests)
    assert status == 2
    assert pin.sha256 in one_line(err)[0]
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("no/model", "main", "the hub has no such model"),
        ("owner/model", "none", "no such revision"),
        ("empty/model", "main", "has no file model.safetensors"),
    ],
)
def test_the_hub_says_no(tmp_path, server, name, revision, message):
    arguments = ("--weights", name, "--revision", revision, "--backbone", "resnet50")
    status, _, err = convert(tmp_path, server.url, *arguments)
    assert status == 2
    assert message in one_line(err)[0]
    assert "Traceback" not in err


def test_a_cache_that_cannot_be_written_is_named(monkeypatch):
    import huggingface_hub

    # As the client does in a home of which there is none.
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_, **__: os.makedirs("/dev/null/hub")
    )
    with pytest.raises(UserError) as caught:
        hub.fetch("owner/model", "file", "main", "--from x", instead="it", missing="look again")
    assert str(caught.value).startswith("/dev/null/hub cannot be written: Not a directory; ")
    assert "HF_HOME" in str(caught.value)


@pytest.mark.slow
def test_unreachable(tmp_path):
    arguments = ("--weights", NAME, "--backbone", "resnet50")
    status, _, err = convert(tmp_path, "http://127.0.0.1:9", *arguments)
    assert status == 2
    (line,) = one_line(err)
    assert "cannot be reached" in line
    pin = hub.PINNED[NAME]
    assert f"https://huggingface.co/{NAME}/resolve/{pin.revision}/model.safetensors" in line
    assert "Traceback" not in err
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_download_leaves_nothing(tmp_path, server, how):
    server.stall = True
    arguments = ("--weights", "owner/model", "--revision", "main", "--backbone", "resnet_small")
    command, environment = call(tmp_path, server.url, *arguments)
    process = subprocess.Popen(
        [sys.executable, "tests/support/tiny.py", *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert os.listdir(tmp_path / "out") == []
    server.stall = False
    assert convert(tmp_path, server.url, *arguments)[0] == 0
