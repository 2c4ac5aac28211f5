"""Figures of benchmarks/cpu.py and gpu.py: the order of the cases, and the files with results."""

import json
import sys
from argparse import Namespace
from concurrent.futures import Future

import numpy as np
import pytest

from agcnn_jax.runtime.errors import UserError
from tests.support.programs import ROOT, run

sys.path.append(str(ROOT / "benchmarks"))
import beside
import cpu
import gpu
import side_jax
from sides import Failure, attempt

LIMITS = {"bfloat16_tflops": 100.0, "float32_tflops": 50.0, "copy_gb_per_second": 1000.0}
SECONDS = {"jax": 0.1, "jax_host_cropper": 0.1, "jax_deterministic": 0.2, "torch_compile": 0.15}
FACTS = {"compile_seconds": 1.0, "memory_gib": 2.0, "bytes": 4e9}


class Sides:
    """Sides that answer at once: PyTorch's eager one takes 0.25 s a step, and 64 images at most."""

    def __init__(self, broken=(), late=()):
        self.broken, self.late, self.asked, self.made_with = (
            broken,
            late,
            [],
            {"device": "NVIDIA X 1"},
        )

    def ask(self, side, function, *arguments):
        self.asked.append((side, function, *arguments))
        future = Future()
        if not (side in self.late and function == "prepare"):
            future.set_result(self.answer(side, function, *arguments))
        return future

    def answer(self, side, function, *arguments):
        if function == "peaks":
            return LIMITS
        if function == "flops":
            return 1e9
        if function == "longest_operations":
            return [{"operation": "fusion", "ms": 1.0}]
        if side in self.broken:
            return Failure("ValueError: broken")
        if function == "prepare" and side == "torch_eager" and arguments[1]["batch"] > 64:
            return Failure("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
        return FACTS if function == "prepare" else SECONDS.get(side, 0.25)

    def forget(self):
        pass

    def end(self, *names):
        self.asked.append(("end", *names))


def measure(folder, sides, minutes=60):
    options = Namespace(
        backbone="resnet50",
        results=folder,
        traces=None,
        batch_sizes=(256, 128, 64, 32),
        input_size=224,
        product=64,
    )
    beside.measure_all(gpu.PLAN, options, sides, beside.time.monotonic() + 60 * minutes)
    return json.loads((folder / "gpu_x_1_resnet50.json").read_text())["rows"]


def test_a_batch_that_does_not_fit_gives_way_to_the_next_smaller_one(tmp_path):
    rows = measure(tmp_path, Sides())
    assert len(rows) == len(gpu.PLAN)
    assert {row["batch"] for row in rows if row["smaller"] == 0} == {64}
    assert {row["batch"] for row in rows if row["smaller"] == 1} == {32}
    assert all(row["fits"] and row["finished"] for row in rows)


def test_figures_by_hand(tmp_path):
    first = measure(tmp_path, Sides())[0]
    assert first["results"]["jax"] == {
        "images_per_second": 640.0,
        "slowest": 640.0,
        "fastest": 640.0,
        "share_of_products": 0.006,  # 640 times 1e9 of 100e12
        "share_of_copying": 0.04,  # 4 GB in 0.1 s of 1,000 GB/s
        **FACTS,
    }
    assert first["results"]["torch_eager"]["ratio"] == 2.5
    assert first["results"]["torch_compile"]["ratio"] == 1.5
    assert first["longest_operations"] == [{"operation": "fusion", "ms": 1.0}]


def test_the_next_run_goes_on(tmp_path, monkeypatch):
    plan = gpu.PLAN
    monkeypatch.setattr(gpu, "PLAN", plan[:2])
    assert len(measure(tmp_path, Sides())) == 2
    monkeypatch.setattr(gpu, "PLAN", plan[:3])
    sides = Sides()
    assert [row["smaller"] for row in measure(tmp_path, sides)] == [0, 0, 1]
    prepared = [asked[3]["batch"] for asked in sides.asked if asked[1] == "prepare"]
    assert prepared == [32] * 3  # what the file says fits is not tried again


def test_a_side_that_fails_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PLAN", gpu.PLAN[:1])
    sides = Sides(broken=("torch_compile",))
    (row,) = measure(tmp_path, sides)
    assert row["finished"]
    assert row["results"]["torch_compile"] == {"error": "ValueError: broken"}
    assert row["results"]["torch_eager"]["ratio"] == 2.5
    assert ("end", "torch") in sides.asked


def test_a_late_side_is_measured_by_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PLAN", gpu.PLAN[:1])
    monkeypatch.setattr(beside, "STARTING", 0.0)
    (row,) = measure(tmp_path, Sides(late=("torch_compile",)), minutes=(beside.MEASURING + 1) / 60)
    assert not row["finished"]
    assert set(row["results"]) == {"jax", "torch_eager"}
    (row,) = measure(tmp_path, Sides())
    assert row["finished"]
    assert set(row["results"]) == set(gpu.ALL)


def test_results_of_another_machine_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PLAN", gpu.PLAN[:1])
    measure(tmp_path, Sides())
    other = Sides()
    other.made_with["jax"] = "another"
    with pytest.raises(UserError, match="choose another file"):
        measure(tmp_path, other)


def test_a_failure_is_a_line():
    failure = attempt("json.loads", "{\n")
    assert failure.error.startswith("JSONDecodeError: ")
    assert not failure.out_of_memory
    assert Failure("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory").out_of_memory


CASE = {
    "part": "train",
    "stage": "local",
    "dtype": "float32",
    "backbone": "resnet_small",
    "input_size": 42,
    "stored_size": 48,
    "batch": 4,
}


def test_random_weights_keep_activations_in_scale():
    drawn = side_jax.random_variables(side_jax.make_recipe(CASE))
    backbone = drawn["params"]["local"]["backbone"]
    kernel = backbone["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel.std(), (2 / (7 * 7 * 3)) ** 0.5, rtol=0.05)
    assert (backbone["bn1"]["scale"] == 1).all()
    assert (backbone["bn1"]["bias"] == 0).all()
    assert (drawn["batch_stats"]["local"]["backbone"]["bn1"]["var"] == 1).all()


@pytest.mark.slow
def test_a_step_is_timed_and_traced(tmp_path):
    facts = side_jax.prepare("jax_host_cropper", CASE)
    assert facts["bytes"] > 4 * 42 * 42 * 4  # it reads the local images
    assert side_jax.run("jax_host_cropper", 2) > 0
    operations = side_jax.longest_operations("jax_host_cropper", str(tmp_path / "traces" / "local"))
    assert 1 < len(operations) <= 10
    milliseconds = [one["ms"] for one in operations]
    assert milliseconds == sorted(milliseconds, reverse=True)
    assert milliseconds[0] > 0
    assert sum(one["share"] for one in operations) <= 1.001
    assert "ENTRY" in (tmp_path / "traces" / "local.hlo.txt").read_text()
    side_jax.forget()


@pytest.mark.slow
def test_it_needs_no_packages_for_data_and_configs():
    blocked = ("array_record", "grain", "ml_collections", "tensorboardX", "tensorflow_datasets")
    run(
        "-c",
        f"import sys; sys.path[:0] = ['benchmarks', '.']\n"
        f"sys.modules.update(dict.fromkeys({blocked}))\n"
        "import cpu, gpu, side_jax, cropping",
    )


@pytest.mark.slow
def test_both_sides_on_a_cpu(tmp_path):
    pytest.importorskip("torch")
    options = ["--batch_sizes", 4, 2, "--input_size", 28, "--product", 64, "--minutes", 9]
    run("benchmarks/cpu.py", "--backbone", "resnet_small", *options, "--results", tmp_path)
    (path,) = tmp_path.glob("cpu_*_jax_*_resnet_small.json")
    rows = json.loads(path.read_text())["rows"]
    assert [(row["part"], row["finished"]) for row in rows] == [
        (case[0], True) for case in cpu.PLAN
    ]
    for row in rows:
        for found in row["results"].values():
            assert found["slowest"] <= found["images_per_second"] <= found["fastest"]
            assert ("share_of_products" in found) == (row["part"] != "crop")
