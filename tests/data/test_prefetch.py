"""One test for each promise of ``ahead``."""

import threading
import time
from collections.abc import Iterator

import pytest

from polyclinic.data.prefetch import ahead


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("polyclinic-ahead")]


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.mark.parametrize("depth", [1, 2, 5, 50])
def test_results_come_in_order_from_one_thread(depth: int) -> None:
    seen: list[tuple[int, str]] = []

    def make(job: int) -> int:
        seen.append((job, threading.current_thread().name))
        return job * job

    assert list(ahead(make, range(20), depth)) == [i * i for i in range(20)]
    assert [job for job, _ in seen] == list(range(20))
    assert len({name for _, name in seen}) == 1


def test_nothing_to_do_starts_nothing() -> None:
    assert list(ahead(lambda job: job, [])) == []


def test_the_next_ones_are_made_while_the_consumer_works() -> None:
    made = threading.Semaphore(0)

    def make(job: int) -> int:
        made.release()
        return job

    results = ahead(make, range(10), 2)
    assert next(results) == 0
    # 0 was taken; 1 and 2 are made although nobody asked for them, and 3 is not.
    for _ in range(3):
        assert made.acquire(timeout=5)
    assert not made.acquire(timeout=0.1)
    results.close()


def test_an_error_comes_in_its_place_and_is_the_last() -> None:
    made: list[int] = []

    def make(job: int) -> int:
        made.append(job)
        if job == 3:
            raise ValueError("three")
        return job

    results = ahead(make, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert list(results) == []
    assert max(made) <= 5


def test_a_consumer_that_breaks_off_leaves_no_work_behind() -> None:
    made: list[int] = []

    def make(job: int) -> int:
        made.append(job)
        time.sleep(0.01)
        return job

    for result in ahead(make, range(1000)):
        if result == 4:
            break
    assert threads() == []
    assert len(made) <= 4 + 3


def test_an_error_of_the_consumer_ends_the_thread() -> None:
    def consume() -> None:
        for _ in ahead(lambda job: job, range(100)):
            raise KeyError

    with pytest.raises(KeyError):
        consume()


def test_an_iterator_that_is_never_started_starts_no_thread() -> None:
    results = ahead(lambda job: job, range(5))
    assert threads() == []
    del results
