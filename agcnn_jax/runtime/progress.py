"""Progress of long work on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

LINE_SECONDS = 60.0
"""Between two lines where stderr is no terminal."""


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Counts what is done, and shows it with the rate and the time left.

    Attributes:
        done: number of units that are done.
        later: seconds that other work will take until the end; the time left includes them.
        note: shown at the end, such as the last loss.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        done: int = 0,
        shown: bool = True,
        keep: bool = True,
    ):
        """Begin with `done` of `total` units; `keep` leaves the finished bar on the terminal."""
        self.done, self.later, self.note = done, 0.0, ""
        self._what, self._total, self._unit, self._state = what, total, unit, ""
        shown = shown and sys.stderr is not None
        self._lines = shown and not sys.stderr.isatty()
        self._counted, self._seconds = 0, 0.0
        self._span: tuple[int, float] | None = (done, time.perf_counter())
        self._next_line = time.monotonic() + LINE_SECONDS
        self._bar: Any = None
        if shown and not self._lines:
            from tqdm import tqdm  # which takes 50 ms

            _lock_threads_alone(tqdm)
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                leave=keep,
                dynamic_ncols=True,
                miniters=1,
                bar_format=self._format(),
            )

    def __exit__(self, *details: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.bar_format = self._format()
            self._bar.close()

    def update(self, units: int, note: str | None = None, timed: bool = True) -> None:
        """Count units that were done; those that are not `timed` do not count for the rate."""
        self.done += units
        if self._span is not None and not timed:
            self._span = self._span[0] + units, self._span[1]
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.bar_format = self._format()
            self._bar.update(units)
        elif self._lines and time.monotonic() >= self._next_line:
            write_line(f"{self._what}: {self.describe()}", sys.stderr)
            self._next_line = time.monotonic() + LINE_SECONDS

    def work(self) -> tuple[int, float]:
        """Return the units and the seconds of all work until now, pauses left out."""
        if self._span is None:
            return self._counted, self._seconds
        done, began = self._span
        return self._counted + self.done - done, self._seconds + time.perf_counter() - began

    def rate(self) -> float | None:
        """Return the units per second; None before the first."""
        units, seconds = self.work()
        return units / seconds if units and seconds > 0 else None

    def seconds_left(self) -> float | None:
        """Return how long the rest takes at this rate; None if that is not known, or at the end."""
        rate = self.rate()
        if self._total is None or self.done >= self._total or not rate:
            return None
        return (self._total - self.done) / rate + self.later

    @contextlib.contextmanager
    def paused(self, why: str) -> Iterator[None]:
        """Show what happens instead; neither its seconds nor its units count for the rate."""
        units, seconds = self.work()
        # Before the first unit nothing ran whose rate could be told.
        self._counted, self._seconds = units, seconds if units else 0.0
        self._span, self._state = None, why
        self._redraw()
        try:
            yield
        finally:
            self._span, self._state = (self.done, time.perf_counter()), ""
            self._redraw()

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Show that a program is being compiled, in a line too where there is no bar."""
        if self._lines:
            write_line(f"{self._what}: compiling", sys.stderr)
        with self.paused("compiling"):
            yield

    def describe(self) -> str:
        """Say how much is done, how fast it goes, and how long the rest takes."""
        total = "" if self._total is None else f"of {self._total:,} "
        parts = [f"{self.done:,} {total}{self._unit}"]
        if self._state:
            parts.append(self._state)
        elif rate := self.rate():
            parts.append(f"{rate:,.1f} {self._unit}/s")
            if left := self.seconds_left():
                parts.append(f"{duration(left)} left")
        return ", ".join(filter(None, [*parts, self.note]))

    def _format(self) -> str:
        text = self.describe().replace("{", "{{").replace("}", "}}")
        share = "" if self._total is None else "{percentage:3.0f}%|{bar}| "
        return f"{{desc}}: {share}{text}"

    def _redraw(self) -> None:
        if self._bar is not None:
            self._bar.bar_format = self._format()
            self._bar.refresh()


def write_line(text: str, stream: TextIO | None) -> None:
    """Print a line to stdout or stderr; a bar on the terminal moves out of its way.

    Nothing happens if the stream is closed, which leaves None in its place.
    """
    if stream is None:
        return
    module = sys.modules.get("tqdm")  # without it there is no bar
    with contextlib.suppress(OSError) if stream is sys.stderr else contextlib.nullcontext():
        if module is None:
            print(text, file=stream, flush=True)
        else:
            _lock_threads_alone(module.tqdm)
            module.tqdm.write(text, file=stream)
            stream.flush()


def _lock_threads_alone(tqdm: Any) -> None:
    """Give tqdm no lock between processes: from Python 3.14 on, that is a semaphore to clean up."""
    if not hasattr(tqdm, "_lock"):
        tqdm.set_lock(threading.RLock())


def duration(seconds: float) -> str:
    """Write a time in its two largest units, as in "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
