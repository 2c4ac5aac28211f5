"""2,000 films in 16 pieces, with a network: the joined tables are one machine's."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image

from agcnn_jax import predict
from agcnn_jax.inference import attempts
from agcnn_jax.inference.film_list import write_list
from agcnn_jax.inference.folder import FILES
from agcnn_jax.inference.pieces import Shard, join, predict_piece
from agcnn_jax.inference.stream import Settings, predict_files
from agcnn_jax.runtime.errors import UserError
from tests.inference.tiny_model import export_tiny, tiny_model
from tests.support.programs import ROOT

COUNT, SHARDS, BATCH = 2000, 16, 8
SETTINGS = Settings("youden", overlays=False, batch_size=BATCH, workers=1)
BROKEN = (0, 7, 8, 9, 500, 501, 1999)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Films of 40 x 32 pixels, some of which cannot be read."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{number:04d}.png") for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (32, 40), np.uint8)).save(path)
        if number in BROKEN:
            os.truncate(path, 60)
    return paths


@pytest.fixture(scope="module")
def films(names, tmp_path_factory):
    path = epath.Path(tmp_path_factory.mktemp("list") / "films.txt")
    write_list(names, path)
    return path


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def piece(model, films, out, shard, shards=SHARDS, retry=False):
    return predict_piece(model, films, epath.Path(out), SETTINGS, Shard(shard, shards), retry)


def tables(out):
    return [(out / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def whole(model, films, tmp_path_factory):
    """The tables of one machine."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert piece(model, films, out, 0, shards=1).refused == len(BROKEN)
    join(epath.Path(out))
    return tables(out)


@pytest.mark.slow
def test_the_joined_tables_are_one_machines(model, names, films, whole, tmp_path, monkeypatch):
    """In any order; killed, repeated, twice at once, one missing, one of another model."""
    monkeypatch.setattr(attempts, "PART_BATCHES", 4)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "agcnn_jax.predict", "--from", export_tiny(tmp_path / "model")]
    command += ["--list", films, "--out", out, "--shards", SHARDS, "--batch_size", BATCH]
    command += ["--workers", 1, "--shard", "auto"]

    def start(shard):
        text = [str(word) for word in command]
        return subprocess.Popen(
            text, cwd=ROOT, env={**os.environ, "JOB_COMPLETION_INDEX": str(shard)}
        )

    # Killed once they work, and run twice at once.
    killed, again = start(3), start(3)
    deadline = time.monotonic() + 600
    while not list(out.glob("pieces/*/*")) and again.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert again.wait() == 0
    stopped = start(4)
    time.sleep(3)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() in (75, -signal.SIGTERM, 0)
    # In any order.
    order = list(range(SHARDS))
    random.Random(1).shuffle(order)
    for shard in order[1:]:
        piece(model, films, out, shard)
    with pytest.raises(UserError, match=f"1 of 16 pieces .* not complete: --shard {order[0]};"):
        join(epath.Path(out))
    with pytest.raises(UserError, match="holds pieces with weights"):
        piece(tiny_model(1), films, out, order[0])
    piece(model, films, out, order[0])
    assert predict.main(["--join", str(out)]) == 2
    assert tables(out) == whole
    # A piece of another model with the folder's name.
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    piece(tiny_model(1), films, tmp_path / "other", 5)
    [folder] = (tmp_path / "other/pieces").iterdir()
    shutil.rmtree(copy / "pieces" / folder.name)
    shutil.copytree(folder, copy / "pieces" / folder.name)
    with pytest.raises(UserError, match="holds pieces with weights"):
        join(epath.Path(copy))


@pytest.mark.slow
def test_plain_predictions_have_the_same_answers(model, names, whole, tmp_path):
    """Where a film was refused, later ones have another row in their batch, so within 1e-6."""
    predict_files(model, names, tmp_path / "out", SETTINGS)
    check_rows(tables(tmp_path / "out"), whole)


def check_rows(found, expected):
    """The same rows, with numbers within 1e-6."""
    assert found[2] == expected[2]
    for ours, theirs in zip(found[0].splitlines(), expected[0].splitlines(), strict=True):
        for a, b in zip(ours.decode().split(","), theirs.decode().split(","), strict=True):
            assert a == b or abs(float(a) - float(b)) <= 1e-6


@pytest.mark.slow
def test_pieces_of_other_numbers_of_devices_have_the_same_answers(films, whole, tmp_path):
    """Two pieces of one device and two of three; the whole was predicted on eight."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "agcnn_jax.predict", "--from", export_tiny(tmp_path / "model")]
    command += ["--list", films, "--out", out, "--shards", 4, "--batch_size", BATCH]
    for shard, devices in enumerate((1, 3, 1, 3)):
        flags = f"--xla_force_host_platform_device_count={devices}"
        text = [*map(str, command), "--shard", str(shard)]
        subprocess.run(text, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, check=True)
    join(epath.Path(out))
    check_rows(tables(out), whole)


@pytest.mark.slow
def test_pictures_are_those_of_plain_predictions(model, names, tmp_path):
    films = epath.Path(tmp_path / "films.txt")
    write_list(names[10:13], films)
    settings = SETTINGS._replace(overlays=True, batch_size=3)
    for shard in range(2):
        predict_piece(model, films, epath.Path(tmp_path / "out"), settings, Shard(shard, 2), False)
    join(epath.Path(tmp_path / "out"))
    predict_files(model, names[10:13], tmp_path / "plain", settings)
    assert tables(tmp_path / "out") == tables(tmp_path / "plain")
    pictures = sorted((tmp_path / "plain/overlays").iterdir())
    assert [path.name for path in pictures] == [f"{n:04d}_{n - 9:06d}.jpeg" for n in (10, 11, 12)]
    for path in pictures:
        assert path.read_bytes() == (tmp_path / "out/overlays" / path.name).read_bytes()


@pytest.mark.slow
def test_repaired_films_and_a_grown_list_end_with_the_tables_of_one_machine(
    model, names, whole, tmp_path
):
    """After all of it, nobody can tell in which steps the films were predicted."""
    some, copies = tmp_path / "copies", []
    some.mkdir()
    for name in names[:400]:
        copies.append(str(some / os.path.basename(name)))
        shutil.copy(name, some)
    films, out = epath.Path(tmp_path / "films.txt"), tmp_path / "out"
    films.write_text("".join(f"{name}\n" for name in copies[:300]))
    for shard in range(3):
        piece(model, films, out, shard, shards=4)
    for number in BROKEN[:4]:
        shutil.copy(names[20 + number], copies[number])
    films.write_text("".join(f"{name}\n" for name in copies))
    refused = [piece(model, films, out, shard, shards=4, retry=True).refused for shard in range(4)]
    assert refused == [0, 0, 0, 0]
    assert join(epath.Path(out)).films == 400
    piece(model, films, tmp_path / "whole", 0, shards=1)
    join(epath.Path(tmp_path / "whole"))
    assert tables(out) == tables(tmp_path / "whole")
