"""Worker processes: forked from one that has imported what is heavy and done nothing else, so that they start at once.

Not forked from the process that calls: threads of torch and polars do not survive a fork. Nor spawned: each would
spend seconds on the same imports. Nor does a worker run the caller's main module again, as Python's would: it may be a
notebook, standard input, or a script that would start the whole run once more.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
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


class Pool(ProcessPoolExecutor):
    """Worker processes that can be stopped in the middle of a task."""

    def __init__(
        self, workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(workers, mp_context=CONTEXT, initializer=_stoppable, initargs=(initializer, initargs))

    def submit(self, task: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        """See :class:`concurrent.futures.Executor`."""
        return super().submit(_unless_stopped, task, *args, **more)

    def stop(self) -> None:
        """End what runs, by an exception in its process, and drop what waits."""
        for process in list((self._processes or {}).values()):
            process.terminate()
        self.shutdown(cancel_futures=True)


@contextmanager
def pool_of(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Pool]:
    """Give a pool of ``workers`` processes; when its user fails or is interrupted, they stop at once.

    Guarantees:
        A task that is stopped unwinds: what it had in a temporary folder, such as keys, is gone with it.
    """
    prepare(workers)
    with Pool(workers, initializer, initargs) as pool:
        try:
            yield pool
        except BaseException:
            pool.stop()
            raise


_stopped = False
"""In a worker, whether it was told to stop."""


def _stoppable(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """Let SIGTERM end the task at hand; a terminal's Ctrl-C reaches the parent too, which then sends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    if initializer is not None:
        initializer(*initargs)


def _stop(*_: object) -> None:
    global _stopped  # noqa: PLW0603 - a signal has nobody else to tell
    if not _stopped:  # what is unwinding already is not disturbed
        _stopped = True
        raise SystemExit


def _unless_stopped(task: Callable[..., Any], *args: Any, **more: Any) -> Any:
    if _stopped:
        raise SystemExit
    return task(*args, **more)
