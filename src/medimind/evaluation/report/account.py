"""What became of the data, and the proof that no shown case was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medimind.evaluation.wording import count_text

_SHOWN_HITS = 10


@dataclass(frozen=True, slots=True)
class Account:
    """The data stage in figures.

    Attributes:
        rows: Name and number, in the order of the sum; empty where the summary has none.
        is_balanced: Whether rows in = kept + rejected + duplicates.
        reasons: Reasons of rejection with their counts.
        sources: Source, revision and digest of its files.
        is_disjoint: Whether no held-out id is a training id; ``None`` where that is not known.
        proof: Sentences about it.
        sha256: Digest of the cases on both sides.
    """

    rows: tuple[tuple[str, int], ...]
    is_balanced: bool | None
    reasons: tuple[tuple[str, int], ...]
    sources: tuple[tuple[str, str, str], ...]
    is_disjoint: bool | None
    proof: tuple[str, ...]
    sha256: str


def account_of(summary: Mapping[str, Any], *, held_out: Sequence[str]) -> Account:
    """The account in a data stage's summary; what it lacks is said to be unknown, never assumed."""
    loading = _mapping(summary.get("loading"))
    counts = {
        "Rows in": loading.get("rows_in"),
        "Kept": loading.get("kept"),
        "Rejected": loading.get("rejected"),
        "Duplicates": loading.get("duplicates"),
        "Trained on": _mapping(summary.get("train")).get("cases"),
        "Held out": _mapping(summary.get("held_out")).get("cases"),
    }
    rows = tuple((name, count) for name, count in counts.items() if isinstance(count, int))
    first = [counts[name] for name in ("Rows in", "Kept", "Rejected", "Duplicates")]
    parts = [count for count in first if isinstance(count, int)]
    is_balanced = parts[0] == sum(parts[1:]) if len(parts) == 4 else None
    is_disjoint, proof = _proof(summary, held_out)
    return Account(
        rows=rows,
        is_balanced=is_balanced,
        reasons=tuple(
            (str(reason), int(count))
            for reason, count in _mapping(loading.get("rejection_reasons")).items()
        ),
        sources=_sources(loading),
        is_disjoint=is_disjoint,
        proof=proof,
        sha256=str(summary.get("sha256", "unknown")),
    )


def _proof(
    summary: Mapping[str, Any], held_out: Sequence[str]
) -> tuple[bool | None, tuple[str, ...]]:
    train_ids = summary.get("train_ids")
    if not isinstance(train_ids, (list, tuple)):
        return None, (
            "The ids of the training cases were not handed to this report, so it cannot show that "
            "no held-out case was trained on.",
            *_contamination(summary),
        )
    shared = sorted(set(map(str, train_ids)) & set(held_out))
    if shared:
        return False, (
            f"{count_text(len(shared), 'held-out case')} also trained on: "
            f"{', '.join(shared[:_SHOWN_HITS])}. The comparison is not valid.",
            *_contamination(summary),
        )
    return True, (
        f"None of the {count_text(len(held_out), 'held-out case')} is among the "
        f"{count_text(len(train_ids), 'training case')}: their ids have no member in common.",
        *_contamination(summary),
    )


def _contamination(summary: Mapping[str, Any]) -> tuple[str, ...]:
    found = _mapping(summary.get("contamination"))
    if not found:
        return ("Whether training cases repeat held-out ones was not checked.",)
    hits, items = found.get("hits", ()), found.get("items", 0)
    rule = f"at least {found.get('threshold', 0):.0%} of an item's {found.get('ngram')}-grams"
    sentences = []
    if not hits:
        sentences.append(
            f"No training case repeats the text of any of the {count_text(items, 'checked item')} "
            f"({rule})."
        )
    else:
        kept = found.get("action") == "warn"
        sentences.append(
            f"{count_text(len(hits), 'training case')} of the sources repeat a checked item "
            f"({rule}); they were "
            + ("trained on all the same, as the recipe asks." if kept else "left out of training.")
        )
    if found.get("items_too_short"):
        short = count_text(found["items_too_short"], "item")
        sentences.append(f"{short} too short for this check.")
    return tuple(sentences)


def _sources(loading: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    rows = []
    for source in loading.get("sources", ()):
        source = _mapping(source)
        digests = [str(_mapping(file).get("sha256", "")) for file in source.get("files", ())]
        revision = source.get("revision") or "none"
        rows.append((str(source.get("name", "")), str(revision), ", ".join(filter(None, digests))))
    return tuple(rows)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
