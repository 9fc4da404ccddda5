"""The figures of ``gpu_step.py`` as a plot for the README.

python benchmarks/gpu_step_plot.py      # benchmarks/results/gpu_step.json -> docs/gpu_step.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "2x2048:fixed": "2 x 2048\nmemory free",
    "2x2048:fp8": "2 x 2048\nfp8",
    "2x2048:lean": "2 x 2048\nlean",
    "1x8192:lean": "1 x 8192\nlean",
    "1x1024:free": "1 x 1024",
}
OURS, PEER = "#1f6f5c", "#b9b9b9"


def draw(report: dict, peer: str) -> plt.Figure:
    """Tokens/s of both side by side, the ratio above, each one's memory within its bar."""
    told = [row for row in report["rows"] if row["setting"] in NAMES]
    rows = [row for row in told if peer in row["tokens_per_second"]]
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for place, row in enumerate(rows):
        for offset, name, colour in ((-0.2, "medimind", OURS), (0.2, peer, PEER)):
            speed = row["tokens_per_second"][name]
            axes.bar(place + offset, speed, width=0.38, color=colour)
            memory = f"{row['peak_memory_gib'][name]:.1f}\nGiB"
            shade = "white" if name == "medimind" else "black"
            axes.text(place + offset, 300, memory, ha="center", va="bottom", color=shade, size=8)
        top = max(row["tokens_per_second"].values())
        axes.text(place, top + 300, f"{row['ratio'][peer]:.2f} x", ha="center", weight="bold")
    axes.set_xticks(range(len(rows)), [NAMES[r["setting"]] for r in rows])
    axes.set_ylabel("tokens/s")
    axes.set_title(f"QLoRA step of an 8B on one {report['device']}: MediMind, {peer}", size=10)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (OURS, PEER)]
    version = report.get("versions", {}).get(peer, "")
    axes.legend(handles, ["MediMind", f"{peer} {version}"], frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    results = ROOT / "benchmarks/results/gpu_step.json"
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--peer", default="unsloth")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/gpu_step.svg")
    options = parser.parse_args()
    mpl.rcParams["svg.hashsalt"] = "gpu_step"  # the same file from the same figures
    figure = draw(json.loads(options.results.read_text(encoding="utf-8")), options.peer)
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
