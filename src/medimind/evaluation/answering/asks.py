"""What is asked of an engine, and the key of each record that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medimind.cases.case import OPTION_LETTERS, Case
from medimind.engines.engine import Decoding, Engine, Message, OptionRequest, Request, Variant
from medimind.errors import EvaluationError
from medimind.evaluation.benchmarks.benchmark import Benchmark
from medimind.evaluation.benchmarks.own_file import ALIASES
from medimind.evaluation.records import Kind, Record, digest
from medimind.evaluation.score import case_kind, gold_of
from medimind.prompts.question import question_text

Wording = Literal["chat", "harness"]
Progress = Callable[[str, int, int], None]
"""Called with a title, the finished and the wanted items."""

_RECORD_VERSION = 1  # part of every key: records of an older way to ask are asked again
ANSWER_CUE = "Answer:"
SEED_STRIDE = 10_007

LIKELIHOOD_RULES: dict[Wording, str] = {
    "chat": "option-letter: the option whose letter has the highest sum of log-probabilities after "
    "the prompt, an empty thinking (where the template has one) and 'Answer:'",
    "harness": "harness: the option with the highest sum of log-probabilities after the prompt of "
    "lm-evaluation-harness's task, without a chat template",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of asking: an engine, with its adapter off or on.

    Attributes:
        name: Name of its files.
        title: Its name in reports.
        engine: What answers.
        variant: The adapter off (``base``) or on (``tuned``).
    """

    name: str
    title: str
    engine: Engine
    variant: Variant


@dataclass(frozen=True, slots=True)
class Plan:
    """How every case is asked.

    Attributes:
        decoding: How outputs are generated; ``None`` generates none.
        num_samples: Outputs per case.
        seed: That of the first sample of a case; the others' are ``SEED_STRIDE`` apart, so that
            runs with the seeds 0, 1 and 2 share no sample.
        likelihood: Wording of the prompt for the likeliest option; ``None`` leaves it out.
    """

    decoding: Decoding | None
    num_samples: int = 1
    seed: int = 0
    likelihood: Wording | None = "chat"

    def check(self) -> None:
        """Refuse what would measure nothing.

        Raises:
            EvaluationError: Nothing is asked, or samples would all be the same.
        """
        if self.decoding is None and self.likelihood is None:
            raise EvaluationError(
                "neither outputs nor option likelihoods are asked for",
                fix="Leave out --no-generate, or give --likelihood chat",
            )
        if self.num_samples > 1 and self.decoding is not None and self.decoding.temperature <= 0:
            raise EvaluationError(
                f"{self.num_samples} samples at temperature 0 would all be the same",
                fix="Ask for one sample, or set a temperature such as 0.6",
            )


@dataclass(frozen=True, slots=True)
class Ask:
    """One output wanted of one arm.

    Attributes:
        case: The case.
        kind: How its answer is scored.
        sample: Number among the outputs of the case.
        request: What the engine gets.
        key: Digest of benchmark, case, gold, sample, variant, engine, decoding and prompt.
    """

    case: Case
    kind: Kind
    sample: int
    request: Request
    key: str

    @property
    def gold(self) -> str | None:
        """Letter of the right option, or the short gold answer."""
        return gold_of(self.case, self.kind)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names of the short gold answer."""
        return _aliases(self.case)


def make_asks(name: str, cases: Sequence[Case], *, arm: Arm, plan: Plan) -> list[Ask]:
    """Every output wanted, case by case.

    Args:
        name: The benchmark's.
        cases: Their ids must differ.
        arm: Who answers.
        plan: How.

    Raises:
        EvaluationError: If ids repeat.
        PromptError: If a question is empty.
    """
    _check_ids(cases)
    identity = arm.engine.identity(arm.variant)
    num_samples = plan.num_samples if plan.decoding is not None else 1
    asks = []
    for case in cases:
        kind = case_kind(case, with_options=True)
        messages = messages_of(case)
        for sample in range(num_samples):
            request = Request(messages, seed=plan.seed + sample * SEED_STRIDE)
            key = digest(
                {
                    "version": _RECORD_VERSION,
                    "benchmark": name,
                    "case": [
                        case.id,
                        kind,
                        list(case.options),
                        gold_of(case, kind),
                        _aliases(case),
                    ],
                    "sample": sample,
                    "variant": arm.variant,
                    "engine": identity,
                    "messages": [[message.role, message.content] for message in messages],
                    "decoding": repr(plan.decoding),
                    "seed": request.seed if _is_drawn(plan.decoding) else None,
                    "likelihood": plan.likelihood,
                }
            )
            asks.append(Ask(case, kind, sample, request, key))
    return asks


def likelihood_ask(
    case: Case, benchmark: Benchmark | None, *, wording: Wording
) -> OptionRequest | None:
    """The prompt and the continuations of a case; ``None`` where it has no options."""
    if not case.options or case.answer_index is None:
        return None
    if wording == "chat":
        letters = tuple(f" {letter}" for letter in OPTION_LETTERS[: len(case.options)])
        return OptionRequest(Request(messages_of(case), prefill=ANSWER_CUE), letters)
    completion = None if benchmark is None else benchmark.completion(case)
    if completion is None:
        raise EvaluationError(
            "lm-evaluation-harness has no task with option likelihoods for these cases",
            where=case.id,
            fix="Ask with the wording 'chat'",
        )
    return OptionRequest(Request((), prompt=completion.prompt), completion.continuations)


def likelihood_key(
    name: str,
    case: Case,
    asked: OptionRequest,
    *,
    arm: Arm,
    identity: str,
) -> str:
    """Digest of everything that the option likelihoods depend on."""
    request = asked.request
    return digest(
        {
            "version": _RECORD_VERSION,
            "likelihood": [name, case.id, case.answer_index, list(asked.continuations)],
            "messages": [[message.role, message.content] for message in request.messages],
            "prompt": [request.prompt, request.prefill],
            "variant": arm.variant,
            "engine": identity,
        }
    )


def blank_record(name: str, ask: Ask, *, key: str, arm: Arm, values: dict[str, Any]) -> Record:
    """What a record of a benchmark says of its case, with some fields of its outcome."""
    return Record(
        key=key,
        arm=arm.name,
        case_id=ask.case.id,
        kind=ask.kind,
        question=ask.case.question,
        options=ask.case.options,
        gold=ask.gold,
        benchmark=name,
        sample=ask.sample,
        aliases=ask.aliases,
        **values,
    )


def messages_of(case: Case) -> tuple[Message, ...]:
    """The case as a chat: its system text, earlier turns, and the question with its options."""
    system = (Message("system", case.system),) if case.system and case.system.strip() else ()
    turns = tuple(Message(turn.role, turn.text) for turn in case.history)
    return (*system, *turns, Message("user", question_text(case)))


def _aliases(case: Case) -> tuple[str, ...]:
    return tuple(filter(None, case.metadata.get(ALIASES, "").split("|")))


def _is_drawn(decoding: Decoding | None) -> bool:
    return decoding is not None and decoding.temperature > 0


def _check_ids(cases: Sequence[Case]) -> None:
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids):
        repeated = next(one for one in ids if ids.count(one) > 1)
        raise EvaluationError(
            f"the case id '{repeated}' is there more than once",
            fix="Give every case an id of its own",
        )
