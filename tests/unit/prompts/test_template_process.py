"""Chat templates are others' code: they run bounded, in a process of their own."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from medimind.prompts.template_process import TemplateFailedError, TemplateProcess

LOOPS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x=0) %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% set ns.x = ns.x + 1 %}{% endfor %}{% endfor %}",
]
EATERS = [
    "{{ 'x' * 10 ** 10 }}",
    "{{ 'x' | center(10 ** 10) }}",
    "{{ 'x'.ljust(10 ** 10) }}",
    "{{ '%09999999999d' % 1 }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
]


@pytest.fixture(scope="module")
def process():
    process = TemplateProcess()
    yield process
    process.close()


def test_it_renders(process):
    assert process.render("{{ a }} {{ b[0].c }}", a="é\n", b=[{"c": 1}]) == "é\n 1"


def test_a_loop_is_ended_and_the_next_template_runs(process, monkeypatch, processor_seconds):
    monkeypatch.setattr("medimind.prompts.template_process.TEMPLATE_SECONDS", 0.3)
    for template in LOOPS:
        started = processor_seconds()
        with pytest.raises(TemplateFailedError, match="ran for over"):
            process.render(template)
        assert processor_seconds() - started < 2
        assert process.render("{{ 1 + 1 }}") == "2"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_a_machine_that_is_busy_elsewhere_fails_no_template(process, monkeypatch):
    monkeypatch.setattr("medimind.prompts.template_process.TEMPLATE_SECONDS", 0.1)
    process.render("{{ 1 }}")
    os.kill(process._worker.pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (process._worker.pid, signal.SIGCONT)).start()
    assert process.render("{{ 1 + 1 }}") == "2"


@pytest.mark.parametrize("template", EATERS)
def test_memory_and_insides_are_out_of_reach(process, template, processor_seconds):
    started = processor_seconds()
    with pytest.raises(TemplateFailedError):
        process.render(template)
    assert processor_seconds() - started < 3  # 1.5, and the start of the process
    assert process.render("{{ 1 + 1 }}") == "2"


def test_a_huge_output_is_refused(process):
    with pytest.raises(TemplateFailedError, match="too long"):
        process.render("{% for a in range(90000) %}{{ 'x' * 100 }}{% endfor %}")
