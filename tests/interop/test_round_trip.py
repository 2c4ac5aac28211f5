"""The lineage of a run follows its weights through exports and imports."""

import numpy as np
import pytest

from agcnn_jax.data.records import open_records
from agcnn_jax.data_prep import torch_weights
from agcnn_jax.interop import weights
from agcnn_jax.models.agcnn import select_branches
from agcnn_jax.run import lineage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import absolute
from agcnn_jax.training import stage
from agcnn_jax.training.loop import train
from agcnn_jax.training.steps import init_state
from tests.configs import demo
from tests.run.test_checkpoints import Position

NAMES = {"train": "train_list.txt", "validation": "val_list.txt", "test": "test_list.txt"}


@pytest.fixture(scope="module")
def records(data_dir):
    return open_records(str(data_dir))


@pytest.fixture(autouse=True)
def without_steps(monkeypatch):
    """Runs save their initial weights as the best checkpoint, so no step is compiled."""

    def fit(experiment, schedule, checkpoints, variables, stop_requested):
        trained = select_branches(variables, schedule.stage.branches)
        checkpoints.save(1, init_state(trained, schedule.optimizer), Position(1))
        checkpoints.add_score(1, 0.5, 14)

    monkeypatch.setattr(stage, "fit", fit)


def run(records, data_dir, folder, init="random", **subsets):
    """Train on the records of `{subset: indices}` and return the workdir."""
    folder.mkdir()
    for subset, chosen in subsets.items():
        names = "".join(f"{records.image_ids[index]}\n" for index in chosen)
        (folder / NAMES[subset]).write_text(names)
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.data.protocol, config.data.lists = "lists", str(folder)
    config.data.allow_unlisted = True
    config.init, config.strategy, config.pooling = str(init), "GLF", "max"
    config.input_size = 56
    config.batch_size, config.eval_batch_size = (8, 8, 8), 8
    train(config, str(folder / "run"))
    return folder / "run"


def convert(folder, *arguments):
    torch_weights.main([str(argument) for argument in (*arguments, "--out", folder)])
    return folder


@pytest.mark.slow
def test_over_any_number_of_steps(records, data_dir, tmp_path, capsys):
    """By a file, by the folder of a stage, and by a file again."""
    chosen = np.random.default_rng(0).permutation(len(records))
    test, validation, rest = np.split(chosen[:112], [24, 40])
    others = {"test": test, "validation": validation}
    parts = np.split(rest, 3)

    def seen(steps):
        index = np.concatenate(parts[:steps])
        return lineage.lineage_of(
            records.collection,
            records.image_ids[index],
            records.patient_ids[index],
            synthetic=True,
        )

    first = run(records, data_dir, tmp_path / "1", train=parts[0], **others)
    file = convert(tmp_path / "1.safetensors", "--export", first, "--branch", "global")
    options = ("--backbone", "resnet_small", "--weights")
    init = convert(tmp_path / "w1", *options, file)
    assert weights.lineage(init) == seen(1)
    second = run(records, data_dir, tmp_path / "2", init, train=parts[1], **others)
    assert lineage.read(absolute(second))[0] == seen(2)
    init = second / "stages/1_global+local+fusion"
    third = run(records, data_dir, tmp_path / "3", init, train=parts[2], **others)
    file = convert(tmp_path / "3.safetensors", "--export", third, "--branch", "local")
    capsys.readouterr()
    init = convert(tmp_path / "w3", *options, file)
    assert f"trained on: {len(rest)} image(s) of {records.collection}" in capsys.readouterr().out
    assert weights.lineage(init) == lineage.read(absolute(third))[0] == seen(3)

    # One image of the first training is in the test set of the fourth.
    others["test"] = np.append(test, parts[0][0])
    with pytest.raises(UserError, match=r"trained on 1 of the 25 images of the test subset"):
        run(records, data_dir, tmp_path / "4", init, train=chosen[112:], **others)
    with pytest.raises(UserError, match=r"--trained_on: 3\.safetensors already says"):
        convert(tmp_path / "w", *options, file, "--trained_on", "imagenet")
