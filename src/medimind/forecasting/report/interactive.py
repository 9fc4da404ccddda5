"""The fan chart to zoom into and read values off, by bokeh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medimind.errors import MissingExtraError
from medimind.forecasting.records.unit_names import titled
from medimind.forecasting.report.charts import LEVELS, SHADES, time_unit

SCRIPT = "bokeh.min.js"

# Read on white and on black alike: bokeh's drawings do not follow the page's theme.
_BLUE, _GREY = "#3f86b8", "#7a8794"


def interactive_chart(part: Mapping[str, Any]) -> tuple[str, str]:
    """Script and element of one code's chart; the page must load `SCRIPT`."""
    try:
        from bokeh.embed import components
        from bokeh.models import ColumnDataSource, HoverTool, Span
        from bokeh.plotting import figure
    except ImportError:
        raise MissingExtraError("bokeh", extra="forecast") from None
    rows, history = part["forecasts"], part["history"]
    unit, days = time_unit(part)
    start = history[-1]["time_days"] if history else 0.0

    def times(some: Sequence[Mapping[str, Any]]) -> list[float]:
        return [(row["time_days"] - start) / days for row in some]

    plot = figure(
        height=300, sizing_mode="stretch_width", tools="pan,xwheel_zoom,box_zoom,reset,save",
        x_axis_label=f"{unit} from the last measurement",
        y_axis_label=titled(part["name"], part["unit"]),
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.background_fill_color = plot.border_fill_color = None
    plot.axis.axis_label_text_color = plot.axis.major_label_text_color = _GREY
    plot.grid.grid_line_alpha = 0.4
    for level, shade in zip(LEVELS, SHADES):
        band = ColumnDataSource(
            {
                "days": times(rows),
                "low": [row["intervals"][level][0] for row in rows],
                "high": [row["intervals"][level][1] for row in rows],
            }
        )
        plot.varea("days", "low", "high", source=band, color=_BLUE, alpha=shade,
                   legend_label=f"{level} % interval")  # fmt: skip
    table: dict[str, Any] = {
        "days": times(rows),
        "value": [row["value"] for row in rows],
        "horizon": [row["horizon_days"] for row in rows],
        "low": [row["intervals"]["90"][0] for row in rows],
        "high": [row["intervals"]["90"][1] for row in rows],
    }
    source = ColumnDataSource(table)
    plot.line("days", "value", source=source, color=_BLUE, line_width=2, legend_label="forecast")
    points = plot.scatter("days", "value", source=source, color=_BLUE, size=7)
    plot.add_tools(
        HoverTool(
            renderers=[points],
            tooltips=[
                ("in", "@horizon{0} days"),
                ("forecast", "@value"),
                ("90 %", "@low to @high"),
            ],
        )
    )
    if history:
        past = ColumnDataSource(
            {
                "days": times(history),
                "value": [row["value"] for row in history],
            }
        )
        plot.line("days", "value", source=past, color=_GREY, legend_label="measured")
        dots = plot.scatter("days", "value", source=past, color=_GREY, size=6)
        plot.add_tools(
            HoverTool(renderers=[dots], tooltips=[(unit, "@days{0.0}"), ("measured", "@value")])
        )
    for line in part["lines"]:
        plot.add_layout(
            Span(
                location=line["value"], dimension="width", line_color="#b3261e", line_dash="dotted"
            )
        )
    plot.legend.label_text_font_size = "8pt"
    plot.legend.location = "top_left"
    plot.legend.background_fill_alpha = 0.0
    plot.legend.label_text_color = _GREY
    plot.legend.border_line_color = None
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
