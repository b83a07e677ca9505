"""Call one function with many arguments in worker processes, in bounded number at a time."""

import multiprocessing
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fedkim_ray.errors import EnvironmentProblemError

ALONE_S = 4.0
"""Seconds before workers are started, which takes as long."""
PRELOADED = ("fedkim_ray.data.importing.staging",)
"""Imported once by the process that workers are forked from: torch alone takes seconds."""


def in_processes(
    call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], workers: int
) -> Generator[Any, None, None]:
    """Yield the results as they come, not in order; who stops early closes it, and the workers end.

    The first seconds pass in this process: a small job is done before a worker would have started.

    Raises:
        EnvironmentProblemError: a worker was killed.
    """
    waiting, begun = iter(arguments), time.monotonic()
    for each in waiting:
        yield call(*each)
        if workers > 1 and time.monotonic() - begun > ALONE_S:
            yield from _pooled(call, waiting, workers)


def _pooled(
    call: Callable[..., Any], arguments: Iterator[tuple[Any, ...]], workers: int
) -> Iterator[Any]:
    # A fork server, and no plain fork: this process has threads, whose locks a fork would copy.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield from _results(pool, call, arguments, 2 * workers)
    except BrokenProcessPool:
        raise EnvironmentProblemError(
            "A worker process of the import was killed.",
            "Each worker needs up to 500 MB of memory.",
            "Try again with fewer --workers; what is done is kept.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor,
    call: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    most: int,
) -> Iterator[Any]:
    running: set[Future[Any]] = set()
    for each in arguments:
        running.add(pool.submit(call, *each))
        if len(running) >= most:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)
