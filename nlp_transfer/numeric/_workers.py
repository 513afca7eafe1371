"""Threads that each work on their own tile. Private."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """As many threads as torch would use for one operation, each running whole operations by itself.

    A tile that fits one core's cache is too small to share among cores: threads that split each operation
    wait for each other thousands of times a second, which costs most on a busy machine. torch releases the
    interpreter lock inside its operations. On a GPU, and where torch has one thread, work runs in the
    caller.

    Use as a context manager. Inside it the caller's torch operations run on one core too; the thread count is
    restored at the end.
    """

    def __init__(self, device: torch.device) -> None:
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.threads > 1:
            self._pool = ThreadPoolExecutor(self.threads, "nlp_transfer", _prepare_thread)
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self.threads)

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield function(task) in the order of the tasks, which are drawn only a little ahead of their
        results."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        remaining = iter(tasks)
        waiting: deque[Future[Result]] = deque(
            self._pool.submit(function, task) for task in islice(remaining, 2 * self.threads)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(self._pool.submit(function, task) for task in islice(remaining, 1))
            yield result


def _prepare_thread() -> None:
    """One core for each operation of this thread, and no gradients: both settings belong to the thread."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
