"""Turns of benchmarks/turns.py, and the figures that benchmarks/feeding.py makes of them."""

import sys

from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import feeding
import turns


def test_turns_by_hand(monkeypatch):
    now, order = [0.0], []

    def worker(name, seconds_a_step):
        rates = iter(seconds_a_step)

        def work(steps):
            order.append((name, steps))
            now[0] += steps * (next(rates) if steps == 10 else 100.0)  # warming up does not count

        return work

    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(turns.time, "process_time", lambda: 2 * now[0])
    works = {"fed": worker("fed", [1.0, 2.0, 4.0]), "resident": worker("resident", [0.5, 2.0, 1.0])}
    seconds = turns.in_turn(works, rounds=3, steps=10)
    assert order == 3 * [("fed", 3), ("fed", 10), ("resident", 3), ("resident", 10)]
    assert seconds == {
        "fed": [(10.0, 20.0), (20.0, 40.0), (40.0, 80.0)],
        "resident": [(5.0, 10.0), (20.0, 40.0), (10.0, 20.0)],
    }
    assert feeding.rates(seconds, images=80) == {
        "fed": {"median": 4.0, "lowest": 2.0, "highest": 8.0},
        "resident": {"median": 8.0, "lowest": 4.0, "highest": 16.0},
        "ratio": 0.5,  # the median of 0.5, 1 and 0.25
    }
