"""An interrupted run leaves no dataset, and the same command completes it."""

import errno
import os
import signal
import subprocess
import termios
import time

import pytest
from array_record.python import array_record_module

from agcnn_jax.runtime.errors import UserError
from tests.data_prep.nih_files import (
    HEADER_2020,
    ROOT,
    STORE,
    command,
    contents,
    make_raw,
    pixels,
    png,
    prepare,
    row,
)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """3,000 links to one image: cheap to make, and enough to interrupt a run."""
    raw = tmp_path_factory.mktemp("many")
    (raw / "images").mkdir()
    image = raw / "one"
    image.write_bytes(png(pixels(0, 128)))
    names = [f"{index:08d}_000.png" for index in range(3000)]
    for name in names:
        os.link(image, raw / "images" / name)
    table = "\n".join([HEADER_2020, *map(row, names)])
    (raw / "Data_Entry_2017.csv").write_text(table)
    reference = raw / "reference"
    prepare(raw, reference)
    return raw, contents(reference / STORE)


def interrupted(raw, data, number):
    """Start a run and send it a signal after the first shard; return its process and output."""
    process = subprocess.Popen(
        command(raw, data, "--workers=2"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell started in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    scratch = data / ".chest_xray14.partial"
    while not list(scratch.glob("*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)  # as a terminal does
    return process, process.communicate()


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_interrupted_run_resumes_to_the_same_dataset(many, tmp_path, number):
    raw, expected = many
    process, (_, errors) = interrupted(raw, tmp_path, number)
    assert not (tmp_path / STORE).exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.strip().count("\n") == 0 and "run the same command again" in errors
    with pytest.raises(ProcessLookupError):  # no worker outlives its parent
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    done = {path.name for path in (tmp_path / ".chest_xray14.partial").glob("*.json")}
    assert 0 < len(done) < len(expected)
    prepare(raw, tmp_path)
    assert contents(tmp_path / STORE) == expected
    assert sorted(os.listdir(tmp_path)) == ["chest_xray14", "prepare_report.json"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, "full"])
def test_resuming_after_failed_publishing_decodes_nothing(tmp_path, monkeypatch, how):
    raw, data = make_raw(tmp_path / "raw", count=40), tmp_path / "data"
    prepare(raw, tmp_path / "whole")
    write = array_record_module.ArrayRecordWriter
    files = []

    def failing(path, options):
        files.append(path)
        if "-images.array_record-00001" in path:
            if how == "full":
                raise RuntimeError(f"write failed: {os.strerror(errno.ENOSPC)}")
            raise how
        return write(path, options)

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", failing)
    with pytest.raises(UserError if how == "full" else how) as error:
        prepare(raw, data)
    assert how != "full" or "no space left on the device; free some space and rerun" in str(
        error.value
    )
    assert not (data / STORE).exists()
    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", write)
    monkeypatch.setattr(
        "agcnn_jax.data_prep.nih.raw_files.read_film", lambda *_: pytest.fail("decoded again")
    )
    prepare(raw, data)
    assert contents(data / STORE) == contents(tmp_path / "whole" / STORE)
    assert sorted(os.listdir(data)) == ["chest_xray14", "prepare_report.json"]


def test_progress_bar_on_a_terminal(many, tmp_path):
    terminal, side = os.openpty()
    termios.tcsetwinsize(side, (24, 120))
    process = subprocess.Popen(
        command(many[0], tmp_path, "--workers=1"), cwd=ROOT, stderr=side, stdout=subprocess.PIPE
    )
    os.close(side)
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # raised by Linux once the other side is closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    assert b"3,000 of 3,000 files" in shown and b"files/s" in shown and b"shard " in shown
