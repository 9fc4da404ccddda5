"""Reasoning that a response carries within tags, taken apart."""

from __future__ import annotations

import re

from medimind.cases.outcome import RowProblem

_TAG = re.compile(r"<(/?)think>")
_HUATUO = re.compile(r"## Thinking\s*\n(.*?)\n\s*## Final Response\s*\n(.*)", re.DOTALL)


def has_think_tag(text: str) -> bool:
    """Whether an opening or closing think tag is anywhere in the text."""
    return _TAG.search(text) is not None


def split_thinking(response: str, *, reasoning: str, field: str) -> tuple[str, str]:
    """Reasoning and response, neither with tags.

    ``<think>a</think>b`` and ``a</think>b`` (whose opening tag was in the prompt) give
    ``(a, b)``; so does ``## Thinking`` a ``## Final Response`` b.

    Raises:
        RowProblem: A tag is not closed or is there more than once, text comes before it, nothing
            follows the reasoning, or the reasoning is there a second time in its own column.
    """
    if not has_think_tag(response):
        found = None if reasoning else _HUATUO.fullmatch(response)
        return (found[1].strip(), found[2].strip()) if found else (reasoning, response)
    tags = list(_TAG.finditer(response))
    closing = [tag for tag in tags if tag[1]]
    opening = [tag for tag in tags if not tag[1]]
    if not closing:
        raise RowProblem(
            "opens <think> and never closes it", field=field, fix="Add </think>, or drop the row"
        )
    if len(closing) > 1 or len(opening) > 1:
        raise RowProblem("holds several think tags", field=field, fix="Keep one pair")
    start, end = opening[0].end() if opening else 0, closing[0].start()
    if opening and (start > end or response[: opening[0].start()].strip()):
        raise RowProblem(
            "has its <think> in the middle", field=field, fix="Begin the text with <think>"
        )
    inner, rest = response[start:end].strip(), response[closing[0].end() :].strip()
    if not rest:
        raise RowProblem("holds nothing after </think>", field=field, fix="Add the response")
    if reasoning and inner and inner != reasoning:
        raise RowProblem(
            "holds reasoning in think tags besides the reasoning of its own column",
            field=field,
            fix="Keep one of the two",
        )
    return reasoning or inner, rest


def strip_think_tags(reasoning: str, *, field: str) -> str:
    """Reasoning without the pair of tags around it.

    Raises:
        RowProblem: Tags are within it.
    """
    bare = reasoning.removeprefix("<think>").removesuffix("</think>").strip()
    if has_think_tag(bare):
        raise RowProblem("holds think tags within", field=field, fix="Remove them")
    return bare


def without_thinking(text: str) -> str:
    """An earlier assistant turn without its reasoning, as reasoning models see it."""
    return text.rpartition("</think>")[2].strip()
