"""Bytes that a TPU program moves, read from the text of its optimised HLO."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# These name or order arrays, but do not move them.
_NO_TRAFFIC = {"after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter"}
_NO_TRAFFIC |= {"partition-id", "tuple"}
_BODIES = {"while", "call", "conditional"}

# `%name = TYPE operation(%operand, ...), attributes`, where TYPE may be a tuple.
_INSTRUCTION = re.compile(r"\s+(ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*?)\)(.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%([\w.-]+)")
# `bf16[64,56,56,32]{3,0,2,1:T(8,128)(2,1)S(1)}`: sides, axes from the minor one, tiles, memory.
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")


class Instruction(NamedTuple):
    """An instruction; `called` names the computation of a fusion, or the body of a loop."""

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    called: str
    root: bool


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """The computations of a program by name, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Read an optimised module, as XLA dumps it or `Compiled.as_text` returns it."""
    computations: dict[str, Computation] = {}
    entry = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = computations[start[2]] = {}
            entry = start[2] if start[1] else entry
        elif parts := _INSTRUCTION.match(line):
            root, name, result, operation, operands, attributes = parts.groups()
            called = _CALLED.search(attributes)
            names = tuple(re.findall(r"%([\w.-]+)", operands))
            current[name] = Instruction(
                name, result, operation, names, called[1] if called else "", bool(root)
            )
    return Program(computations, entry)


def everywhere(text: str) -> str:
    """Move all arrays of a type or of a whole program that are in the chip's own memory to HBM."""
    return _ON_CHIP.sub("", text)


def in_memory(result: str) -> int:
    """Return the bytes that a type, or all types of a tuple, take in HBM.

    Tiles are padded: 32 channels that lie along a tile's 128 take as much as 128. Arrays in the
    chip's own memory, `S(1)`, take none.
    """
    total = 0
    for kind, shape, order, layout in _ARRAY.findall(result):
        if _ON_CHIP.search(layout):
            continue
        sides = _numbers(shape)
        if sides and (tile := _TILE.search(layout)):
            for axis, side in zip(_numbers(order), reversed(_numbers(tile[1])), strict=False):
                sides[axis] = -(-sides[axis] // side) * side
        total += _item_bytes(kind) * math.prod(sides)
    return total


def size(result: str) -> int:
    """Return the bytes of the elements of a type or tuple of types, without padding."""
    return sum(
        _item_bytes(kind) * math.prod(_numbers(shape))
        for kind, shape, _, _ in _ARRAY.findall(result)
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _item_bytes(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1  # `pred` takes a byte


def traffic(program: Program, name: str = "") -> collections.Counter[str]:
    """Count the bytes that each kind of instruction reads from HBM and writes to it.

    A fusion reads its operands and writes its results once. Slices read, and updates in place
    write, only their own part. The body of a loop counts once, however often it runs.
    """
    moved: collections.Counter[str] = collections.Counter()
    computation = program.computations[name or program.entry]
    for instruction in computation.values():
        kind = instruction.operation
        if kind in _BODIES:
            moved += traffic(program, instruction.called) if instruction.called else {}
        elif kind == "copy-start":  # its type has the destination and the source
            moved["copy"] += in_memory(instruction.type)
        elif kind == "async-done":  # slices between HBM and the chip's own memory
            moved["slice"] += in_memory(everywhere(instruction.type))
        elif kind not in _NO_TRAFFIC and not kind.endswith(("-start", "-done")):
            moved[kind] += _moved_by(instruction, computation, program)
    return moved


def _moved_by(instruction: Instruction, around: Computation, program: Program) -> int:
    if instruction.operation != "fusion":
        reads = sum(_read_by(instruction, name, around) for name in instruction.operands)
        return reads + _written_by(instruction, around)
    inside = program.computations[instruction.called]
    parameters = (part for part in inside.values() if part.operation == "parameter")
    reads = sum(_read_of(parameter, inside) for parameter in parameters)
    root = next(part for part in inside.values() if part.root)
    results = [inside[name] for name in root.operands] if root.operation == "tuple" else [root]
    return reads + sum(_written_by(result, inside) for result in results)


def _read_of(parameter: Instruction, inside: Computation) -> int:
    """Return the bytes that a fusion reads of a parameter, once for all its instructions."""
    reads = (_read_by(part, parameter.name, inside) for part in inside.values())
    return min(sum(reads), in_memory(parameter.type))


def _read_by(instruction: Instruction, name: str, around: Computation) -> int:
    if name not in instruction.operands:
        return 0
    whole = in_memory(around[name].type)
    if whole and name == instruction.operands[0]:
        if instruction.operation in ("slice", "dynamic-slice", "gather"):
            return in_memory(everywhere(instruction.type))
        if instruction.operation == "dynamic-update-slice":
            return 0
    return whole


def _written_by(instruction: Instruction, around: Computation) -> int:
    if instruction.operation == "dynamic-update-slice" and in_memory(instruction.type):
        return in_memory(everywhere(around[instruction.operands[1]].type))
    return in_memory(instruction.type)


def operations(program: Program) -> dict[str, Any]:
    """Count what a program exchanges with other chips, gathers and scatters.

    Returns:
        `collectives`, `{kind: {"count": .., "bytes": .. of the results}}`, and `gathers` and
        `scatters`, the types of their results with their counts.
    """
    collectives: dict[str, dict[str, int]] = {}
    moved: dict[str, collections.Counter[str]] = {
        "gather": collections.Counter(),
        "scatter": collections.Counter(),
    }
    for instruction in _all(program):
        kind = instruction.operation.removesuffix("-done")
        if kind in COLLECTIVES:
            counts = collectives.setdefault(kind, {"count": 0, "bytes": 0})
            counts["count"] += 1
            counts["bytes"] += size(instruction.type)
        elif kind in moved:
            arrays = (f"{item}[{shape}]" for item, shape, _, _ in _ARRAY.findall(instruction.type))
            moved[kind][", ".join(arrays)] += 1
    return {"collectives": collectives} | {f"{kind}s": dict(moved[kind]) for kind in moved}


def _all(program: Program) -> Iterator[Instruction]:
    for computation in program.computations.values():
        yield from computation.values()
