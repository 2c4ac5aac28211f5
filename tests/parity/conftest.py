"""Largest differences that the comparisons measure, shown in one table at the end.

These tests take minutes. They run on request (`make parity`), not with all others.
"""

import importlib.util

import pytest

FIGURES: dict[str, tuple[float, float]] = {}


def pytest_collection_modifyitems(config, items):
    asked = any("parity" in str(argument) for argument in config.invocation_params.args)
    if importlib.util.find_spec("torch") is None:
        reason = "needs torch"
    elif not asked:
        reason = "takes minutes; run by `make parity`"
    else:
        return
    for item in items:
        if "parity" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason=reason))


if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def figure():
    """Return `figure(name, value, bound)`, which keeps the largest value and checks its bound."""

    def record(name, value, bound):
        value = float(value)
        FIGURES[name] = (max(value, FIGURES.get(name, (0.0, bound))[0]), bound)
        assert value <= bound, f"{name}: {value:.3g} exceeds {bound:g}"

    return record


def pytest_terminal_summary(terminalreporter):
    if FIGURES:
        width = max(map(len, FIGURES))
        terminalreporter.section("parity with PyTorch")
        terminalreporter.line(f"{'':{width}}  measured    bound")
        for name, (value, bound) in FIGURES.items():
            terminalreporter.line(f"{name:{width}}  {value:8.2g} {bound:8.2g}")
