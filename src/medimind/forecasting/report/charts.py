"""Pictures of forecasts by matplotlib, as SVG texts without a display.

Colours are the page's own variables, so that a picture follows its light or dark theme.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medimind.forecasting.records.table import DAYS_A_YEAR
from medimind.forecasting.records.unit_names import titled

COLOUR = "#1f5f8b"
_NEIGHBOURS, _LINE, _INK, _QUIET, _GRID = "#8a6d3b", "#b3261e", "#1c2126", "#5b6670", "#e4e8ec"
_VARIABLES = {COLOUR: "--blue", _NEIGHBOURS: "--brown", _LINE: "--red", _INK: "--ink",
              _QUIET: "--quiet", _GRID: "--grid"}  # fmt: skip
LEVELS = ("90", "80", "50")
SHADES = (0.16, 0.24, 0.36)

_MOST_MONTHS = 40
_REACH = 0.45


def time_unit(part: Mapping[str, Any]) -> tuple[str, float]:
    """Months or years, whichever suits the span, and the days in one."""
    rows, history = part["forecasts"], part["history"]
    times = [row["time_days"] for row in (*history, *rows)]
    months = (max(times) - min(times)) / (DAYS_A_YEAR / 12) if times else 0.0
    return ("months", DAYS_A_YEAR / 12) if months <= _MOST_MONTHS else ("years", DAYS_A_YEAR)


def fan_chart(part: Mapping[str, Any]) -> str:
    """History, forecast with its three intervals, lines, and similar patients' course."""
    figure = Figure(figsize=(6.2, 3.9), layout="constrained")
    axes = figure.add_subplot()
    history, rows = part["history"], part["forecasts"]
    unit, days = time_unit(part)
    start = history[-1]["time_days"] if history else 0.0
    if history:
        axes.axvline(0.0, color=_GRID, linewidth=1, zorder=0)
        axes.plot(
            [(row["time_days"] - start) / days for row in history],
            [row["value"] for row in history],
            "o-", color=_INK, markersize=4, linewidth=1, label="measured",
        )  # fmt: skip
    _fan(axes, history, rows, start, days)
    course = (part.get("neighbours") or {}).get("course") or []
    if course:
        gap = (rows[0]["time_days"] - rows[0]["horizon_days"] - start) if rows else 0.0
        axes.plot(
            [(row["horizon_days"] + gap) / days for row in course],
            [row["quartiles"][1] for row in course],
            "--", color=_NEIGHBOURS, linewidth=1.2, label="similar patients, median",
        )  # fmt: skip
    _lines(axes, part)
    _dress(axes)
    axes.set_xlabel(f"{unit} from the last measurement" if history else unit)
    axes.set_ylabel(titled(part["name"], part["unit"]))
    legend = figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=3)
    for text in legend.get_texts():
        text.set_color(_INK)
    return _svg(figure, title=f"{part['name']}: measured values and forecast")


def _fan(
    axes: Axes, history: Sequence[Any], rows: Sequence[Any], start: float, days: float
) -> None:
    anchor = [(0.0, history[-1]["value"])] if history else []
    at = [time for time, _ in anchor] + [(row["time_days"] - start) / days for row in rows]
    known = [value for _, value in anchor]
    for level, shade in zip(LEVELS, SHADES):
        low = known + [row["intervals"][level][0] for row in rows]
        high = known + [row["intervals"][level][1] for row in rows]
        axes.fill_between(at, low, high, color=COLOUR, alpha=shade, linewidth=0,
                          label=f"{level} % interval")  # fmt: skip
    axes.plot(at, known + [row["value"] for row in rows], "-", color=COLOUR, linewidth=1.8,
              label="forecast")  # fmt: skip


def _lines(axes: Axes, part: Mapping[str, Any]) -> None:
    """Lines near the values; of those far away only a note at the border."""
    values = [row["value"] for row in part["history"]]
    for row in part["forecasts"]:
        values += row["intervals"]["90"]
    low, high = min(values, default=0.0), max(values, default=1.0)
    reach = _REACH * ((high - low) or abs(high) or 1.0)
    near = [one for one in part["lines"] if low - reach <= one["value"] <= high + reach]
    for line in near:
        axes.axhline(line["value"], color=_LINE, linewidth=1, linestyle=":")
        axes.annotate(
            line["name"], (0.005, line["value"]), xycoords=("axes fraction", "data"), fontsize=8,
            color=_LINE, ha="left", va="bottom",
        )  # fmt: skip
    for index, line in enumerate(one for one in part["lines"] if one not in near):
        is_below = line["value"] < low
        axes.annotate(
            f"{line['name']} lies {'below' if is_below else 'above'}",
            (0.005, 0.02 + 0.07 * index if is_below else 0.93 - 0.07 * index),
            xycoords="axes fraction", fontsize=8, color=_QUIET, ha="left", va="bottom",
        )  # fmt: skip


def histogram(values: Sequence[float], *, label: str, starts_at_zero: bool = False) -> str:
    """How values are spread over the cohort."""
    figure = Figure(figsize=(5.4, 2.3), layout="constrained")
    axes = figure.add_subplot()
    ends = (0.0, max([1.0, *values])) if starts_at_zero else None
    axes.hist(list(values), bins=30, range=ends, color=COLOUR)
    _dress(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("patients")
    return _svg(figure, title=label)


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9.5)


def _svg(figure: Figure, *, title: str) -> str:
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Title": title})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text.replace("<svg ", '<svg role="img" ', 1)
