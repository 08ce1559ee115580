"""`map`, computed ahead of its consumer on threads, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetched"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    threads: int,
    ahead: int,
) -> Generator[Result, None, None]:
    """map(function, arguments), with `ahead` results being made while the consumer works on one.

    An exception in `function` is raised, with its traceback, where its result would have come. When
    the iterator ends or is closed, no thread is left. With threads or ahead 0, the caller's thread
    does the work.
    """
    if threads == 0 or ahead == 0:
        yield from map(function, arguments)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="dtrain-loader")
    waiting: deque[Future[Result]] = deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(function, argument))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
