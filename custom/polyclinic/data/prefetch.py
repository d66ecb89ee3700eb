"""Work done ahead of its consumer, in one thread, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
J = TypeVar("J")

# One batch is being used, one lies ready, one is made: more would only take memory.
AHEAD = 2


def ahead(make: Callable[[J], T], jobs: Iterable[J], depth: int = AHEAD) -> Iterator[T]:
    """``make(job)`` for each job in order, up to ``depth`` of them made before they are asked for.

    Guarantees:
        - One thread makes them one after the other, as a loop would.
        - An error of ``make`` reaches the consumer in the place of its result, and ends it.
        - Once the consumer stops, ends or drops the iterator nothing is begun any more, and the
          thread is gone when the iterator is closed.
    """
    rest = iter(jobs)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="polyclinic-ahead")
    waiting: deque[Future[T]] = deque()
    try:
        waiting.extend(pool.submit(make, job) for job in islice(rest, depth))
        while waiting:
            first = waiting.popleft()
            waiting.extend(pool.submit(make, job) for job in islice(rest, 1))
            yield first.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
