"""Work that waits, such as requests to a bucket, done many at a time and taken in order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(
    work: Callable[[Given], Made], given: Iterable[Given], at_once: int
) -> Generator[Made, None, None]:
    """Yield `work` of each entry, in order, while threads do the next `at_once`.

    Raises what `work` raises, when its entry's turn comes.
    """
    pool, waiting = ThreadPoolExecutor(at_once), collections.deque[Future[Made]]()
    try:
        for one in given:
            waiting.append(pool.submit(work, one))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
