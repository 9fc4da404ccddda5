"""Two thousand accounts of forecasts: does the verifier refuse every false claim and no true one?

    python benchmarks/forecast_narratives.py [--model GGUF --model-texts 40]

Accounts are written by the template in several wordings and by a second hand with sentences that
the template does not have; all of them are true. In each, five falsehoods are planted one at a
time: a number, a horizon, a unit, a direction, a name. With ``--model`` a language model writes
accounts too, with no one vouching for them: what passes is checked by a plain search of each number
in the document, and gets the same falsehoods planted.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from datetime import date
from pathlib import Path

from medimind.config.forecast_models import ForecastConfig, TreesConfig
from medimind.forecasting.document import patient_documents
from medimind.forecasting.fit import fit_forecaster
from medimind.forecasting.narrative.facts import direction
from medimind.forecasting.narrative.narrate import answer_of, messages_for
from medimind.forecasting.narrative.template import template_narrative
from medimind.forecasting.narrative.verify import verify
from medimind.forecasting.predict import predict
from medimind.forecasting.simulate import simulate_cohort
from medimind.tracking.provenance import collect

RESULT = Path(__file__).parent / "results" / "forecast_narratives.json"
NUMBER = re.compile(r"(?<![\w./<=>{])\d+(?:\.\d+)?(?![\w/]|\.\d)")
FLIPS = {
    "rising": "falling", "falling": "rising", "about the same": "rising", "rises": "falls",
    "falls": "rises", "stays": "falls",
}  # fmt: skip


def documents(count: int) -> list[dict]:
    config = ForecastConfig(
        experts=("population_slope", "local_trend", "linear"),
        trees=TreesConfig(num_trees=40),
        horizons_days=(91, 182, 365, 731),
    )
    forecaster = fit_forecaster(simulate_cohort(600, seed=1).records, config)
    records = simulate_cohort(count, seed=2).records
    forecasts, risks = predict(forecaster, records)
    # As a program would read them.
    return [json.loads(json.dumps(one))
            for one in patient_documents(forecaster, records, forecasts, risks)]  # fmt: skip


def second_hand(document: dict, draw: random.Random) -> str:
    """The same facts in sentences that the template does not have."""
    lines = []
    for part in document["codes"]:
        name, last = part["name"], part["history"][-1]["value"]
        # Texts may write a unit as UCUM does, or as clinicians do.
        unit = draw.choice([part["unit"], part["display_unit"]])
        for row in draw.sample(part["forecasts"], 2):
            days, value = row["horizon_days"], row["value"]
            low, high = row["intervals"]["80"]
            way = direction(last, value, part)
            verb = {"rising": "rises", "falling": "falls"}.get(str(way), "stays about the same")
            lines.append(
                draw.choice(
                    [
                        f"Within the next {days:g} days the {name} {verb} from {last:g} {unit} to "
                        f"{value:g} {unit}.",
                        f"We expect {value:g} {unit} for {name} in {days:g} days; in {days:g} days "
                        f"the 80 % interval is {low:g}–{high:g} {unit}.",
                        f"{name} currently stands at {last:g} {unit}, and {value:g} is forecast in "
                        f"{days:g} days, with an 80% prediction interval between {low:g} and "
                        f"{high:g}.",
                        f"The last {name} value, {last:g}, {verb} to {value:g} in {days:g} days.",
                    ]
                )
            )
        lines.append(
            f"The {name} model is off by {part['model']['error']:g} {unit} on average, its error; "
            f"{part['evidence']['num_measurements']} measurements of {name} were used."
        )
    for risk in document["risks"]:
        rows = [row for row in risk["horizons"] if row["by_percent"] is not None]
        if rows:
            row = draw.choice(rows)
            lines.append(
                draw.choice(
                    [
                        f"The chance of {risk['name']} within {row['horizon_days']:g} days is "
                        f"{row['by_percent']:g}%.",
                        f"By {row['horizon_days']:g} days, there is a probability of "
                        f"{row['by_percent']:g} percent for {risk['name']}.",
                    ]
                )
            )
    draw.shuffle(lines)
    return " ".join(lines)


def plant(text: str, kind: str, document: dict, draw: random.Random) -> str | None:
    """The text with one falsehood; ``None`` where this kind has no place in it."""
    if kind == "number":
        found = [m for m in NUMBER.finditer(text) if not masked(text, m.start(), document)]
        found = [
            m for m in found if not text[m.end() :].lstrip().startswith(("day", "month", "year"))
        ]
        return swap(text, draw.choice(found), wrong_number(draw)) if found else None
    if kind == "horizon":
        found = list(re.finditer(r"\b\d+(?= (?:days|months?|years?)\b)", text))
        others = ["17", "45", "700", "2500"]
        return swap(text, draw.choice(found), lambda _: draw.choice(others)) if found else None
    if kind == "unit":
        units = [one for one in units_of(document) if one != "%"]
        found = [m for unit in units for m in re.finditer(re.escape(unit), text)]
        return swap(text, draw.choice(found), lambda _: draw.choice(["mg/dL", "mmol/L"]))
    if kind == "direction":
        found = list(re.finditer(r"\b(?:" + "|".join(FLIPS) + r")\b", text))
        return swap(text, draw.choice(found), lambda old: FLIPS[old]) if found else None
    found = list(re.finditer(r"\b(?:eGFR|HbA1c)\b(?! [<>])", text))
    names = ["albumin", "potassium", "MMSE", "metformin"]
    return swap(text, draw.choice(found), lambda _: draw.choice(names)) if found else None


def units_of(document: dict) -> list[str]:
    return [part[key] for part in document["codes"] for key in ("unit", "display_unit")]


def masked(text: str, place: int, document: dict) -> bool:
    """Whether a number is part of a unit or of a line's name."""
    names = [risk["name"] for risk in document["risks"]]
    names += units_of(document)
    return any(
        m.start() <= place < m.end() for name in names for m in re.finditer(re.escape(name), text)
    )


def swap(text: str, match: re.Match[str], change) -> str:
    return text[: match.start()] + change(match[0]) + text[match.end() :]


def wrong_number(draw: random.Random):
    """Another number with as many decimals: a digit off, a slip of the point, another size."""

    def change(old: str) -> str:
        value, decimals = float(old), len(old.partition(".")[2])
        while True:
            new = draw.choice(
                [
                    value + draw.choice([-3, -2, -1, 1, 2, 3]) * 10.0**-decimals,
                    value * 10, value / 10,
                    value * draw.uniform(1.05, 2), value * draw.uniform(0.3, 0.95),
                ]
            )  # fmt: skip
            shown = f"{new:.{decimals}f}"
            if new >= 0 and float(shown) != value:
                return shown

    return change


def numbers_found(text: str, document: dict) -> bool:
    """Whether each number of the text is one of the document's, rounded, wherever it stands."""
    known: list[float] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            [walk(one) for one in value.values()]
        elif isinstance(value, list):
            [walk(one) for one in value]
        elif isinstance(value, (int, float)):
            known.append(float(value))

    walk(document)
    known += [50.0, 80.0, 90.0]
    for match in NUMBER.finditer(text):
        if masked(text, match.start(), document):
            continue
        decimals = len(match[0].partition(".")[2])
        # Months and years stand for days.
        scaled = [1.0, 30.4375, 365.25]
        if not any(
            abs(float(match[0]) * scale - one) <= 0.5 * 10.0**-decimals * scale + 1e-9
            for one in known for scale in scaled
        ):  # fmt: skip
            return False
    return True


def model_texts(path: Path, docs: list[dict], count: int) -> list[tuple[str, dict]]:
    from medimind.engines.engine import Decoding, Request
    from medimind.engines.llama_cpp import LlamaCppEngine

    engine = LlamaCppEngine(path)
    found = []
    for index, document in enumerate(docs[:count]):
        reply = engine.answer(
            [Request(messages=messages_for(document), seed=index)],
            decoding=Decoding(max_new_tokens=160, temperature=0.7),
        )[0]
        found.append((answer_of(reply.text), document))
        print(f"  model text {index + 1} of {count}", flush=True)
    engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--model-texts", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    started = time.time()
    docs = documents(arguments.texts // 2)
    draw = random.Random(0)
    written = [("template", template_narrative(one, seed=i), one) for i, one in enumerate(docs)]
    written += [("second hand", second_hand(one, draw), one) for one in docs]
    counts: Counter[str] = Counter()
    refused_true, passed_false = [], []
    by_kind: Counter[str] = Counter()
    kinds = ("number", "horizon", "unit", "direction", "name")
    model = {"asked": 0, "passed": 0, "passed_with_unknown_numbers": 0, "reasons": Counter()}
    if arguments.model:
        for text, document in model_texts(arguments.model, docs, arguments.model_texts):
            verdict = verify(text, document)
            model["asked"] += 1
            model["reasons"].update(one.reason.partition(" is ")[0] for one in verdict.problems[:1])
            if verdict.passes:
                model["passed"] += 1
                model["passed_with_unknown_numbers"] += not numbers_found(text, document)
                written.append(("model", text, document))
    for source, text, document in written:
        verdict = verify(text, document)
        counts[source] += 1
        counts["numbers"] += verdict.num_numbers
        counts["traced"] += verdict.num_traced
        if not verdict.passes:
            refused_true.append({"text": text, "problems": [vars_of(p) for p in verdict.problems]})
        for kind in kinds:
            false = plant(text, kind, document, draw)
            if false is None or false == text:
                continue
            by_kind[kind] += 1
            if verify(false, document).passes:
                passed_false.append({"kind": kind, "true": text, "false": false})
    report = {
        "command": "python benchmarks/forecast_narratives.py"
        + (" --model GGUF" if arguments.model else ""),
        "date": date.today().isoformat(),
        "seconds": round(time.time() - started),
        "provenance": collect(seed=0),
        "texts": dict(counts),
        "true_texts_refused": len(refused_true),
        "planted": dict(by_kind),
        "planted_total": by_kind.total(),
        "planted_passed": len(passed_false),
        "model": {**model, "reasons": dict(model["reasons"])},
        "examples_refused": refused_true[:5],
        "examples_passed": passed_false[:20],
    }
    arguments.output.write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for name in ("texts", "true_texts_refused", "planted", "planted_passed", "model", "seconds"):
        print(name, report[name])


def vars_of(problem) -> dict:
    return {"text": problem.text, "reason": problem.reason}


if __name__ == "__main__":
    main()
