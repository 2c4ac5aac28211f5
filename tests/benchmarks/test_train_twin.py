"""Points in which the twin's training could differ from ours without anybody noticing."""

import copy
import json
import sys
from types import SimpleNamespace

import jax
import ml_collections
import numpy as np
import pytest
from scipy import stats

from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.config.check import check_config
from agcnn_jax.config.keys import default_config
from agcnn_jax.config.strategies import stages
from agcnn_jax.data.augment import Augmentation, _random_box, centre_crop
from agcnn_jax.metrics.auc import auc
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.schedule import make_schedule
from tests.support.programs import ROOT, run

torch = pytest.importorskip("torch")
sys.path.append(str(ROOT / "benchmarks"))
import train_twin  # noqa: E402
import twin_training as training  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")

FINDINGS = {"Mass": 0, "Nodule": 1}


@pytest.fixture(autouse=True)
def one_thread():
    """More threads burn their cores while they wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(**changes) -> ml_collections.ConfigDict:
    config = default_config()
    config.update_from_flattened_dict(
        {"backbone": "resnet_small", "mean": (0.5,), "std": (0.25,), "input_size": 32} | changes
    )
    check_config(config)
    return config


def make_subset(images, seed=0):
    """Images of one gray level each, which is the image's number, and random labels."""
    generator = torch.Generator().manual_seed(seed)
    gray = torch.arange(images, dtype=torch.uint8)[:, None, None].expand(-1, 36, 36)
    return training.Subset(gray, torch.randint(0, 2, (images, 2), generator=generator).float())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop_after": 0.7, "drop_factor": 4.0, "epochs": (5, 4, 3), "batch_size": (8, 7, 16)},
        {"drop_after": 1.0, "learning_rate": (0.15, 0.1, 0.5), "batch_size": (32,)},
    ],
    ids=["paper", "changed", "no drop"],
)
def test_learning_rate_of_each_step(changes):
    config = make_config(**{"epochs": (4,)} | changes)
    experiment = SimpleNamespace(config=config, split=SimpleNamespace(train=np.arange(203)))
    for stage in stages("G_L_F"):
        ours = make_schedule(experiment, stage)
        plan = training.make_plan(config, stage.branches[0], 203)
        assert (plan.batch_size, plan.steps_per_epoch) == (ours.batch_size, ours.steps_per_epoch)
        assert plan.epochs * plan.steps_per_epoch == ours.total_steps
        network = {plan.branch: torch.nn.Linear(2, 2)}
        optimizer, schedule = training.make_optimizer(network, config, plan)
        rates = []
        for _ in range(ours.total_steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        np.testing.assert_allclose(rates, ours.learning_rates(), rtol=1e-6)


def test_weight_decay_and_momentum_on_every_parameter():
    config = make_config(weight_decay=0.1, learning_rate=(0.5,), momentum=0.9)
    network = training.make_network(config, 2)
    plan = training.make_plan(config, "local", 64)
    optimizer, _ = training.make_optimizer(network, config, plan)
    before = copy.deepcopy(network.state_dict())
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    # Without a gradient: velocity 0.1 p, then 0.09 p + 0.1 * 0.95 p = 0.185 p.
    for name, value in network.named_parameters():
        kept = 1 - 0.5 * 0.1 - 0.5 * 0.185 if name.startswith("local.") else 1
        torch.testing.assert_close(value.detach(), kept * before[name])


def test_an_epoch_is_a_new_permutation_without_the_incomplete_batch(monkeypatch):
    config = make_config(batch_size=(4,), epochs=(2,))
    seen = []

    def record(images, config):
        seen.append(images[:, 0, 0].tolist())
        return training.centre_crop(images, config.input_size)

    monkeypatch.setattr(training, "augment", record)
    torch.manual_seed(0)
    network, subset = training.make_network(config, 2), make_subset(11)
    plan = training.make_plan(config, "global", 11)
    found = training.train_stage(network, plan, subset, subset, config, FINDINGS)
    assert [len(batch) for batch in seen] == [4] * 4
    epochs = [seen[0] + seen[1], seen[2] + seen[3]]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert found["images"] == 16


def test_the_first_best_epoch_is_kept_and_other_branches_stay_as_they_are(monkeypatch):
    config = make_config(batch_size=(4,), epochs=(4,), learning_rate=(0.1,))
    torch.manual_seed(0)
    network, subset = training.make_network(config, 2), make_subset(8)
    before = copy.deepcopy(network.state_dict())
    states, means = [], iter([0.5, 0.7, 0.7, 0.6])

    def score(*arguments):
        states.append(copy.deepcopy(network["local"].state_dict()))
        return {"mean": next(means)}

    monkeypatch.setattr(training, "score", score)
    plan = training.make_plan(config, "local", 8)
    found = training.train_stage(network, plan, subset, subset, config, FINDINGS)
    assert (found["best_epoch"], found["best_val_auc_mean"]) == (2, 0.7)
    for name, value in network["local"].state_dict().items():
        assert torch.equal(value, states[1][name])
    assert not torch.equal(states[1]["fc.weight"], states[2]["fc.weight"])
    for name, value in network.state_dict().items():
        assert name.startswith("local.") or torch.equal(value, before[name])


def test_crops_are_distributed_like_ours():
    draws, side, scale, ratio = 3000, 96, (0.3, 1.0), (0.5, 2.0)  # many draws do not fit at first
    torch.manual_seed(0)
    theirs = np.array([training.random_box(side, scale, ratio) for _ in range(draws)]).T
    augmentation = Augmentation(scale=scale, ratio=ratio)
    keys = jax.random.split(jax.random.key(0), draws)
    boxes = jax.jit(jax.vmap(lambda key: _random_box(key, side, augmentation)))(keys)
    left, top, right, bottom = np.asarray(boxes).T
    for one, other in (
        (theirs[2] * theirs[3], (bottom - top) * (right - left)),
        (theirs[3] / theirs[2], (right - left) / (bottom - top)),
        (theirs[0] + theirs[2] / 2, (top + bottom) / 2),
        (theirs[1] + theirs[3] / 2, (left + right) / 2),
    ):
        assert stats.ks_2samp(one, other).pvalue > 1e-3


def test_crops_are_resized_like_ours(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    boxes = np.array([[2, 1, 47, 48], [10, 20, 25, 44], [0, 0, 48, 48]])  # smaller and larger
    left_to_draw = iter(boxes.tolist())

    def next_box(*arguments):
        left, top, right, bottom = next(left_to_draw)
        return top, left, bottom - top, right - left

    monkeypatch.setattr(training, "random_box", next_box)
    config = make_config(**{"augment.flip": False})
    made = training.augment(torch.from_numpy(images), config).numpy()
    np.testing.assert_allclose(made, crop_and_resize(images, boxes, 32), atol=1e-3)
    centre = training.centre_crop(torch.from_numpy(images), 32).numpy()
    np.testing.assert_allclose(centre, centre_crop(images, 32), atol=1e-3)


def test_half_of_the_images_are_mirrored():
    slope = torch.arange(36, dtype=torch.uint8).expand(2000, 36, 36)
    torch.manual_seed(0)
    made = training.augment(slope, make_config())
    mirrored = (made[:, 0, 0] > made[:, 0, -1]).float().mean()
    assert 0.45 < mirrored < 0.55


@pytest.mark.parametrize(("name", "fan"), [("resnet_small", 0), ("densenet121", 1)])
def test_weights_are_drawn_as_in_torchvision(name, fan):
    """He et al. (2015), by outputs in a ResNet and by inputs in a DenseNet; PyTorch's `Linear`."""
    torch.manual_seed(0)
    network = training.make_network(make_config(backbone=name), 15)
    for key, weights in network.state_dict().items():
        if weights.ndim == 4 and weights.numel() > 2000:
            expected = (2 / (weights.shape[fan] * weights[0, 0].numel())) ** 0.5
            assert weights.std().item() == pytest.approx(expected, rel=0.1), key
            assert weights.mean().item() == pytest.approx(0, abs=0.1 * expected), key
        elif weights.ndim == 2:
            bound = weights.shape[1] ** -0.5
            assert 0.95 * bound < weights.abs().max() <= bound, key


def test_scores_by_hand():
    labels = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 0, 1]])
    logits = np.array([[0.1, 0, 2], [0.3, 1, 1], [0.2, 2, 3], [0.2, 3, 5]])
    found = training.score(labels, logits, {"Mass": 0, "Nodule": 1})
    assert found == {"auc": {"Mass": 0.875, "Nodule": None}, "mean": 0.875}
    assert auc(labels[:, 0], logits[:, 0]) == 0.875
    with pytest.raises(UserError, match="no finding has an AUC"):
        training.score(labels, logits, {"Nodule": 1})


def test_too_few_images():
    with pytest.raises(UserError, match="global branch is 128, but there are 9 training images"):
        training.make_plan(make_config(), "global", 9)


def test_a_finished_seed_is_not_trained_again(data_dir, tmp_path, monkeypatch, capsys):
    config = make_config(**{"data.protocol": "patient", "data.dir": str(data_dir)})
    config.update({"batch_size": (32,), "epochs": (1,)})
    train_twin.train_seeds(config, str(tmp_path), 1)
    first = (tmp_path / "twin" / "seed_0.json").read_bytes()
    result = json.loads(first)
    assert set(result["branches"]) == {"global", "local", "fusion"}
    assert list(result["stages"]) == [stage.name for stage in stages("G_L_F")]
    trained = []

    def train_seed(seed, *arguments):
        trained.append(seed)
        return result | {"seed": seed}

    monkeypatch.setattr(train_twin, "train_seed", train_seed)
    train_twin.train_seeds(config, str(tmp_path), 2)
    assert trained == [1]
    assert (tmp_path / "twin" / "seed_0.json").read_bytes() == first
    result["recipe"]["config"].pop("attention.crop_from")  # as if the key were newer than the file
    (tmp_path / "twin" / "seed_0.json").write_text(json.dumps(result))
    train_twin.train_seeds(config, str(tmp_path), 1)
    config.attention.tau = 0.5
    with pytest.raises(UserError, match=r"seed_0\.json .* config\.attention\.tau is 0\.7 there"):
        train_twin.train_seeds(config, str(tmp_path), 1)


def test_what_the_twin_lacks_is_refused():
    train_twin.check_twin(make_config())
    with pytest.raises(UserError, match=r"'GLF', .* set --config\.strategy=G_L_F"):
        train_twin.check_twin(make_config(strategy="GLF"))


def test_a_bad_option_in_one_line():
    done = run(
        "benchmarks/train_twin.py", "--config=tests/configs/demo.py", "--seeds=0", check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("train_twin.py: error: flag --seeds=0: ")
    assert done.stderr.count("\n") == 1
