"""Reliability charts: how sure a model is against how often it is right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from medimind.evaluation.calibration import Calibration
from medimind.evaluation.report.charts import QUIET, SERIES, Chart, draw_panel

_DODGE = 0.012


def draw_reliability(
    arms: Sequence[tuple[str, Calibration]], *, name: str, about: str
) -> list[Chart]:
    """One chart with a dot and an interval for each bin of each arm, at most four arms.

    Args:
        arms: Titles and figures.
        name: Id of the chart.
        about: What the cases are.
    """
    arms = arms[: len(SERIES)]
    if not arms:
        return []

    parts = [
        f"{title}: calibration error {one.error:.1%}, "
        + ", ".join(f"{b.accuracy:.0%} right where {b.confidence:.0%} sure" for b in one.bins)
        for title, one in arms
    ]
    text = f"Reliability on {about}. {'. '.join(parts)}."
    return [
        Chart(
            name,
            f"Reliability, {about}",
            "",
            text,
            draw_panel(name, text, partial(_draw, arms=arms), square=True),
        )
    ]


def _draw(axes: Axes, arms: Sequence[tuple[str, Calibration]]) -> None:
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (3, 3)))
    for number, ((title, one), colour) in enumerate(zip(arms, SERIES)):
        shift = (number - (len(arms) - 1) / 2) * _DODGE
        sure = [b.confidence + shift for b in one.bins]
        right = [b.accuracy for b in one.bins]
        low = [max(0.0, b.accuracy - b.interval.low) for b in one.bins]
        high = [max(0.0, b.interval.high - b.accuracy) for b in one.bins]
        axes.errorbar(
            sure,
            right,
            yerr=[low, high],
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=1,
            label=title,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("sure of its likeliest option")
    axes.set_ylabel("right")
    axes.legend(loc="upper left", frameon=False, fontsize=8, labelcolor="linecolor")
