"""The loop over steps: what it refuses to save, to transfer and to keep twice in memory."""

import contextlib
import hashlib
import re
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import NamedSharding

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.augment import Augmentation
from agcnn_jax.run import run as experiment
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.run import open_run
from agcnn_jax.runtime.devices import SHARDED, device_mesh, replicate, shard_batch
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training import fit, prediction
from agcnn_jax.training.fit import GIB
from agcnn_jax.training.loop import train
from agcnn_jax.training.prediction import Prediction
from agcnn_jax.training.schedule import make_schedule, sgd
from agcnn_jax.training.steps import init_state
from tests.configs import demo
from tests.support.processes import DEMO, environment
from tests.support.programs import run
from tests.support.small_steps import make_batch, make_recipe, make_variables, split_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def config(data_dir, monkeypatch):
    monkeypatch.setattr(experiment, "device_mesh", lambda: device_mesh(jax.devices()[:2]))
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.input_size = 56
    config.batch_size = (16,)
    config.eval_batch_size = 16
    config.checkpoint_every = 2
    return config


@pytest.fixture
def fake_step(monkeypatch):
    """`fake_step(function)`: train with a step that only counts, and does `function(step)` too."""

    def install(function):
        count = jax.jit(lambda state: state.replace(step=state.step + 1))

        def step(state, frozen, batch):
            state = count(state)
            # Asked of the host, so that counting costs no transfer.
            step.calls += 1
            return function(step.calls, state)

        step.calls = 0
        monkeypatch.setattr(fit, "compile_step", lambda *arguments: step)
        monkeypatch.setattr(
            fit,
            "make_validation",
            lambda *arguments: (
                lambda *given: {
                    "val_auc_mean": 0.5,
                    "val_auc_findings": 14,
                    "val_auc": {},
                }
            ),
        )

    return install


LOSS = {"loss": jnp.float32(0.5)}


def checkpoint_folder(workdir):
    return epath.Path(workdir) / "stages/1_global/checkpoints"


@pytest.mark.slow
def test_a_run_that_diverges_says_when_and_what_is_left(data_dir, tmp_path):
    options = (*DEMO, "--config.learning_rate=1e18", "--config.checkpoint_every=1")
    command = ("train.py", *options, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/run")
    folder = checkpoint_folder(tmp_path / "run")
    for _ in range(2):
        # Going on from the last good checkpoint comes to the same end.
        done = run(*command, env=environment(1), check=False)
        assert done.returncode == 2, done.stderr
        line = done.stderr.splitlines()[-1]
        assert re.search("weights are not finite|the loss is (nan|inf)", line)
        step = int(re.search(r" at step (\d+) of stage 1_global;", line)[1])
        assert f"the last checkpoint is step {step - 1} in {folder}; try" in line
        assert "smaller config.learning_rate" in line
        assert "Traceback" not in done.stderr
        assert [path.name for path in folder.glob("[0-9]*")] == [str(step - 1)]


def test_a_run_that_diverges_in_the_last_step_of_an_epoch(config, fake_step, monkeypatch, tmp_path):
    """Its weights are finite, but what validation computes with them is not."""
    fake_step(lambda step, state: (state, LOSS))
    monkeypatch.setattr(fit, "make_validation", prediction.make_validation)
    nan = {branch: np.full((37, 15), np.nan, np.float32) for branch in ("global",)}
    monkeypatch.setattr(prediction, "predict", lambda *given, **options: Prediction(nan, None))
    with pytest.raises(UserError, match=r"logits are not finite at step 5 of stage 1_glob"):
        train(config, str(tmp_path / "run"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_is_looked_at_though_it_is_not_logged(config, fake_step, tmp_path, value):
    config.log_every = 1000
    config.checkpoint_every = 1000
    bad = {"loss": jnp.float32(value)}
    fake_step(lambda step, state: (state, bad if step == 3 else LOSS))
    message = f"the loss is {value} at step 3 of stage 1_global; there is no checkpoint yet"
    with pytest.raises(UserError, match=message):
        train(config, str(tmp_path / "run"))


def test_weights_that_are_not_finite_are_not_saved(config, fake_step, tmp_path):
    spoil = jax.jit(
        lambda state: state.replace(variables=jax.tree.map(lambda x: x * jnp.nan, state.variables))
    )
    fake_step(lambda step, state: (spoil(state) if step == 4 else state, LOSS))
    with pytest.raises(UserError, match=r"weights are not finite at step 4 .* is step 2 "):
        train(config, str(tmp_path / "run"))
    with StageCheckpoints(checkpoint_folder(tmp_path / "run"), read_only=True) as checkpoints:
        assert checkpoints.all_steps() == [2]


def test_a_transfer_hidden_in_the_step_is_refused(config, fake_step, tmp_path):
    add = jax.jit(lambda step, extra: step + extra)

    def transfer(step, state):
        add(state.step, np.ones(3, np.int32))
        return state, LOSS

    fake_step(transfer)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(config, str(tmp_path / "run"))


def test_a_trace_leaves_nothing_beside_the_workdir(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    add = jax.jit(lambda x: x + 1)
    with fit.Profile(epath.Path(tmp_path) / "profile", steps=1, resumed=4, total=9) as profile:
        traced = []
        for step in range(5, 10):
            profile.before(step)
            traced += [step] * bool(list(temporary.iterdir()))
            profile.after(step, add(step))
    # One of the last, since there are fewer than warm up.
    assert traced == [9]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert not list(temporary.iterdir())


def prepare(recipe, optimizer, devices):
    """The step that training runs, and what the global stage calls it with first."""
    mesh = device_mesh(jax.devices()[:devices])
    stage = Stage(1, ("global",))
    step = fit.make_train_step(
        types.SimpleNamespace(recipe=recipe, mesh=mesh),
        types.SimpleNamespace(stage=stage, optimizer=optimizer, accumulate=1),
    )
    trained, frozen = split_variables(make_variables(recipe), stage)
    state = replicate(mesh, init_state(trained, optimizer))
    return step, state, replicate(mesh, frozen), shard_batch(mesh, make_batch(8, 40))


def test_a_step_gives_up_the_old_state():
    optimizer = sgd(0.1, 10, 10.0, 0.9, 1e-4)[0]
    step, state, frozen, batch = prepare(make_recipe(32), optimizer, devices=2)
    compiled = step.lower(state, frozen, batch).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == pytest.approx(size, rel=0.01)
    new, _ = step(state, frozen, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, frozen, batch)))


@pytest.mark.slow
def test_bfloat16_trains_much_as_float32():
    losses = {}
    for dtype in ("float32", "bfloat16"):
        recipe = make_recipe(
            32, jnp.dtype(dtype), pooling="avg", augmentation=Augmentation("centre")
        )
        optimizer = sgd(0.05, 1000, 10.0, 0.9, 1e-4)[0]
        step, state, frozen, batch = prepare(recipe, optimizer, devices=1)
        # Parameters, statistics and momentum stay in float32.
        kinds = {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim}
        assert kinds == {"float32"}
        losses[dtype] = []
        for _ in range(10):
            state, metrics = step(state, frozen, batch)
            losses[dtype].append(float(metrics["loss"]))
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]
    for history in losses.values():
        assert history[-1] < 0.7 * history[0]


def shapes_of(experiment, schedule):
    """The shapes and dtypes of a stage's batch on the devices."""
    records, size = experiment.records, schedule.batch_size
    side, features = experiment.recipe.input_size, 64  # of `resnet_small`
    arrays = {"labels": ((size, len(records.labels)), np.uint8)}
    if schedule.stage.number == 1:
        arrays["image"] = (size, records.image_size, records.image_size), np.uint8
        arrays["record"] = (size,), np.int32
    else:  # from the host cropper
        arrays["local_images"] = (size, side, side), np.float32
        arrays["pooled_global"] = (size, features), np.float32
    sharding = NamedSharding(experiment.mesh, SHARDED)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }


def digest(compiled):
    """Hash the optimised HLO, but for the lines of Python that each instruction comes from."""
    tables, computations = compiled.as_text().split("\n%", 1)
    computations = re.sub(r", metadata=\{[^}]*\}", "", computations)
    return hashlib.sha256((tables.splitlines()[0] + computations).encode()).hexdigest()


@pytest.mark.parametrize(
    "stage",
    [Stage(1, ("global",)), pytest.param(Stage(2, ("local",)), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_step_compiled_from_shapes_is_the_one_that_runs_and_repeats_itself(
    config, tmp_path, stage
):
    schedule = make_schedule(experiment := open_run(config, epath.Path(tmp_path)), stage)
    # On the host, since a step gives up the buffers of what it starts from.
    variables = jax.device_get(make_variables(experiment.recipe))
    trained, frozen = split_variables(variables, stage)
    frozen = replicate(experiment.mesh, frozen)

    def start():
        return replicate(experiment.mesh, init_state(trained, schedule.optimizer))

    ahead = fit.compile_step(
        experiment,
        schedule,
        *jax.tree.map(ocp.utils.to_shape_dtype_struct, (start(), frozen)),
        shapes_of(experiment, schedule),
    )
    losses = []
    for _ in range(2):
        state = start()
        with contextlib.closing(fit.open_batches(experiment, schedule, frozen)) as batches:
            batch = next(batches)
            if not losses:
                step = fit.compile_step(experiment, schedule, state, frozen, batch)
                assert digest(step) == digest(ahead)
            for _ in range(3):
                state, metrics = ahead(state, frozen, batch)
                losses.append(float(metrics["loss"]))
                batch = next(batches)
    assert losses[:3] == losses[3:]
    assert len(set(losses)) == 3


NEEDED = {
    "argument": GIB,
    "output": GIB,
    "temp": 17 * GIB,
    "alias": GIB,
    "total": 18 * GIB,
}
NEEDED["peak"] = 16 * GIB


class Device:
    """A device that reports its memory as a GPU does."""

    def __init__(self, stats):
        self.memory_stats = lambda: stats

    def __str__(self):
        return "gpu:0"


def test_memory_of_a_step_that_donates_its_state():
    def step(state, batch):
        return state + batch.sum(), batch.mean()

    state, batch = jnp.zeros(1000, jnp.float32), jnp.zeros(500, jnp.float32)
    memory = fit.step_memory(jax.jit(step, donate_argnums=0).lower(state, batch).compile())
    assert memory["argument"] == 6000
    assert memory["alias"] == 4000
    assert memory["output"] >= 4004  # a tuple's pointers count too
    assert memory["total"] == memory["output"] + memory["temp"] + 2000
    assert 0 < memory["peak"] <= memory["total"]


def test_without_an_analysis():
    assert fit.step_memory(types.SimpleNamespace(memory_analysis=lambda: None)) is None


def test_a_step_that_fits():
    fit.check_memory(NEEDED, Device({"bytes_limit": 16 * GIB}))


@pytest.mark.parametrize("stats", [None, {}, {"bytes_in_use": 0}])
def test_a_device_without_a_limit(stats):
    fit.check_memory(NEEDED, Device(stats))


def test_this_cpu():
    fit.check_memory(NEEDED, jax.devices("cpu")[0])


def test_a_step_that_does_not_fit():
    with pytest.raises(UserError) as raised:
        fit.check_memory(NEEDED, Device({"bytes_limit": 16 * GIB - 1, "bytes_in_use": 0}))
    message = str(raised.value)
    assert message.startswith(
        "a training step needs 16.00 GiB (arguments 1.00, outputs 1.00, scratch 17.00, reused "
        "1.00) and gpu:0 allows 16.00 GiB"
    )
    for key in ("accumulate", "batch_size", "input_size", "dtype"):
        assert f"--config.{key}" in message
