"""Runs that end in the middle of a validation: nothing is lost, and nothing is done twice."""

import contextlib
import json

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.strategies import stages
from agcnn_jax.run import run as experiment
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.runtime.errors import Stopped
from agcnn_jax.training import fit, loop, prediction, start
from tests.configs import demo
from tests.pods.interrupted import entries, latest, same_records

pytestmark = pytest.mark.usefixtures("quick_compilation")

STAGE = "1_global"
EPOCHS, BATCH = 2, 16


class Killed(BaseException):
    """Ends a run as nothing that it expects does."""


class Request:
    """A stop request, by default none, that counts how often it was asked."""

    def __init__(self, at=None, raises=None):
        self.at, self.raises, self.asked = at, raises, 0

    def __call__(self):
        self.asked += 1
        if self.asked != self.at:
            return False
        if self.raises:
            raise self.raises
        return True


@pytest.fixture(scope="module")
def config(data_dir):
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.data.protocol = "random"
    config.input_size = 56
    config.batch_size = (BATCH,)
    config.eval_batch_size = 4
    config.epochs = (EPOCHS,)
    config.log_every = 1
    config.checkpoint_every = 2
    return config


MADE = ((fit, "compile_step"), (prediction, "make_predict_step"), (start, "initial_variables"))
"""What takes long to make, and is the same for all runs of one config."""


def once(function):
    """Call a function the first time only; what it made then is what it returns ever after."""
    made = []

    def make(*arguments):
        if not made:
            result = function(*arguments)
            # Weights as numpy arrays: a step gives up the buffers of those on a device.
            made.append(result if callable(result) else jax.device_get(result))
        return made[0]

    return make


@pytest.fixture(scope="module")
def train(config):
    """`train(workdir, request)`: a call of `train.py` that is asked to stop as `request` says."""
    made = {name: once(getattr(module, name)) for module, name in MADE}

    def train(workdir, request=None):
        @contextlib.contextmanager
        def stop_requests():
            yield request

        request = request or Request()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "stop_requests", stop_requests)
            # The first stage on one device: what is tested here is the same in all.
            patch.setattr(loop, "stages", lambda strategy: stages(strategy)[:1])
            patch.setattr(experiment, "device_mesh", lambda: device_mesh(jax.devices()[:1]))
            for module, name in MADE:
                patch.setattr(module, name, made[name])
            loop.train(config, str(workdir))
        return request

    return train


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run that was not stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(workdir)
    return workdir


@pytest.fixture(scope="module")
def steps(whole):
    """Steps of an epoch."""
    return max(entry["step"] for entry in entries(whole)) // EPOCHS


@pytest.fixture(scope="module")
def batches(config, whole):
    """Batches of a validation."""
    images = json.loads((whole / "data.json").read_text())["validation"]
    return -(-images // config.eval_batch_size)


def folder(workdir):
    return epath.Path(workdir) / "stages" / STAGE / "checkpoints"


def steps_kept(workdir):
    return sorted(int(path.name) for path in folder(workdir).iterdir())


def validated(workdir):
    return [entry["step"] for entry in entries(workdir) if "val_auc_mean" in entry]


def ends_as(workdir, whole):
    """Two runs have ended with the same records, result and checkpoints, to the last bit."""
    same_records(workdir, whole)
    results = [(path / "stages" / STAGE / "result.json").read_bytes() for path in (workdir, whole)]
    assert results[0] == results[1]
    assert steps_kept(workdir) == steps_kept(whole)
    best = []
    for path in (workdir, whole):
        with StageCheckpoints(folder(path), read_only=True) as checkpoints:
            best.append((checkpoints.best_step(), checkpoints.restore_best()[0]))
    assert best[0][0] == best[1][0]
    for pair in (best[0][1], best[1][1]), (latest(workdir, STAGE)[1], latest(whole, STAGE)[1]):
        jax.tree.map(np.testing.assert_array_equal, *pair)


def stops(train, workdir, at, step):
    """Stop at the given question; it ends there, with the step saved and not validated."""
    request = Request(at)
    with pytest.raises(Stopped, match=f"^saved and stopped at step {step} of stage .*; run the"):
        train(workdir, request)
    assert request.asked == at
    with StageCheckpoints(folder(workdir), read_only=True) as checkpoints:
        assert checkpoints.latest_step() == step
        assert checkpoints.score(step) is None
    assert step not in validated(workdir)


def test_stopped_in_any_batch_of_the_first_validation(train, whole, steps, batches, tmp_path):
    # Asked once before the first step, then after each, then after each batch of validation.
    for batch in (1, batches):
        workdir = tmp_path / str(batch)
        stops(train, workdir, 1 + steps + batch, steps)
        with StageCheckpoints(folder(workdir), read_only=True) as checkpoints:
            assert checkpoints.best_step() is None
        # The validation that was stopped is what comes next, and may be stopped again.
        stops(train, workdir, 1 + batch, steps)
        request = train(workdir)
        assert request.asked == 1 + batches + steps + batches
        ends_as(workdir, whole)


def test_stopped_in_the_last_validation(train, whole, steps, batches, tmp_path):
    stops(train, tmp_path, 1 + steps + batches + steps + 2, 2 * steps)
    assert not (tmp_path / "stages" / STAGE / "result.json").exists()
    request = train(tmp_path)
    assert request.asked == 1 + batches
    ends_as(tmp_path, whole)


def test_stopped_after_the_last_step_of_an_epoch(train, whole, steps, tmp_path):
    stops(train, tmp_path, 1 + steps, steps)
    train(tmp_path)
    ends_as(tmp_path, whole)


def test_killed_in_a_validation(train, whole, steps, tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, Request(1 + steps + 1, Killed))
    assert steps_kept(tmp_path) == [steps]
    train(tmp_path)
    ends_as(tmp_path, whole)


@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_between_the_log_and_the_checkpoint(
    train, whole, steps, tmp_path, monkeypatch, place
):
    """The line of a validation is written first; where its score is not, it is written again."""
    add_score = StageCheckpoints.add_score

    def killed(*arguments):
        if place == "after":
            add_score(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StageCheckpoints, "add_score", killed)
        with pytest.raises(Killed):
            train(tmp_path)
    assert validated(tmp_path) == [steps]
    train(tmp_path)
    ends_as(tmp_path, whole)


def test_a_second_interrupt_in_a_validation_stops_at_once(train, whole, steps, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Request(1 + steps + 1, KeyboardInterrupt))
    train(tmp_path)
    ends_as(tmp_path, whole)
