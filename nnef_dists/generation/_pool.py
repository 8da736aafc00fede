"""Execution of chunk tasks on any executor, with retries after the death of a worker."""

import contextlib
import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future

from nnef_dists.generation._chunk_task import ChunkTask, run_task
from nnef_dists.storage import Environment, Store, describe_environment

_ATTEMPTS = 3
_KEPT = "the chunks that are done are kept: call again with the same arguments to resume"


@contextlib.contextmanager
def opened_pool(executor: Executor | Callable[[], Executor] | None) -> Iterator["Pool | None"]:
    """Yields a pool, and shuts its executor down if the pool made it.

    Args:
        executor: An executor, a function that makes one, or None.

    Yields:
        The pool, or None without an executor.
    """
    if executor is None:
        yield None
        return
    pool = Pool(executor)
    try:
        yield pool
    finally:
        pool.close()


class Pool:
    """An executor, which is made again after it breaks if a function makes it.

    Args:
        executor: An executor, or a function that makes one.
    """

    def __init__(self, executor: Executor | Callable[[], Executor]):
        self._make = None if isinstance(executor, Executor) else executor
        self._executor = executor if isinstance(executor, Executor) else None

    def close(self) -> None:
        """Shuts the executor down if this pool made it."""
        if self._make is not None and self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def environment(self) -> Environment:
        """Returns the environment of a worker."""
        try:
            return self._running().submit(describe_environment).result()
        except BrokenExecutor as error:
            raise RuntimeError(f"A worker died at its start: {error}") from error

    def run(self, store: Store, tasks: list[ChunkTask], on_chunk: Callable[[int], object]) -> None:
        """Runs all tasks. Tasks of a worker that dies are submitted again.

        Args:
            store: The store that tasks write to.
            tasks: The tasks.
            on_chunk: Function that is called with the number of each completed chunk.

        Raises:
            ValueError: If a task raises it.
            OSError: If a chunk cannot be written in 3 attempts.
            RuntimeError: If a chunk fails 3 times, or the executor breaks 3 times in a row. If no
                function makes the executor, one break is enough.
        """
        finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        pending: dict[Future, ChunkTask] = {}
        waiting = deque(tasks)
        failures: Counter[int] = Counter()
        breaks = 0
        try:
            while waiting or pending:
                try:
                    while waiting:
                        future = self._running().submit(run_task, waiting[0])
                        pending[future] = waiting.popleft()
                        future.add_done_callback(finished.put)
                    future = finished.get()
                    if future not in pending:
                        continue
                    outcome = _outcome(future)
                except BrokenExecutor as error:
                    # Some chunks may be complete although their worker has not reported them.
                    done = [task for task in pending.values() if store.is_done(task.number)]
                    breaks = 1 if done else breaks + 1
                    self._replace(breaks, error)
                    for task in done:
                        on_chunk(task.number)
                    waiting.extend(task for task in pending.values() if task not in done)
                    pending.clear()
                    continue
                task = pending.pop(future)
                if isinstance(outcome, Exception):
                    failures[task.number] += 1
                    _give_up(task, failures[task.number], outcome)
                    waiting.append(task)
                    continue
                breaks = 0
                if outcome not in store.environments:
                    store.add_environment(outcome)
                on_chunk(task.number)
        finally:
            for future in pending:
                future.cancel()

    def _running(self) -> Executor:
        if self._executor is None:
            assert self._make is not None
            self._executor = self._make()
        return self._executor

    def _replace(self, breaks: int, error: BrokenExecutor) -> None:
        if self._make is None:
            raise RuntimeError(
                f"The executor broke, as a worker died ({error}); {_KEPT} with a new executor, or "
                "pass a function that makes one, to have it made again"
            ) from error
        if breaks == _ATTEMPTS:
            raise RuntimeError(f"The executor broke {breaks} times in a row; {_KEPT}") from error
        self.close()


def _outcome(future: Future) -> Environment | Exception:
    try:
        return future.result()
    except BrokenExecutor:
        raise
    except Exception as error:
        return error


def _give_up(task: ChunkTask, failures: int, error: Exception) -> None:
    """Raises an error after the last attempt, or if another attempt cannot help."""
    if isinstance(error, ValueError) or (isinstance(error, OSError) and failures == _ATTEMPTS):
        raise error
    if failures == _ATTEMPTS:
        raise RuntimeError(
            f"Chunk {task.number} of {task.path} failed {failures} times, at last with {error!r}; "
            f"{_KEPT}"
        ) from error
