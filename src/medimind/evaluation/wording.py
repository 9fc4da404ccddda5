"""Figures as text: the same words in the terminal, in HTML, Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medimind.evaluation.metrics import Unit
from medimind.evaluation.statistics import Interval

_DIGITS: dict[Unit, int] = {"share": 1, "nats": 3, "tokens": 1, "score": 3}
MINUS = "\N{MINUS SIGN}"


def value_text(value: float, unit: Unit, *, is_difference: bool = False) -> str:
    """A figure with its unit: ``46.7 %``, ``2.154``, ``312.0``; differences of shares in points."""
    if not math.isfinite(value):
        return "unknown"
    if unit == "share":
        return _number(100 * value, 1) + (" points" if is_difference else "\N{NO-BREAK SPACE}%")
    return _number(value, _DIGITS[unit])


def difference_text(value: float, unit: Unit) -> str:
    """A difference with its sign and unit: ``+13.3 points``, ``−0.212``."""
    return _signed(value, unit) + (" points" if unit == "share" else "")


def interval_text(interval: Interval, unit: Unit) -> str:
    """Both ends of a difference's interval with their signs: ``−3.3 to +30.0``."""
    return f"{_signed(interval.low, unit)} to {_signed(interval.high, unit)}"


def share_interval_text(interval: Interval) -> str:
    """Both ends of a share's interval in percent: ``29 to 65``."""
    return f"{_number(100 * interval.low, 0)} to {_number(100 * interval.high, 0)}"


def p_text(p_value: float) -> str:
    """A p-value: ``0.29``, ``0.004``, ``< 0.001``."""
    if p_value < 0.001:
        return "< 0.001"
    return f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def count_text(count: int, noun: str, *, plural: str | None = None) -> str:
    """A number with its noun: ``1 case``, ``30 cases``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _signed(value: float, unit: Unit) -> str:
    scaled = 100 * value if unit == "share" else value
    text = _number(scaled, _DIGITS[unit])
    is_zero = float(text.replace(MINUS, "-").replace(",", "")) == 0
    return text.replace(MINUS, "") if is_zero else (text if scaled < 0 else f"+{text}")


def _number(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.replace("-", "")
    return text.replace("-", MINUS)


def listed(names: Sequence[str]) -> str:
    """Names with commas and an *and*."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
