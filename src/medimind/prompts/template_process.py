"""Chat templates run in a process of their own, which is ended when it takes too long."""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
import threading
from typing import Any

TEMPLATE_SECONDS = 1.5
"""Most processor time for one chat; real templates take milliseconds."""
_START_SECONDS = 20.0
_WAITING_SECONDS = 20.0 if hasattr(signal, "setitimer") else 0.0
"""Wall time beyond it: where the machine is busy, a sound template must not fail for that."""


class TemplateFailedError(Exception):
    """The template raised, took too long, or needed too much memory."""


class TemplateProcess:
    """Starts `template_worker` when first needed, and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None

    def render(self, template: str, **values: Any) -> str:
        """The text that a template gives.

        Args:
            template: Jinja source.
            values: What the template may use; plain JSON values.

        Raises:
            TemplateFailedError: If there is no text within `TEMPLATE_SECONDS`.
        """
        with self._lock:
            if self._worker is None or self._worker.poll() is not None:
                self._worker = self._started()
            seconds = TEMPLATE_SECONDS
            line = _line(template, values, seconds=seconds)
            answer = self._ask(self._worker, line, seconds + _WAITING_SECONDS)
        reply = json.loads(answer) if answer else {"error": "it ended its process"}
        if "error" in reply:
            raise TemplateFailedError(reply["error"])
        return reply["text"]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._worker is not None:
                self._end(self._worker)
                self._worker = None

    def _started(self) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-m", "medimind.prompts.template_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self._ask(worker, _line("{{ 1 }}", {}, seconds=_START_SECONDS), _START_SECONDS)
        return worker

    def _ask(self, worker: subprocess.Popen[str], line: str, seconds: float) -> str:
        """The worker's line; empty if the worker has ended."""
        if worker.stdin is None or worker.stdout is None:
            raise AssertionError("the worker was started without pipes")
        timer = threading.Timer(seconds, worker.kill)
        timer.daemon = True
        timer.start()
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except OSError:  # the worker is gone: a broken pipe, or an invalid argument to Windows
            answer = ""
        finally:
            timer.cancel()
        if not answer.endswith("\n"):
            self._end(worker)
            raise TemplateFailedError("it ran for over a second, or ended its process")
        return answer

    @staticmethod
    def _end(worker: subprocess.Popen[str]) -> None:
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


def _line(template: str, values: dict[str, Any], *, seconds: float) -> str:
    return json.dumps({"template": template, "values": values, "seconds": seconds}) + "\n"


template_process = TemplateProcess()
atexit.register(template_process.close)
