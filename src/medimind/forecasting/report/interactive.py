"""The fan chart to zoom into and read values off, by bokeh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medimind.errors import MissingExtraError
from medimind.forecasting.records.unit_names import titled
from medimind.forecasting.report.charts import COLOUR, LEVELS

SCRIPT = "bokeh.min.js"


def interactive_chart(part: Mapping[str, Any]) -> tuple[str, str]:
    """Script and element of one code's chart; the page must load `SCRIPT`."""
    try:
        from bokeh.embed import components
        from bokeh.models import ColumnDataSource, HoverTool, Span
        from bokeh.plotting import figure
    except ImportError:
        raise MissingExtraError("bokeh", extra="forecast") from None
    rows, history = part["forecasts"], part["history"]
    plot = figure(
        height=300, sizing_mode="stretch_width", tools="pan,xwheel_zoom,box_zoom,reset,save",
        x_axis_label="days", y_axis_label=titled(part["name"], part["unit"]),
    )  # fmt: skip
    plot.toolbar.logo = None
    for level, shade in zip(LEVELS, (0.14, 0.22, 0.34)):
        band = ColumnDataSource(
            {
                "days": [row["time_days"] for row in rows],
                "low": [row["intervals"][level][0] for row in rows],
                "high": [row["intervals"][level][1] for row in rows],
            }
        )
        plot.varea("days", "low", "high", source=band, color=COLOUR, alpha=shade,
                   legend_label=f"{level} % interval")  # fmt: skip
    table: dict[str, Any] = {
        "days": [row["time_days"] for row in rows],
        "value": [row["value"] for row in rows],
        "horizon": [row["horizon_days"] for row in rows],
        "low": [row["intervals"]["90"][0] for row in rows],
        "high": [row["intervals"]["90"][1] for row in rows],
    }
    source = ColumnDataSource(table)
    plot.line("days", "value", source=source, color=COLOUR, line_width=2, legend_label="forecast")
    points = plot.scatter("days", "value", source=source, color=COLOUR, size=7)
    plot.add_tools(
        HoverTool(
            renderers=[points],
            tooltips=[("in", "@horizon days"), ("forecast", "@value"), ("90 %", "@low to @high")],
        )
    )
    if history:
        past = ColumnDataSource(
            {
                "days": [row["time_days"] for row in history],
                "value": [row["value"] for row in history],
            }
        )
        plot.line("days", "value", source=past, color="#222222", legend_label="measured")
        dots = plot.scatter("days", "value", source=past, color="#222222", size=6)
        plot.add_tools(
            HoverTool(renderers=[dots], tooltips=[("day", "@days"), ("measured", "@value")])
        )
    for line in part["lines"]:
        plot.add_layout(
            Span(
                location=line["value"], dimension="width", line_color="#b3261e", line_dash="dotted"
            )
        )
    plot.legend.label_text_font_size = "8pt"
    script, element = components(plot)
    return script, element


def write_script(folder: Path) -> None:
    """Copy bokeh's own script beside the pages: they open without a network."""
    try:
        import bokeh
    except ImportError:
        raise MissingExtraError("bokeh", extra="forecast") from None
    source = Path(bokeh.__file__).parent / "server" / "static" / "js" / SCRIPT
    (folder / SCRIPT).write_bytes(source.read_bytes())
