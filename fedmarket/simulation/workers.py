"""Worker processes: forked from one that has imported what is heavy and done nothing else, so that they start at once.

Not forked from the process that calls: threads of torch and polars do not survive a fork. Nor spawned: each would
spend seconds on the same imports. Nor does a worker run the caller's main module again, as Python's would: it may be a
notebook, standard input, or a script that would start the whole run once more.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.popen_forkserver import Popen
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

THREADS = "OMP_NUM_THREADS"
HEAVY = [
    "torch",
    "scipy.signal",
    "scipy.special",
    "dp_accounting.pld",
    "prv_accountant",
    "flwr.clientapp",
    "flwr.serverapp",
]
"""What is imported once for all. None of it starts a thread, as polars does."""


class Worker(ForkServerProcess):
    """A process that is told of no main module; all that it is asked to do has a module of its own."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:  # noqa: N802 - multiprocessing's name
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class WorkerContext(ForkServerContext):
    """Starts each process as a :class:`Worker`."""

    Process = Worker


CONTEXT = WorkerContext()


def prepare(workers: int) -> None:
    """Start the process that ``workers`` are forked from, where there will be several; it imports meanwhile.

    Workers share the cores: idle OpenMP threads that spin on a busy core cost more than the work.
    """
    if workers == 1:
        return
    before = os.environ.get(THREADS)
    os.environ.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // workers)))
    try:
        CONTEXT.set_forkserver_preload(HEAVY)
        forkserver.ensure_running()
    finally:
        if before is None:
            os.environ.pop(THREADS, None)


@contextmanager
def pool_of(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of ``workers`` processes; when its user fails, what waits is dropped."""
    prepare(workers)
    with ProcessPoolExecutor(workers, mp_context=CONTEXT, initializer=initializer, initargs=initargs) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
