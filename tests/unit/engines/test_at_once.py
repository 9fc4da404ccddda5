"""Work in threads: order, failures, and what an interrupt waits for."""

from __future__ import annotations

import threading

import pytest

from medimind.engines.at_once import each_at_once


def test_every_piece_is_done_once_by_so_many_workers() -> None:
    together = threading.Barrier(3, timeout=10)

    def work(index: int) -> int:
        together.wait()  # passes only if three are at it
        return index**2

    found = dict(each_at_once(work, 9, workers=3, stopped=threading.Event()))
    assert found == {index: index**2 for index in range(9)}
    assert list(each_at_once(work, 0, workers=3, stopped=threading.Event())) == []


def test_after_a_failure_what_is_under_way_is_still_given() -> None:
    failed, begun = threading.Event(), []

    def work(index: int) -> int:
        begun.append(index)
        if index == 1:
            failed.set()
            raise ValueError("broken")
        assert failed.wait(10)
        return index

    stopped = threading.Event()
    results = each_at_once(work, 50, workers=2, stopped=stopped)
    assert next(results) == (0, 0)
    assert stopped.is_set()
    with pytest.raises(ValueError, match="broken"):
        next(results)
    assert sorted(begun) == [0, 1]


def test_who_leaves_does_not_wait_for_work_that_hangs() -> None:
    release, hanging = threading.Event(), threading.Event()

    def work(index: int) -> int:
        if index == 1:
            hanging.set()
            assert threading.current_thread().daemon  # nor does the program at its end
            release.wait(10)
        return index

    stopped = threading.Event()
    results = each_at_once(work, 2, workers=2, stopped=stopped)
    assert next(results) == (0, 0)
    assert hanging.wait(10)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # as Ctrl-C comes
    assert stopped.is_set()
    release.set()
