from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medimind.training import stop as stop_module
from medimind.training.stop import SignalStop, TimeLimit


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_for_a_stop(number, caplog):
    before = signal.getsignal(number)
    with SignalStop() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert "finishing this step" in caplog.text
    assert signal.getsignal(number) is before


def test_second_signal_kills():
    path = str(Path(stop_module.__file__).parent)
    code = f"""
import os, signal, sys, types
sys.modules["medimind.training"] = package = types.ModuleType("medimind.training")
package.__path__ = [{path!r}]  # without the package's own imports: torch is not needed here
from medimind.training.stop import SignalStop
with SignalStop() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert "still here" not in done.stdout


def test_other_threads_leave_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with SignalStop() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_no_limit_never_stops():
    assert not TimeLimit(None, started=0.0, clock=lambda: 1e12).leaves_no_step()


@pytest.mark.parametrize(
    ("elapsed", "stops"), [(3600 - 60 - 121, False), (3600 - 60 - 119, True), (4000, True)]
)
def test_room_is_kept_for_step_evaluation_and_two_saves(elapsed, stops):
    limit = TimeLimit(1.0, started=100.0, clock=lambda: 100.0 + elapsed)
    for what, seconds in [("step", 40), ("step", 5), ("evaluation", 20), ("save", 60)]:
        limit.note(what, seconds)
    assert limit.leaves_no_step() is stops


def test_a_margin_is_kept_before_the_first_save():
    now = [0.0]
    limit = TimeLimit(12.0, clock=lambda: now[0])
    now[0] = 12 * 3600 - 61
    assert not limit.leaves_no_step()
    now[0] = 12 * 3600 - 59
    assert limit.leaves_no_step()
