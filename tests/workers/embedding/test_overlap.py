import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.embedding.overlap import in_chunks, overlap


def test_results_keep_their_order_and_no_more_is_started_than_asked_for():
    started, done = [], []

    def work(number):
        done.append(number)
        return number * number

    with ThreadPoolExecutor(3) as pool:

        def start():
            for number in range(50):
                started.append(number)
                yield number, pool.submit(work, number)

        for number, square in overlap(start(), 4):
            assert square == number * number
            assert len(started) <= number + 5
    assert sorted(done) == list(range(50))


def test_stages_that_share_one_thread_do_not_wait_for_one_another():
    with ThreadPoolExecutor(1) as pool:
        first = overlap(((n, pool.submit(int, n)) for n in range(20)), 3)
        second = overlap(((n, pool.submit(int, value)) for n, value in first), 3)
        third = overlap(((n, pool.submit(int, value)) for n, value in second), 1)
        assert list(third) == [(n, n) for n in range(20)]


def test_an_error_is_raised_where_it_happened_and_what_waits_is_not_started():
    began = []
    gate = threading.Event()

    def work(number):
        began.append(number)
        if number == 1:
            raise ValueError("one")
        if number == 2:
            gate.wait(10)

    with ThreadPoolExecutor(1) as pool:
        results = overlap(((None, pool.submit(work, number)) for number in range(20)), 5)
        next(results)
        with pytest.raises(ValueError, match="one"):
            next(results)
        gate.set()
    assert max(began) <= 3  # of the seven that were handed in


def test_chunks_are_full_but_for_the_last():
    assert [len(chunk) for chunk in in_chunks(range(10), 4)] == [4, 4, 2]
    assert list(in_chunks([], 4)) == []
