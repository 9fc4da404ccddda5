"""Training curves as inline SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medimind.evaluation.report.training import curve

# Colours that matplotlib writes and that are then replaced by those of the page's style sheet.
_INK, QUIET = "#010203", "#010204"
SERIES = ("#010205", "#010206", "#010207", "#010208")
_VARIABLES = {
    _INK: "currentColor",
    QUIET: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": _INK,
    "lines.linewidth": 1.6,
}
_PANELS = (
    ("loss", "Loss", "nats a token", (("train/loss", "training"), ("held_out/loss", "held out"))),
    ("learning-rate", "Learning rate", "", (("train/learning_rate", ""),)),
    ("gradient-norm", "Gradient norm", "before clipping", (("train/gradient_norm", ""),)),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """A curve: ``svg`` is safe to put into a page, ``text`` says the same in words."""

    name: str
    title: str
    unit: str
    text: str
    svg: str


def draw_charts(rows: Sequence[Mapping[str, Any]]) -> tuple[Chart, ...]:
    """A chart for each panel that has values; the same SVG for the same rows."""
    charts = []
    for name, title, unit, lines in _PANELS:
        curves = [(label, curve(rows, metric)) for metric, label in lines]
        curves = [(label, points) for label, points in curves if points]
        if curves:
            text = _text(title, curves)
            svg = draw_panel(name, text, partial(_draw_curves, curves=curves))
            charts.append(Chart(name, title, unit, text, svg))
    return tuple(charts)


def draw_panel(name: str, text: str, draw: Callable[[Axes], None], *, square: bool = False) -> str:
    """An SVG element that a function has drawn, in the page's colours.

    Args:
        name: Prefix of its ids.
        text: The same in words.
        draw: Draws with the colours of this module only.
        square: Whether both sides are of one length.
    """
    settings: dict[Any, Any] = {**_SETTINGS, "svg.hashsalt": f"medimind-{name}"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(3.6, 3.6) if square else (4.6, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes)
        axes.grid(axis="y", color=QUIET, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.patch.set_alpha(0)
        figure.patch.set_alpha(0)
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=metadata)
    return _inline(buffer.getvalue(), name=name, text=text)


def _draw_curves(axes: Axes, curves: Sequence[tuple[str, list[tuple[int, float]]]]) -> None:
    highest = max(points[-1][1] for _, points in curves)
    for (label, points), colour in zip(curves, SERIES):
        steps, values = zip(*points, strict=True)
        is_sparse = len(points) <= 12
        axes.plot(steps, values, color=colour, marker="o" if is_sparse else None, markersize=3.5)
        if len(curves) > 1:
            axes.annotate(
                label,
                (steps[-1], values[-1]),
                xytext=(5, 6 if points[-1][1] >= highest else -6),
                textcoords="offset points",
                va="center",
                color=colour,
                fontweight="bold",
                annotation_clip=False,
            )
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))


def _inline(svg: str, *, name: str, text: str) -> str:
    """The SVG element alone: own ids, colours of the page, font of the page, a text for readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font: (?:bold |normal )?([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    opening = (
        f'<svg {view_box.group(0) if view_box else ""} role="img" aria-label="{_quoted(text)}"'
    )
    return re.sub(
        r"<svg[^>]*>", f'{opening} xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1
    )


def _text(title: str, curves: Sequence[tuple[str, list[tuple[int, float]]]]) -> str:
    parts = [
        f"{label + ' ' if label else ''}from {points[0][1]:.4g} at step {points[0][0]} to "
        f"{points[-1][1]:.4g} at step {points[-1][0]}"
        for label, points in curves
    ]
    return f"{title} by step: {'; '.join(parts)}."


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
