"""Figures and bounds that benchmarks/roofline.py reads from a program, against values by hand."""

import json
import sys

import pytest

from agcnn_jax.runtime.errors import UserError
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import optimised_hlo
import roofline

PROGRAM = """HloModule example, is_scheduled=true

%fused_transpose (param_0: bf16[64,32]) -> bf16[64,32] {
  %param_0 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %copy.1 = bf16[64,32]{0,1:T(8,128)(2,1)} copy(%param_0)
}

%fused_update (param_0.1: f32[8,128], param_1.1: f32[16,128], param_2: s32[]) -> f32[8,128] {
  %param_0.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %param_1.1 = f32[16,128]{1,0:T(8,128)} parameter(1)
  %param_2 = s32[]{:T(128)S(2)} parameter(2)
  %row.1 = f32[1,128]{1,0:T(1,128)} slice(%param_1.1), slice={[3:4], [0:128]}
  ROOT %update = f32[8,128]{1,0:T(8,128)} dynamic-update-slice(%param_0.1, %row.1, %param_2, %param_2)
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

ENTRY %main (a: bf16[64,32], b: f32[8,128], c: f32[16,128], at: s32[]) -> f32[8,128] {
  %a = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %c = f32[16,128]{1,0:T(8,128)} parameter(2)
  %at = s32[]{:T(128)S(2)} parameter(3)
  %turned = bf16[64,32]{0,1:T(8,128)(2,1)} fusion(%a), kind=kLoop, calls=%fused_transpose
  %copy-start = (bf16[64,32]{0,1:T(8,128)(2,1)S(1)}, bf16[64,32]{0,1:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%turned)
  %copy-done = bf16[64,32]{0,1:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %twice = bf16[64,32]{0,1:T(8,128)(2,1)S(1)} add(%copy-done, %copy-done)
  %updated = f32[8,128]{1,0:T(8,128)} fusion(%b, %c, %at), kind=kLoop, calls=%fused_update
  %pixels = f32[2,128]{1,0:T(2,128)} gather(%updated, %at), offset_dims={1}
  %reduced = (f32[8,128]{1,0:T(8,128)}, bf16[32]{0:T(256)S(1)}) all-reduce(%updated, %twice), to_apply=%sum
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%reduced), index=0
}
"""  # noqa: E501


def test_types_by_hand():
    assert optimised_hlo.in_memory("bf16[64,32]{1,0:T(8,128)(2,1)}") == 64 * 128 * 2
    assert optimised_hlo.in_memory("bf16[64,32]{0,1:T(8,128)(2,1)}") == 128 * 32 * 2
    assert optimised_hlo.in_memory("bf16[64,7,7,30]{3,0,2,1:T(8,128)}") == 64 * 49 * 128 * 2
    assert optimised_hlo.in_memory("(f32[5]{0:T(128)}, pred[5]{0:T(128)S(1)})") == 128 * 4
    assert optimised_hlo.size("(f32[5]{0:T(128)}, pred[5], s32[])") == 20 + 5 + 4


def test_traffic_by_hand():
    program = optimised_hlo.parse(PROGRAM)
    assert optimised_hlo.traffic(program) == {
        "fusion": (64 * 128 + 128 * 32) * 2 + (128 + 128) * 4,  # a row read, and written in place
        "copy": 128 * 32 * 2,  # the destination is in the chip's own memory
        "add": 0,
        "gather": (2 * 128 + 2 * 128) * 4,
        "all-reduce": (8 * 128 + 8 * 128) * 4,
    }
    everything = optimised_hlo.traffic(optimised_hlo.parse(optimised_hlo.everywhere(PROGRAM)))
    assert everything["copy"] == 2 * 128 * 32 * 2 + 4  # with its flag
    assert everything["add"] == 3 * 128 * 32 * 2


def test_operations_by_hand():
    assert optimised_hlo.operations(optimised_hlo.parse(PROGRAM)) == {
        "collectives": {"all-reduce": {"count": 1, "bytes": 8 * 128 * 4 + 32 * 2}},
        "gathers": {"f32[2,128]": 1},
        "scatters": {},
    }


def test_bounds_by_hand():
    row = {"generation": "v5e", "chips": 4, "batch_per_chip": 64, "flops": 197e9}
    row |= {"hbm_bytes": 819e7, "collectives": {"all-reduce": {"count": 3, "bytes": 2e8}}}
    assert roofline.bounds(row) == {
        # 1.5 x 0.2 GB over two ports of 50 GB/s each.
        "milliseconds": {"arithmetic": 1.0, "memory": 10.0, "interconnect": 3.0},
        "limit": "memory",
        "images_per_second_per_chip": 6400,
    }


@pytest.fixture
def studied(monkeypatch):
    """Rows without a compiler, and the cases that were asked for."""
    cases = []

    def study(case):
        cases.append(case)
        row = case | {"flops": 1e12, "hbm_bytes": 1e9, "accessed_bytes": 2e9, "collectives": {}}
        return row | {"planned_memory": 2**30, **roofline.bounds(row)}

    monkeypatch.setattr(roofline, "study", study)
    monkeypatch.setattr(roofline, "version", lambda name: "1.0")
    return cases


def run_roofline(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["roofline.py", *map(str, arguments)])
    roofline.main()


def test_a_second_run_goes_on(studied, monkeypatch, tmp_path, capsys):
    out = tmp_path / "v5e.json"
    options = ("--generations", "v5e", "--chips", 4, "--backbones", "resnet50", "--out", out)
    run_roofline(monkeypatch, *options, "--parts", "global")
    run_roofline(monkeypatch, *options, "--parts", "global", "predict")
    assert [case["part"] for case in studied] == ["global", "predict"]
    run_roofline(monkeypatch, *options, "--parts", "global", "--remat")
    assert len(studied) == 3
    assert [row["remat"] for row in json.loads(out.read_text())["rows"]] == [False, False, True]
    assert "| 4 x v5e | resnet50 | global, bfloat16, remat | 128 |" in capsys.readouterr().out


def test_a_file_of_other_versions_is_left_alone(studied, monkeypatch, tmp_path):
    out = tmp_path / "v5e.json"
    out.write_text(json.dumps({"versions": {"jax": "0.1", "libtpu": "0.1"}, "rows": []}))
    with pytest.raises(UserError, match=r"v5e\.json was made with"):
        run_roofline(monkeypatch, "--out", out)
    assert not studied


class Compilation:
    """A process that writes a part of a program at each look, and then ends."""

    exitcode = 1

    def __init__(self, folder, *texts):
        self.folder, self.texts = folder, list(texts)

    def is_alive(self):
        return bool(self.texts)

    def join(self, timeout):
        if self.texts:
            name = "module_1.after_optimizations_after_buffer_assignment.txt"
            (self.folder / name).write_text(self.texts.pop(0))


def test_a_program_counts_once_it_is_whole(tmp_path):
    texts = ("ENTRY {", "ENTRY {", "ENTRY {\n}\n", "ENTRY {\n}\n", "never read")
    child = Compilation(tmp_path, *texts)
    assert roofline.wait_for_program(tmp_path, child) == "ENTRY {\n}\n"
    assert child.texts == ["never read"]


def test_a_failed_compilation_is_named(tmp_path):
    with pytest.raises(UserError, match="status 1"):
        roofline.wait_for_program(tmp_path, Compilation(tmp_path))
