"""Pieces of a list, with a stand-in for the network: in any order, stopped, repeated, mixed up."""

import json
import random
import shutil

import pytest
from etils import epath

from agcnn_jax.inference import attempts, pieces
from agcnn_jax.inference.film_list import write_list
from agcnn_jax.inference.folder import FILES, open_folder
from agcnn_jax.inference.pieces import Joined, Shard, join, predict_piece
from agcnn_jax.inference.stream import Settings
from agcnn_jax.runtime.errors import UserError

COLUMNS = ("Image Index", "path")
SHARDS, BATCH = 5, 2
NAMES = [f"films/{number}.png" for number in range(67)]
BROKEN = {NAMES[number] for number in (0, 13, 14, 40, 66)}


class Network:
    """Stands for the model: refuses what is broken, and stops at a film if told to."""

    def __init__(self):
        self.digest, self.broken, self.stop_at, self.seen = "a", set(BROKEN), None, []

    def predict(self, model, films, size, settings, rows, bar):
        for place, name in films:
            if name == self.stop_at:
                raise KeyboardInterrupt
            self.seen.append(name)
            assert place == NAMES.index(name) % size
            if name in self.broken:
                rows.refuse(name, "truncated")
            else:
                rows.add(name, [name, place], {"path": name, "place": place}, name == NAMES[3])


@pytest.fixture
def network(monkeypatch):
    network = Network()
    monkeypatch.setattr(pieces, "write_predictions", network.predict)
    monkeypatch.setattr(pieces, "identity_of", lambda *_: {"weights": network.digest})
    monkeypatch.setattr(pieces, "columns_of", lambda _: COLUMNS)
    monkeypatch.setattr(attempts, "PART_BATCHES", 3)
    return network


@pytest.fixture
def films(tmp_path):
    path = epath.Path(tmp_path / "list.txt")
    write_list(NAMES, path)
    return path


@pytest.fixture
def out(tmp_path):
    return epath.Path(tmp_path / "out")


def piece(films, out, shard, shards=SHARDS, retry=False, batch=BATCH):
    settings = Settings("youden", False, batch, 1)
    return predict_piece(None, films, out, settings, Shard(shard, shards), retry)


def tables(out):
    return [(out / name).read_bytes() for name in FILES]


def one_machine(folder, broken):
    """The tables that one machine writes film by film."""
    with open_folder(folder, {}, COLUMNS, NAMES) as rows:
        for number, name in list(enumerate(NAMES))[rows.films :]:
            if name in broken:
                rows.refuse(name, "truncated")
            else:
                place = number % BATCH
                rows.add(name, [name, place], {"path": name, "place": place}, False)
    return tables(folder)


def check_any_order(network, films, out, folder):
    order = list(range(SHARDS))
    random.Random(0).shuffle(order)
    for shard in order:
        done = piece(films, out, shard)
        assert done.films == done.new
    assert sorted(network.seen) == sorted(NAMES)
    assert join(out) == Joined(len(NAMES), len(BROKEN), 1)
    assert tables(out) == one_machine(folder, BROKEN)
    # Again: nothing is predicted, and nothing changes.
    network.seen.clear()
    assert sum(piece(films, out, shard).refused for shard in order) == len(BROKEN)
    assert network.seen == []
    join(out)
    assert tables(out) == one_machine(folder, BROKEN)


def test_in_any_order_the_table_is_one_machines(network, films, out, tmp_path):
    check_any_order(network, films, out, tmp_path / "whole")


def test_a_piece_is_a_multiple_of_the_batch(network, films, out):
    for shard in range(SHARDS):
        piece(films, out, shard)
    folders = sorted(path.name for path in (out / "pieces").iterdir())
    spans = [tuple(map(int, name.split("-"))) for name in folders]
    assert [spans[0][0], *(end for _, end in spans)] == [*(first for first, _ in spans), len(NAMES)]
    sizes = [end - first for first, end in spans]
    assert all(size % BATCH == 0 for size in sizes[:-1])
    assert max(sizes) - min(sizes) <= BATCH


def test_more_pieces_than_batches(network, films, out, tmp_path):
    for shard in range(50):
        piece(films, out, shard, shards=50)
    assert join(out).films == len(NAMES)
    assert tables(out) == one_machine(tmp_path / "whole", BROKEN)


def check_killed(network, films, out, folder):
    network.stop_at = NAMES[9]
    with pytest.raises(KeyboardInterrupt):
        piece(films, out, 0)
    with pytest.raises(UserError, match=r"5 of 5 pieces .* not complete: --shard 0, 1, 2, 3, 4;"):
        join(out)
    network.stop_at, network.seen = None, []
    for shard in range(SHARDS):
        piece(films, out, shard)
    # The first part, of three batches, was whole.
    assert network.seen == NAMES[6:]
    join(out)
    assert tables(out) == one_machine(folder, BROKEN)


def test_a_killed_piece_goes_on_with_its_whole_parts(network, films, out, tmp_path):
    check_killed(network, films, out, tmp_path / "whole")


def test_parts_of_another_size_do_not_count(network, films, out, tmp_path, monkeypatch):
    """As a killed attempt of another version leaves them."""
    network.stop_at = NAMES[9]
    with pytest.raises(KeyboardInterrupt):
        piece(films, out, 0)
    monkeypatch.setattr(attempts, "PART_BATCHES", 2)
    network.stop_at = None
    for shard in range(SHARDS):
        piece(films, out, shard)
    join(out)
    assert tables(out) == one_machine(tmp_path / "whole", BROKEN)


def test_of_attempts_at_once_the_one_with_fewer_refused_films_counts(network, films, out):
    for shard in range(SHARDS):
        piece(films, out, shard)
    [worse] = (out / "pieces/000000000000-000000000012").glob("*.json")
    network.broken = set()
    piece(films, out, 0, retry=True)
    about = json.loads(worse.read_text()) | {"name": "0", "retry": 1}
    (worse.parent / "0.json").write_text(json.dumps(about))
    assert join(out).refused == len(BROKEN) - 1


def test_a_part_without_its_record_does_not_count(network, films, out, tmp_path):
    network.stop_at = NAMES[9]
    with pytest.raises(KeyboardInterrupt):
        piece(films, out, 0)
    [record] = out.glob("pieces/*/*/00000.json")
    record.write_text(record.read_text()[:40])
    network.stop_at, network.seen = None, []
    piece(films, out, 0)
    assert network.seen[0] == NAMES[0]


def check_twice_at_once(network, films, out, folder, monkeypatch):
    """A second attempt begins before the first ends, and ends after it."""
    real = network.predict

    def both(*arguments):
        monkeypatch.setattr(pieces, "write_predictions", real)
        piece(films, out, 1)
        real(*arguments)

    monkeypatch.setattr(pieces, "write_predictions", both)
    piece(films, out, 1)
    assert len(list(out.glob("pieces/*/*.json"))) == 2
    for shard in (0, 2, 3, 4):
        piece(films, out, shard)
    join(out)
    assert tables(out) == one_machine(folder, BROKEN)


def test_twice_at_once(network, films, out, tmp_path, monkeypatch):
    check_twice_at_once(network, films, out, tmp_path / "whole", monkeypatch)


def test_a_missing_piece_is_named(network, films, out):
    for shard in (0, 1, 2, 4):
        piece(films, out, shard)
    with pytest.raises(UserError, match=r"1 of 5 pieces of .* not complete: --shard 3; predict"):
        join(out)
    assert not (out / FILES[0]).exists()


def check_retry(network, films, out, folder):
    """Of five films two were repaired, and one of these is the only one of its part."""
    for shard in range(SHARDS):
        piece(films, out, shard)
    join(out)
    network.broken -= {NAMES[13], NAMES[40]}
    network.seen.clear()
    refused = [piece(films, out, shard, retry=True).refused for shard in range(SHARDS)]
    assert set(network.seen) == BROKEN
    assert (sum(refused), len(network.seen)) == (3, 5)
    assert join(out) == Joined(len(NAMES), 3, 1)
    assert tables(out) == one_machine(folder, network.broken)
    network.seen.clear()
    piece(films, out, 1, retry=True)
    assert network.seen == [NAMES[14]]
    join(out)
    assert tables(out) == one_machine(folder, network.broken)


def test_refused_films_are_predicted_again(network, films, out, tmp_path):
    check_retry(network, films, out, tmp_path / "whole")


def test_refused_films_of_a_killed_piece_are_predicted_again(network, films, out, tmp_path):
    network.stop_at = NAMES[9]
    with pytest.raises(KeyboardInterrupt):
        piece(films, out, 0)
    network.stop_at, network.broken = None, set()
    for shard in range(SHARDS):
        piece(films, out, shard, retry=True)
    assert join(out).refused == 0
    assert tables(out) == one_machine(tmp_path / "whole", set())


def check_grown(network, films, out, folder):
    films.write_text("".join(f"{name}\n" for name in NAMES[:30]))
    for shard in (0, 1, 3, 4):
        piece(films, out, shard)
    films.write_text("".join(f"{name}\n" for name in NAMES))
    network.seen.clear()
    assert piece(films, out, 0).films == 6 + 6
    assert network.seen == NAMES[30:36]
    for shard in range(1, SHARDS):  # the third has to do with the old lines too
        piece(films, out, shard)
    assert sorted(network.seen) == sorted(NAMES[12:18] + NAMES[30:])
    assert join(out).films == len(NAMES)
    assert tables(out) == one_machine(folder, BROKEN)
    films.write_text("".join(f"{name}\n" for name in NAMES[:30]))
    with pytest.raises(UserError, match="does not begin with the 67 lines of which"):
        piece(films, out, 0)


def test_a_list_that_grew_continues(network, films, out, tmp_path):
    check_grown(network, films, out, tmp_path / "whole")


def test_a_list_that_changed_is_refused(network, films, out):
    piece(films, out, 0)
    films.write_text("".join(f"{name}\n" for name in [*NAMES[:-1], "other.png"]))
    with pytest.raises(
        UserError, match=r"does not begin with the 67 lines .* only grow at its end"
    ):
        piece(films, out, 1)


def test_lists_of_pieces_that_started_together_differ(network, films, out, tmp_path):
    piece(films, out, 0)
    other = tmp_path / "other"
    films.write_text("".join(f"{name}\n" for name in NAMES[:60]))
    piece(films, epath.Path(other), 1)
    shutil.copytree(other, out, dirs_exist_ok=True)
    for action in (lambda: join(out), lambda: piece(films, out, 2)):
        with pytest.raises(UserError, match="pieces of several lists"):
            action()


def test_models_and_settings_do_not_mix(network, films, out, tmp_path):
    for shard in range(SHARDS):
        piece(films, out, shard)
    network.digest = "b"
    with pytest.raises(UserError, match="holds pieces with weights a, not b; choose another"):
        piece(films, out, 0)
    network.digest = "a"
    with pytest.raises(UserError, match="with --shards 5, not 6"):
        piece(films, out, 0, shards=6)
    with pytest.raises(UserError, match="with --batch_size 2, not 4"):
        piece(films, out, 0, batch=4)
    # A piece of another model, copied: its folder has the same name.
    network.digest, other = "b", tmp_path / "other"
    piece(films, epath.Path(other), 2)
    [folder] = (other / "pieces").iterdir()
    shutil.rmtree(out / "pieces" / folder.name)
    shutil.copytree(folder, out / "pieces" / folder.name)
    with pytest.raises(UserError, match="holds pieces with weights b, not a"):
        join(out)
    # Both models' first pieces started at once.
    shutil.copytree(other / "plans", out / "plans", dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds pieces with weights"):
        join(out)


def test_pieces_and_other_predictions_do_not_mix(network, films, out, tmp_path):
    one_machine(tmp_path / "whole", BROKEN)
    with pytest.raises(UserError, match="whole holds predictions made without --list; choose"):
        piece(films, epath.Path(tmp_path / "whole"), 0)
    piece(films, out, 0)
    before = sorted(tmp_path.glob("out/**/*"))
    with pytest.raises(UserError, match="out holds pieces of a list; choose another --out"):
        one_machine(tmp_path / "out", BROKEN)
    assert sorted(tmp_path.glob("out/**/*")) == before


def test_damage_is_named_and_no_table_is_written(network, films, out):
    for shard in range(SHARDS):
        piece(films, out, shard)
    join(out)
    before = tables(out)
    part = sorted(out.glob("pieces/*/*/00000.predictions.jsonl"))[-1]
    part.write_bytes(part.read_bytes().replace(b"films", b"filma"))
    with pytest.raises(UserError, match=r"00000.predictions.jsonl was changed or is damaged"):
        join(out)
    assert tables(out) == before
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "pieces", "plans"])
    [plan] = (out / "plans").iterdir()
    about = json.loads(plan.read_text())
    plan.write_text(json.dumps(about | {"identity": {}}))
    with pytest.raises(UserError, match=r"plans/.*json is damaged; choose another --out"):
        join(out)
    plan.unlink()
    with pytest.raises(UserError, match="holds no pieces"):
        join(out)
