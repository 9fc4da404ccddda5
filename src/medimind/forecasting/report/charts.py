"""Pictures of forecasts by matplotlib, as SVG texts without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medimind.forecasting.records.unit_names import titled

COLOUR = "#1f5f8b"
_NEIGHBOURS, _LINE = "#8a6d3b", "#b3261e"
LEVELS = ("90", "80", "50")


def fan_chart(part: Mapping[str, Any]) -> str:
    """History, forecast with its three intervals, lines, and similar patients' course."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    history, rows = part["history"], part["forecasts"]
    start = history[-1]["time_days"] if history else 0.0
    if history:
        axes.plot(
            [row["time_days"] - start for row in history],
            [row["value"] for row in history],
            "o-", color="#222222", markersize=4, linewidth=1, label="measured",
        )  # fmt: skip
    _fan(axes, history, rows, start)
    course = (part.get("neighbours") or {}).get("course") or []
    if course:
        gap = (rows[0]["time_days"] - rows[0]["horizon_days"] - start) if rows else 0.0
        axes.plot(
            [row["horizon_days"] + gap for row in course],
            [row["quartiles"][1] for row in course],
            "--", color=_NEIGHBOURS, linewidth=1, label="similar patients, median",
        )  # fmt: skip
    for line in part["lines"]:
        axes.axhline(line["value"], color=_LINE, linewidth=1, linestyle=":")
        axes.annotate(
            line["name"], (1.0, line["value"]), xycoords=("axes fraction", "data"), fontsize=8,
            color=_LINE, ha="right", va="bottom",
        )  # fmt: skip
    axes.set_xlabel("days since the last measurement")
    axes.set_ylabel(titled(part["name"], part["unit"]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="best")
    return _svg(figure)


def _fan(
    axes: Axes, history: Sequence[Any], rows: Sequence[Mapping[str, Any]], start: float
) -> None:
    times = [row["time_days"] - start for row in rows]
    anchor = [(0.0, history[-1]["value"])] if history else []
    for level, shade in zip(LEVELS, (0.14, 0.22, 0.34)):
        low = [value for _, value in anchor] + [row["intervals"][level][0] for row in rows]
        high = [value for _, value in anchor] + [row["intervals"][level][1] for row in rows]
        at = [time for time, _ in anchor] + times
        axes.fill_between(at, low, high, color=COLOUR, alpha=shade, linewidth=0,
                          label=f"{level} % interval")  # fmt: skip
    axes.plot(
        [time for time, _ in anchor] + times,
        [value for _, value in anchor] + [row["value"] for row in rows],
        "-", color=COLOUR, linewidth=1.6, label="forecast",
    )  # fmt: skip


def histogram(values: Sequence[float], *, title: str, label: str) -> str:
    """How values are spread over the cohort."""
    figure = Figure(figsize=(5.2, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(list(values), bins=30, color=COLOUR)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(label)
    axes.set_ylabel("patients")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
