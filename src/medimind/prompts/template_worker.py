"""The program of the process that runs chat templates: one JSON object a line, in and out.

Jinja's sandbox keeps a template from Python's insides, but bounds neither its time (nested loops)
nor its memory (``"x".center(10 ** 10)``); the kernel bounds both for a process of its own.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import date
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_MEMORY = 256 << 20
"""Bytes of address space beyond what the process has at its start."""
MOST_OUTPUT = 1 << 22
"""Characters of a rendered chat."""


def main() -> None:
    """Serve until the input ends."""
    _bound_memory()
    for line in sys.stdin:
        try:
            request = json.loads(line)
            _bound_time(request["seconds"])
            reply = {"text": _render(request["template"], request["values"])}
        except MemoryError:
            reply = {"error": "it needs too much memory"}
        except Exception as error:  # the template is the checkpoint's code: it may raise anything
            reply = {"error": str(error)[:400]}
        _bound_time(0)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _render(template: str, values: dict[str, Any]) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _today
    text = environment.from_string(template).render(**values)
    if len(text) > MOST_OUTPUT:
        raise jinja2.TemplateError("its output is too long")
    return text


def _refuse(message: str) -> str:
    raise jinja2.TemplateError(message)


def _today(pattern: str) -> str:
    return date.today().strftime(pattern)


def _bound_time(seconds: float) -> None:
    """End the process after so much processor time from now; 0 takes the bound away."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _bound_memory() -> None:
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, now + MOST_MEMORY))
    except (ImportError, OSError, ValueError):
        return  # no such limit on this system; the parent still bounds the time


if __name__ == "__main__":
    main()
