r"""Cases rendered to token ids.

```
BOS  prompt pieces  <think>\n | reasoning  \n</think>\n\n  response  EOS
'---------- prompt ----------' '------------ output, all targets ------------'
```
Prompt and output are encoded apart, so what inference starts from is a prefix of what training
sees, whatever the tokenizer would merge across the border. Within each of the two, text between
control tokens is encoded in one go, so the ids are those the model itself would produce.

Text of a case is never read as control tokens, and nothing that is learned passes through a chat
template: R1's own deletes the reasoning of an assistant's turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medimind.cases.case import Case
from medimind.errors import PromptError
from medimind.prompts.native import native_pieces
from medimind.prompts.parse import parse_output
from medimind.prompts.prompt import Prompt
from medimind.prompts.question import earlier_turns, question_text, response_text
from medimind.prompts.templates import Piece, Template
from medimind.prompts.tokenizer import Encoded, Tokenizer

__all__ = [
    "RejectedCase",
    "RenderedCases",
    "end_id",
    "opens_reasoning",
    "question_text",
    "render_cases",
    "render_inference",
    "render_native",
    "render_training",
]

Run = str | int
"""Text to be encoded in one go, or the id of a control token."""


@dataclass(frozen=True, slots=True)
class RejectedCase:
    """A case that could not be rendered: its index among the cases given, and why."""

    index: int
    case_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RenderedCases:
    """All cases that could be rendered, in their order, and those that could not.

    Attributes:
        prompts: The rendered cases.
        indices: For each prompt, the index of its case among the cases given.
        rejected: The others.
    """

    prompts: tuple[Prompt, ...]
    indices: tuple[int, ...]
    rejected: tuple[RejectedCase, ...]


def render_training(
    case: Case, *, template: Template, tokenizer: Tokenizer, with_options: bool = True
) -> Prompt:
    """A case with its reasoning and response as targets.

    A case without reasoning gets an empty one (see :class:`~medimind.prompts.templates.Template`);
    its closing marker then counts with the response, so that ``num_reasoning_targets`` is 0. With
    reasoning, the markers among the targets count with it.

    Raises:
        PromptError: If the case cannot be learned as it is, such as one whose reasoning itself
            holds the closing marker.
    """
    drafts = [_draft(case, template=template, tokenizer=tokenizer, with_options=with_options)]
    return _encode_drafts(drafts, tokenizer)[0]


def render_cases(
    cases: Sequence[Case], *, template: Template, tokenizer: Tokenizer, with_options: bool = True
) -> RenderedCases:
    """:func:`render_training` for many cases at once, on all cores; bad ones are set apart."""
    drafts, indices, rejected = [], [], []
    for index, case in enumerate(cases):
        try:
            draft = _draft(case, template=template, tokenizer=tokenizer, with_options=with_options)
        except PromptError as error:
            rejected.append(RejectedCase(index, case.id, error.message))
        else:
            drafts.append(draft)
            indices.append(index)
    prompts = _encode_drafts(drafts, tokenizer)
    return RenderedCases(tuple(prompts), tuple(indices), tuple(rejected))


def render_inference(
    case: Case, *, template: Template, tokenizer: Tokenizer, with_options: bool = True
) -> list[int]:
    """The ids that generation starts from; a prefix of what :func:`render_training` gives.

    Only the case's question, options, system text and history are used.
    """
    pieces = _prompt_pieces(case, template=template, tokenizer=tokenizer, with_options=with_options)
    runs = _runs(pieces, tokenizer)
    return _with_bos(_join(_encode_runs([runs], tokenizer, at_start=True)[0]), tokenizer)


def render_native(case: Case, *, tokenizer: Tokenizer, with_options: bool = True) -> list[int]:
    """The prompt of the checkpoint's own chat template, for inference only.

    Raises:
        PromptError: If there is no chat template, it fails, or it drops the question.
    """
    pieces = native_pieces(case, tokenizer=tokenizer, with_options=with_options)
    ids = _join(_encode_runs([_runs(pieces, tokenizer)], tokenizer, at_start=True)[0])
    twice = tokenizer.bos_id is not None and ids[:2] == [tokenizer.bos_id] * 2
    return ids[1:] if twice else ids


def opens_reasoning(prompt_ids: Sequence[int], *, tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends in ``<think>``, so that its output starts inside the reasoning."""
    return tokenizer.decode(prompt_ids[-8:]).rstrip().endswith("<think>")


def end_id(template: Template, tokenizer: Tokenizer) -> int:
    """The id that ends a response: the template's end token, else the tokenizer's EOS.

    Raises:
        PromptError: If there is neither, so that a model could never learn to stop.
    """
    text = template.end_token(tokenizer)
    token_id = tokenizer.eos_id if text is None else tokenizer.token_id(text)
    if token_id is None:
        raise PromptError(
            "the tokenizer names no EOS token, so a model could never learn to stop",
            where=tokenizer.where,
            fix="Add eos_token to tokenizer_config.json",
        )
    return token_id


@dataclass(frozen=True, slots=True)
class _Draft:
    """A case as runs: ``reasoning_end`` is the run and the character the reasoning ends at."""

    case_id: str
    prompt: list[Run]
    output: list[Run]
    reasoning_end: tuple[int, int]


def _draft(case: Case, *, template: Template, tokenizer: Tokenizer, with_options: bool) -> _Draft:
    prompt = _prompt_pieces(case, template=template, tokenizer=tokenizer, with_options=with_options)
    reasoning = _bare_reasoning(case, template)
    response = response_text(case, with_options=with_options)
    thought = [Piece(reasoning, False), Piece(template.reasoning_close, True)]
    if not template.open_in_prompt:
        thought.insert(0, Piece(template.reasoning_open, True))
    answer = [Piece(response, False)]
    _check_parses_back(case, thought + answer, template, expected=(reasoning, response))
    reasoning_runs = _runs(thought, tokenizer) if reasoning else []
    last = reasoning_runs[-1] if reasoning_runs else 0
    end = (
        (len(reasoning_runs) - 1, len(last)) if isinstance(last, str) else (len(reasoning_runs), 0)
    )
    output = [*_runs(thought + answer, tokenizer), end_id(template, tokenizer)]
    return _Draft(case.id, _runs(prompt, tokenizer), output, end)


def _prompt_pieces(
    case: Case, *, template: Template, tokenizer: Tokenizer, with_options: bool
) -> list[Piece]:
    pieces = template.prompt_pieces(
        question_text(case, with_options=with_options),
        system=case.system,
        history=earlier_turns(case),
        tokenizer=tokenizer,
    )
    if template.open_in_prompt:
        pieces = [*pieces, Piece(template.reasoning_open, True)]
    return pieces


def _bare_reasoning(case: Case, template: Template) -> str:
    """The reasoning without the template's markers around it, which some data sets store.

    Empty for a template without markers: such a one teaches responses only.
    """
    opening, closing = template.reasoning_open.strip(), template.reasoning_close.strip()
    if not closing:
        return ""
    return case.reasoning.strip().removeprefix(opening).removesuffix(closing).strip()


def _check_parses_back(
    case: Case, pieces: Iterable[Piece], template: Template, *, expected: tuple[str, str]
) -> None:
    """Refuse a case whose own text would be read as a marker."""
    parsed = parse_output("".join(piece.text for piece in pieces), template=template)
    if template.reasoning_close.strip() and (parsed.reasoning, parsed.answer) != expected:
        raise PromptError(
            "the reasoning or the response holds a marker of the template "
            f"({template.reasoning_open.strip()} or {template.reasoning_close.strip()})",
            where=case.id,
            fix="Take the marker out of the row's text",
        )


def _runs(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[Run]:
    """Pieces as control tokens' ids and the plain text between them."""
    runs: list[Run] = []
    for piece in pieces:
        parts = tokenizer.split_control(piece.text) if piece.is_control else [(piece.text, None)]
        for text, token_id in parts:
            if token_id is not None:
                runs.append(token_id)
            elif text and runs and isinstance(runs[-1], str):
                runs[-1] += text
            elif text:
                runs.append(text)
    return runs


def _encode_runs(
    rows: Sequence[Sequence[Run]], tokenizer: Tokenizer, *, at_start: bool
) -> list[list[Encoded]]:
    """Ids of each run of each row; ``at_start``: a row's first run begins the sequence."""
    first = [run for row in rows for run in row[:1] if isinstance(run, str)]
    later = [run for row in rows for run in row[1:] if isinstance(run, str)]
    firsts = iter(tokenizer.encode_plain(first, at_start=at_start))
    laters = iter(tokenizer.encode_plain(later))
    return [
        [
            Encoded([run], [0]) if isinstance(run, int) else next(laters if index else firsts)
            for index, run in enumerate(row)
        ]
        for row in rows
    ]


def _encode_drafts(drafts: Sequence[_Draft], tokenizer: Tokenizer) -> list[Prompt]:
    prompts = _encode_runs([draft.prompt for draft in drafts], tokenizer, at_start=True)
    outputs = _encode_runs([draft.output for draft in drafts], tokenizer, at_start=False)
    rendered = []
    for draft, prompt, output in zip(drafts, prompts, outputs):
        run, character = draft.reasoning_end
        num_reasoning = sum(len(encoded.ids) for encoded in output[:run])
        if character:
            num_reasoning += bisect_left(output[run].starts, character)
        prompt_ids, output_ids = _with_bos(_join(prompt), tokenizer), _join(output)
        is_target_S = np.ones(len(prompt_ids) + len(output_ids), dtype=np.bool_)
        is_target_S[: len(prompt_ids)] = False
        rendered.append(
            Prompt(
                case_id=draft.case_id,
                token_ids_S=np.array(prompt_ids + output_ids, dtype=np.int32),
                is_target_S=is_target_S,
                prompt_length=len(prompt_ids),
                num_reasoning_targets=num_reasoning,
                num_response_targets=len(output_ids) - num_reasoning,
            )
        )
    return rendered


def _join(encoded: Iterable[Encoded]) -> list[int]:
    return [token_id for part in encoded for token_id in part.ids]


def _with_bos(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    if not tokenizer.adds_bos or tokenizer.bos_id is None or ids[:1] == [tokenizer.bos_id]:
        return ids
    return [tokenizer.bos_id, *ids]
