"""The whole data stage: load, split, and keep what will be judged out of training."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.cases.case import Case
from medimind.cases.contamination import Hit, find_contamination, uncheckable
from medimind.cases.describe import describe_cases, describe_loading
from medimind.cases.items import read_items
from medimind.cases.load import load_cases
from medimind.cases.loaded import LoadedCases
from medimind.cases.sources.files import resolve_path
from medimind.cases.split import split_cases
from medimind.config.data import ContaminationConfig, DataConfig
from medimind.errors import DataError

logger = logging.getLogger(__name__)

_SHOWN_HITS = 5


@dataclass(frozen=True, slots=True)
class PreparedCases:
    """What a run trains on and is judged by.

    Attributes:
        train: Cases to train on.
        held_out: Cases for the before/after comparison; none is also trained on.
        train_weights: Aligned with ``train``.
        loaded: The account of all rows.
        contamination: Training cases that repeat a held-out case or a benchmark; they are left out
            of ``train`` unless the recipe says ``action: warn``.
        warnings: What the user should know; also logged.
        summary: The figures of all this, JSON-able; holds no text of a case.
        sha256: Of the cases on both sides, in hexadecimal: two runs with the same one saw the same
            data.
    """

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    train_weights: tuple[float, ...]
    loaded: LoadedCases
    contamination: tuple[Hit, ...]
    warnings: tuple[str, ...]
    summary: dict[str, Any]
    sha256: str


def prepare_cases(config: DataConfig, *, base_folder: Path, seed: int) -> PreparedCases:
    """Training and held-out cases of a recipe.

    Args:
        config: The recipe's section ``data``.
        base_folder: Where relative paths start.
        seed: Decides the split.

    Raises:
        DataError: As ``load_cases`` and ``split_cases``; or contamination was found and the recipe
            says ``action: stop``; or no case is left to train on.
        MissingExtraError: A source needs a package that is not installed.
    """
    loaded = load_cases(config, base_folder=base_folder)
    split = split_cases(
        loaded.cases, rows=config.held_out.rows, fraction=config.held_out.fraction, seed=seed
    )
    warnings: list[str] = []
    if not split.held_out:
        warnings.append(
            "No case is held out, so nothing can be compared before and after. "
            "Set data.held_out.rows."
        )
    items, num_unread = _items(split.held_out, config.contamination, base_folder, warnings)
    hits = find_contamination(
        split.train,
        items,
        ngram=config.contamination.ngram,
        threshold=config.contamination.threshold,
    )
    dropped = _dropped(hits, config.contamination, warnings)
    train = tuple(case for case in split.train if case.id not in dropped)
    if not train:
        raise DataError(
            f"no case is left to train on: {len(split.held_out)} are held out and {len(dropped)} "
            "repeat those or a benchmark",
            where="data",
            fix="Add sources, hold out fewer rows, or raise data.contamination.threshold",
        )
    for warning in warnings:
        logger.warning(warning)
    weight_of = dict(zip((case.id for case in loaded.cases), loaded.weights))
    weights = tuple(weight_of[case.id] for case in train)
    sha256 = hash_cases(train=train, held_out=split.held_out, weights=weights)
    contamination = {
        "items_unread": num_unread,
        "dropped": len(dropped),
        **_describe_search(config.contamination, items, hits),
    }
    return PreparedCases(
        train=train,
        held_out=split.held_out,
        train_weights=weights,
        loaded=loaded,
        contamination=tuple(hits),
        warnings=(*loaded.warnings, *warnings),
        summary={
            "sha256": sha256,
            "seed": seed,
            "loading": describe_loading(loaded),
            "contamination": contamination,
            "train": describe_cases(train),
            "held_out": describe_cases(split.held_out),
            "warnings": [*loaded.warnings, *warnings],
        },
        sha256=sha256,
    )


def hash_cases(*, train: Sequence[Case], held_out: Sequence[Case], weights: Sequence[float]) -> str:
    """SHA-256 over everything of the cases that training or evaluation uses."""
    digest = hashlib.sha256()
    for side, cases in (("train", train), ("held_out", held_out)):
        for case in cases:
            content = (
                side,
                case.id,
                case.system,
                [(turn.role, turn.text) for turn in case.history],
                case.question,
                case.options,
                case.reasoning,
                case.response,
                case.answer,
                case.answer_index,
            )
            digest.update(json.dumps(content).encode() + b"\n")
    digest.update(json.dumps(list(weights)).encode())
    return digest.hexdigest()


def _describe_search(
    config: ContaminationConfig, items: Sequence[Case], hits: Sequence[Hit]
) -> dict[str, object]:
    return {
        "ngram": config.ngram,
        "threshold": config.threshold,
        "action": config.action,
        "items": len(items),
        "items_too_short": len(uncheckable(items, ngram=config.ngram)),
        "hits": [dataclasses.asdict(hit) for hit in hits],
    }


def _items(
    held_out: Sequence[Case],
    config: ContaminationConfig,
    base_folder: Path,
    warnings: list[str],
) -> tuple[list[Case], int]:
    items = list(held_out)
    unread = 0
    for path in config.benchmarks:
        found, num_unread = read_items(resolve_path(path, base_folder=base_folder))
        items += found
        unread += num_unread
        if num_unread:
            warnings.append(f"{path}: {num_unread} rows hold no question that can be checked")
    return items, unread


def _dropped(
    hits: Sequence[Hit], config: ContaminationConfig, warnings: list[str]
) -> frozenset[str]:
    if not hits:
        return frozenset()
    shown = "\n".join(
        f"  {hit.case_id} holds {hit.coverage:.0%} of {hit.item_id}" for hit in hits[:_SHOWN_HITS]
    )
    what = (
        f"{len(hits)} training cases repeat held-out cases or benchmark items "
        f"(at least {config.threshold:.0%} of their {config.ngram}-grams)"
    )
    if config.action == "stop":
        raise DataError(
            what,
            where="data.contamination",
            fix=f"Remove them, or set data.contamination.action: drop:\n{shown}",
        )
    dropped = config.action == "drop"
    warnings.append(f"{what}; they {'are left out' if dropped else 'are trained on all the same'}")
    return frozenset(hit.case_id for hit in hits) if dropped else frozenset()
