"""GGUF files on the terminal: what they hold, and how close they are to the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medimind.cli.arguments import show_path
from medimind.cli.terminal import console

if TYPE_CHECKING:
    from medimind.export.deliver import Delivered

MIB = 1 << 20
EXIT_NOT_GOOD = 3


def show_delivered(delivered: Sequence[Delivered], *, better: str | None) -> None:
    """Print each file with its size, its mix of types, and how close it is."""
    for one in delivered:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(one.file.kinds.items()))
        size, seconds = f"{one.file.num_bytes / MIB:,.1f} MiB", f"{one.file.seconds:.1f} s"
        console.print(f"{show_path(one.file.path)}  {size}  {seconds}  ({kinds})", markup=False)
        if one.fidelity is None:
            console.print("  not verified", markup=False)
            continue
        found = one.fidelity
        console.print(
            f"  {'NOT GOOD' if one.problems else 'good'}: KL {found.kl_mean:.4f} from the trained "
            f"model, same likeliest token at {found.agreement:.1%} of {found.num_places} places, "
            f"same tokens for {found.num_same_ids} of {found.num_texts} texts",
            markup=False,
            style="red" if one.problems else None,
        )
        for problem in one.problems:
            console.print(f"  {problem}", markup=False)
    if better is not None:
        console.print(
            f"Closer to the trained model: merged into the {better} weights", markup=False
        )
    if any(one.problems for one in delivered):
        console.print(
            "Not good by the recipe's export.max_kl and export.min_agreement. A wider "
            "quantisation, or --base trained, is closer.",
            markup=False,
        )
