"""Where a file of another program holds what a result needs: a small YAML file.

```yaml
arms:                          # several models in one file: name -> path to its rows
  base: models.base.results
  tuned: models.finetuned.results
question: question
output: response
gold: correct_answer
declared: num_questions        # how many cases the file says it asked
prefill: "Answer:"             # the prompt ended so
verdict: is_correct            # what the file itself made of each answer
```
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medimind.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Where a foreign file (JSON, JSONL, CSV, Parquet) holds what a record needs.

    A field may be dotted; where a list lies on its way, as in ``sentences.text``, the texts of all
    its members are joined.

    Attributes:
        rows: Dotted path to the list of rows, such as ``models.base.results``; empty for a file
            that is a list, or JSONL.
        arms: Name of a model -> path to its rows, where one file holds several.
        question: Field of the question.
        output: Field of the generated text; of the answer alone where ``thinking`` is given.
        thinking: Field of the thinking, where the file keeps it apart from the answer.
        gold: Field of the right letter, or of the short gold answer where ``num_options`` is 0.
        gold_first: Where the right answer is a number: that of the first option, 0 or 1.
        id: Field of the case's id; without one a hash of the question is taken.
        options: Field of the options' texts (a list, or letter -> text), or a list of such fields,
            one an option.
        option_logprobs: Field of the options' log-probabilities, such as ``filtered_resps`` of
            lm-evaluation-harness; a file that has them need hold no output.
        num_options: Options of a row that does not list them; 0 for open questions.
        finish_reason: Field of ``stop`` or ``length``; without one every output counts as ended.
        declared: Dotted path to the number of cases the file says it asked.
        prefill: Text that the prompt ended in and that belongs to the answer, such as ``Answer:``.
        open_in_prompt: Whether the prompt ended inside the thinking; ``None`` if unknown.
        verdict: Field of the file's own right or wrong, compared with ours.
        sample: Field of the output's number, where a case was sampled several times.
        benchmark: Name of the benchmark that the cases are from.
        aliases: Short gold answer -> other names that count as right.
    """

    rows: str = ""
    arms: dict[str, str] = field(default_factory=dict)
    question: str = "question"
    output: str = "output"
    thinking: str | None = None
    gold: str = "gold"
    gold_first: int | None = None
    id: str | None = None
    options: str | list[str] | None = None
    option_logprobs: str | None = None
    num_options: int = 4
    finish_reason: str | None = None
    declared: str | None = None
    prefill: str = ""
    open_in_prompt: bool | None = None
    verdict: str | None = None
    sample: str | None = None
    benchmark: str | None = None
    aliases: dict[str, list[str]] = field(default_factory=dict)

    def of_arm(self, name: str) -> FieldMapping:
        """The mapping of one of its arms."""
        return dataclasses.replace(self, rows=self.arms[name], arms={})


_DEFAULTS: dict[str, Any] = {
    name: getattr(FieldMapping(), name) for name in FieldMapping.__dataclass_fields__
}


_KNOWN = f"Known are {', '.join(_DEFAULTS)}"
_FIX = f"Write a line for each field, such as gold: answer. {_KNOWN}"


def read_mapping(path: Path) -> FieldMapping:
    """A mapping from its YAML file.

    Raises:
        EvaluationError: If it cannot be read, a key is unknown or a value of the wrong kind; all
            such mistakes are told at once.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise EvaluationError(f"cannot be read ({reason})", where=str(path), fix=_FIX) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise EvaluationError(f"is not YAML ({first})", where=str(path), fix=_FIX) from None
    if not isinstance(value, dict):
        raise EvaluationError("holds no 'field: name' lines", where=str(path), fix=_FIX)
    problems = [_problem(key, one) for key, one in value.items()]
    if any(problems):
        raise EvaluationError(
            "; ".join(filter(None, problems)),
            where=str(path),
            fix=_KNOWN,
        )
    return FieldMapping(**value)


def _problem(key: object, value: object) -> str | None:
    if key not in _DEFAULTS:
        return f"unknown key '{key}'"
    if key == "num_options":
        is_fit = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 26
        return None if is_fit else "'num_options' is no number from 0 to 26"
    if key == "gold_first":
        return None if type(value) is int and value in (0, 1) else "'gold_first' is neither 0 nor 1"
    if key == "open_in_prompt":
        return None if isinstance(value, bool) else "'open_in_prompt' is neither true nor false"
    if key == "options" and isinstance(value, list):
        is_fit = len(value) > 1 and _all_text(value)
        return None if is_fit else "'options' is no list of two fields or more"
    if key == "arms":
        is_fit = isinstance(value, dict) and value and _all_text(value.values())
        return None if is_fit else "'arms' is not 'name: path' lines"
    if key == "aliases":
        is_fit = isinstance(value, dict) and all(
            isinstance(names, list) and _all_text(names) for names in value.values()
        )
        return None if is_fit else "'aliases' is not 'gold answer: [other names]' lines"
    return None if isinstance(value, str) else f"'{key}' is no text"


def _all_text(values: Any) -> bool:
    return all(isinstance(one, str) for one in values)
