"""Damaged data and processes that disagree: all end with one line that names the cause."""

import json
import shutil

import jax
import numpy as np
import pytest

from agcnn_jax.interop.weights import save_weights
from agcnn_jax.run.lineage import NOTHING
from tests.pods.interrupted import latest
from tests.pods.refusals import refused
from tests.support.processes import DEMO, Run
from tests.support.programs import ROOT
from tests.support.small_steps import random_variables

OPTIONS = (
    f"--config={ROOT}/tests/configs/demo.py",
    *DEMO[1:],
    "--config.checkpoint_every=2",
    "--config.epochs=40",
)
STORE = "chest_xray14/1.0.0"
SHARD = f"{STORE}/chest_xray14-images.array_record-00001-of-00006"


@pytest.fixture
def copy(data_dir, tmp_path):
    """A copy of the dataset that a test may damage."""
    shutil.copytree(data_dir, tmp_path / "copy")
    return tmp_path / "copy"


def training(data_dir, workdir, *options, program="train.py", **settings):
    """Start `train.py` in two processes of two devices, unless `settings` of `Run` differ."""
    return Run(
        program,
        *OPTIONS,
        f"--config.data.dir={data_dir}",
        f"--workdir={workdir}",
        *options,
        **settings,
    )


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path, records=range(4)):
    """Change bytes in the middle of a file, in place."""
    with open(path, "r+b") as file:
        for record in records:
            file.seek(5000 + 8000 * record)
            file.write(b"\xff" * 2000)


def checkpoints_of(workdir, stage="1_global"):
    folder = workdir / "stages" / stage / "checkpoints"
    return [int(path.name) for path in folder.glob("*") if path.name.isdigit()]


class TestData:
    @pytest.mark.slow
    @pytest.mark.parametrize("damage", ["missing", "truncated"])
    def test_a_shard_of_one_host(self, data_dir, copy, tmp_path, damage):
        (copy / SHARD).unlink() if damage == "missing" else cut(copy / SHARD)
        with training(
            data_dir, tmp_path / "run", each={1: (f"--config.data.dir={copy}",)}, devices=1
        ) as run:
            ends = run.finish(timeout=120)
        refused(ends, str(copy / SHARD), damage, "copy it again", "process 1")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("processes", [1, 2])
    def test_a_shard_that_breaks_while_training(self, data_dir, copy, tmp_path, processes):
        workdir = tmp_path / "run"
        each = {processes - 1: (f"--config.data.dir={copy}",)}
        with training(data_dir, workdir, processes=processes, devices=1, each=each) as run:
            run.wait_for(lambda: checkpoints_of(workdir), timeout=200)
            for shard in sorted((copy / STORE).glob("*array_record*")):
                flip(shard)
            ends = run.finish(timeout=100)
        refused(ends, f"{copy / STORE}/chest_xray14-images.array_record-0000", "is damaged")
        step, state = latest(workdir, "1_global")
        assert step in checkpoints_of(workdir)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def another_repository(folder):
    """Copy the files that a run needs, with a change in one of them."""
    for name in ("agcnn_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    with open(folder / "agcnn_jax/models/layers.py", "a") as file:
        file.write("\n# changed\n")
    return folder


def some_weights(folder, seed):
    """Write converted weights of the demo's backbone, drawn from a seed."""
    from agcnn_jax.models.agcnn import AGCNN
    from agcnn_jax.models.registry import make_backbone

    model = AGCNN(
        backbone=make_backbone("resnet_small", None, np.float32),
        label_count=15,
        pooling="avg",
        mean=(0.5,),
        std=(0.25,),
    )
    variables = jax.device_get(random_variables(model, 56, seed))
    about = {"backbone": "resnet_small", "channels": 1, "branches": ["global", "local", "fusion"]}
    about |= {"classes": None, "pooling": "avg", "mean": [0.5], "std": [0.25]}
    about["lineage"] = NOTHING.to_json()
    save_weights(folder, variables, about)


class TestProcessesThatDiffer:
    """Process 1 differs from process 0."""

    def finish(self, *args, **settings):
        with training(*args, devices=1, **settings) as run:
            return run.finish(timeout=120)

    @pytest.mark.slow
    def test_config(self, data_dir, tmp_path):
        ends = self.finish(data_dir, tmp_path / "run", each={1: ("--config.seed=1",)})
        refused(ends, "process 1 differs from process 0 in config.seed: 1 instead of 0")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_devices(self, data_dir, tmp_path):
        two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        ends = self.finish(data_dir, tmp_path / "run", variables={1: two})
        refused(ends, "different numbers of devices: process 0 1, process 1 2; give all")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_code(self, data_dir, tmp_path):
        other = another_repository(tmp_path / "other")
        ends = self.finish(data_dir, tmp_path / "run", cwd={1: other})
        refused(ends, "process 1 differs from process 0 in file agcnn_jax/models/layers.py: ")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_data(self, data_dir, copy, tmp_path):
        path = copy / STORE / "metadata.json"
        metadata = json.loads(path.read_text())
        path.write_text(json.dumps({**metadata, "fingerprint": "0" * 64}))
        each = {1: (f"--config.data.dir={copy}",)}
        ends = self.finish(data_dir, tmp_path / "run", each=each)
        refused(ends, "process 1 differs from process 0 in data fingerprint: '0000")
        assert not (tmp_path / "run").exists()

    def finish_from_weights(self, data_dir, workdir, hosts):
        """Start each process in its host's folder, with the weights/ there."""
        return self.finish(
            data_dir,
            workdir,
            "--config.init=weights",
            program=ROOT / "train.py",
            cwd=dict(enumerate(hosts)),
        )

    @pytest.mark.slow
    def test_weights(self, data_dir, tmp_path):
        hosts = [tmp_path / "host0", tmp_path / "host1"]
        for seed, host in enumerate(hosts):
            some_weights(host / "weights", seed)
        ends = self.finish_from_weights(data_dir, tmp_path / "run", hosts)
        refused(ends, "process 1 differs from process 0 in weights in config.init: ")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_weights_that_one_host_lacks(self, data_dir, tmp_path):
        hosts = [tmp_path / "host0", tmp_path / "host1"]
        some_weights(hosts[0] / "weights", 0)
        hosts[1].mkdir()
        ends = self.finish_from_weights(data_dir, tmp_path / "run", hosts)
        refused(ends, "process 1", "config.init is 'weights', which holds no weights")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_a_workdir_that_is_not_shared(self, data_dir, tmp_path):
        each = {i: (f"--workdir={tmp_path}/host{i}/run",) for i in (0, 1)}
        ends = self.finish(data_dir, tmp_path / "run", each=each)
        refused(
            ends,
            f"process 1 does not see what process 0 writes to --workdir {tmp_path}/host",
            "give a folder that all hosts share",
        )
        # The files left behind do not keep the same command from starting in a shared folder.
        assert not (tmp_path / "host1/run").exists()
        assert not list((tmp_path / "host0/run").glob(".shared-*"))
