"""Several pieces of work at a time, in threads that an interrupted program does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")


def each_at_once(
    work: Callable[[int], Result], count: int, *, workers: int, stopped: threading.Event
) -> Iterator[tuple[int, Result]]:
    """Number and result of each piece of work, as they come.

    After a failure nothing new is begun; what was under way is still given, and then the failure is
    raised. Ctrl-C ends it at once: the threads are daemons, where those of an executor are joined
    at exit, and would keep the program until a server that hangs has timed out.

    Args:
        work: Called with the numbers from 0 on, in threads.
        count: How many pieces.
        workers: How many at a time.
        stopped: Set when nothing more is wanted; ``work`` may look at it.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, Result] | BaseException | None] = SimpleQueue()
    for index in range(count):
        waiting.put(index)

    def run() -> None:
        while not stopped.is_set():
            try:
                index = waiting.get_nowait()
            except Empty:
                break
            try:
                done.put((index, work(index)))
            except Exception as error:  # whatever it is, the other threads must not go on
                stopped.set()
                done.put(error)
        done.put(None)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(workers, count))]
    try:
        for thread in threads:
            thread.start()
        failure: BaseException | None = None
        running = len(threads)
        while running:
            found = done.get()
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                failure = failure or found
            else:
                yield found
        if failure is not None:
            raise failure
    finally:
        stopped.set()
