"""Products of one decoding step of an 8B on a card: weights in NF4 against dense ones, by rows.

    python benchmarks/gpu_products.py                       # as shipped, at 1, 16, 32, 64, 128 rows
    python benchmarks/gpu_products.py --sweep --rows 1 128  # other tiles too
    python benchmarks/gpu_products.py --units --rows 128    # a Hopper's, product by product

All four products of eight layers (random weights, more than any cache holds) run as one CUDA graph;
milliseconds are those of 32 layers, without the head. Each variant's product is first compared with
the dense one. ``--warm`` builds one variant alone, so that a sweep can build many at once.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import torch

from medimind.kernels.nf4.dequantize import dequantize_nf4
from medimind.kernels.nf4.weight import Nf4Weight
from medimind.kernels.nf4_linear.forward import Tiles, nf4_linear, tiles_for
from medimind.kernels.nf4_linear.reference import Nf4Parts, nf4_parts
from medimind.kernels.nf4_linear.repack import repack
from medimind.kernels.nf4_linear.vector import nf4_vector

LAYERS, ALL_LAYERS = 8, 32
SHAPES = {
    "qkv": (4096, (4096, 1024, 1024)),
    "o": (4096, (4096,)),
    "gate_up": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}
VECTORS = [
    (4, 512, 4, 1),
    (8, 512, 4, 1),
    (2, 1024, 4, 1),
    (4, 1024, 4, 1),
    (8, 1024, 8, 1),
    (8, 512, 8, 1),
    (16, 512, 8, 1),
    (4, 256, 2, 1),
    (4, 512, 2, 1),
    (2, 512, 2, 1),
]
FEW = [
    Tiles(16, 64, 128, 528, 4, 4),
    Tiles(16, 64, 128, 1056, 4, 3),
    Tiles(16, 64, 64, 1056, 4, 4),
    Tiles(16, 32, 128, 1056, 4, 4),
    Tiles(16, 32, 256, 1056, 4, 3),
    Tiles(16, 128, 128, 528, 8, 3),
    Tiles(16, 128, 64, 528, 4, 4),
    Tiles(16, 64, 256, 528, 8, 3),
]
MANY = [
    Tiles(128, 128, 64, 264, 8, 3),
    Tiles(128, 128, 64, 264, 8, 4),
    Tiles(128, 128, 64, 132, 8, 4),
    Tiles(128, 128, 128, 132, 8, 3),
    Tiles(128, 64, 64, 396, 4, 3),
    Tiles(128, 64, 128, 264, 4, 3),
    Tiles(128, 128, 64, 264, 4, 3),
    Tiles(128, 256, 64, 132, 8, 3),
]
SOME = [
    Tiles(64, 64, 128, 396, 4, 3),
    Tiles(64, 128, 64, 264, 4, 4),
    Tiles(64, 128, 64, 396, 8, 3),
    Tiles(64, 128, 128, 264, 8, 3),
]


UNIT_TILES = [  # warps, stages, programs
    (8, 4, 264),
    (8, 5, 264),
    (8, 6, 264),
    (4, 4, 396),
    (4, 5, 264),
    (4, 6, 264),
    (4, 5, 396),
    (4, 8, 264),
]


def variants(rows: int, *, sweep: bool) -> list[Tiles]:
    if not sweep:
        return [tiles_for(rows)]
    return FEW if rows <= 16 else SOME if rows <= 64 else MANY


def random_weight(outputs: int, inputs: int) -> Nf4Weight:
    """Random codes, scales of a usual size."""
    size = outputs * inputs
    return Nf4Weight(
        packed_P=torch.randint(0, 256, (size // 2,), dtype=torch.uint8, device="cuda"),
        absmax_S=torch.rand(size // 64, device="cuda") * 0.02 + 0.04,
        nested_absmax_Z=None,
        offset=None,
        shape=(outputs, inputs),
        dtype=torch.bfloat16,
    )


def make_layers(count: int) -> list[dict[str, Nf4Parts]]:
    return [
        {
            name: nf4_parts([random_weight(size, inputs) for size in outputs])
            for name, (inputs, outputs) in SHAPES.items()
        }
        for _ in range(count)
    ]


def inputs_and_outputs(rows: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {
        name: (
            torch.randn(rows, inputs, dtype=torch.bfloat16, device="cuda"),
            torch.full((rows, sum(outputs)), torch.nan, dtype=torch.bfloat16, device="cuda"),
        )
        for name, (inputs, outputs) in SHAPES.items()
    }


def run_all(layers, places, tiles: Tiles) -> None:
    for layer in layers:
        for name, parts in layer.items():
            x, out = places[name]
            nf4_linear(x, parts, out_BO=out, tiles=tiles)


def milliseconds(action) -> float:
    """Median of the graph's replays, scaled to all layers."""
    action()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    times = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[2:]) * ALL_LAYERS / LAYERS


def check(layers, places, tiles: Tiles) -> float:
    """Largest relative error of a product against the dense one."""
    worst = 0.0
    run_all(layers[:1], places, tiles)
    for name, parts in layers[0].items():
        x, out = places[name]
        dense = torch.cat([dequantize_nf4(w, dtype=torch.bfloat16) for w in parts.weights])
        exact = x.float() @ dense.float().t()
        worst = max(worst, float((out.float() - exact).norm() / exact.norm()))
    return worst


def units(rows_of: list[int], *, sweep: bool) -> None:
    """Each product over units, as a Hopper's steps launch it (``nf4_linear/hopper.py``)."""
    from medimind.kernels.nf4_linear.hopper import HopperTiles, hopper_tiles, units_linear

    tiles_of = [HopperTiles(*tiles) for tiles in UNIT_TILES] if sweep else []
    totals = dict.fromkeys(rows_of, 0.0)
    for name, (inputs, outputs) in SHAPES.items():
        gated = name == "gate_up"
        layers = [
            repack([random_weight(size, inputs) for size in outputs], interleaved=gated)
            for _ in range(LAYERS)
        ]
        for rows in rows_of:
            x, out = inputs_and_outputs(rows)[name]
            out = out.chunk(2, dim=1)[0] if gated else out
            shipped = hopper_tiles(rows, layers[0])
            for tiles in [shipped, *tiles_of]:

                def products(layers=layers, x=x, out=out, tiles=tiles) -> None:
                    for weights in layers:
                        units_linear(x, weights, out_BO=out, tiles=tiles, pdl=True)

                try:
                    took = milliseconds(products)
                except Exception as reason:
                    print(f"  {tiles}: {str(reason)[:80]}", flush=True)
                    continue
                if tiles is shipped:
                    totals[rows] += took
                print(f"rows {rows}, {name}: {took:.2f} ms, {tiles}", flush=True)
    print({rows: round(total, 2) for rows, total in totals.items()}, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 32, 64, 128])
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument(
        "--built", action="store_true", help="the sweep's variants are built already"
    )
    parser.add_argument("--units", action="store_true", help="a Hopper's products alone")
    parser.add_argument("--vectors", action="store_true", help="sweep those of one row only")
    parser.add_argument("--warm", type=int, nargs=2, metavar=("ROWS", "VARIANT"))
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.units:
        units(options.rows, sweep=options.sweep)
        return 0
    if options.warm:
        rows, index = options.warm
        run_all(make_layers(1), inputs_and_outputs(rows), variants(rows, sweep=True)[index])
        torch.cuda.synchronize()
        return 0
    if options.sweep and not (options.built or options.vectors):
        commands = [
            [sys.executable, __file__, "--warm", str(rows), str(index)]
            for rows in options.rows
            for index in range(len(variants(rows, sweep=True)))
        ]
        builders = [subprocess.Popen(c, stderr=subprocess.DEVNULL) for c in commands]
        print("not built:", sum(builder.wait() != 0 for builder in builders), flush=True)
    layers = make_layers(LAYERS)
    dense = [
        {
            name: torch.cat([dequantize_nf4(w, dtype=torch.bfloat16) for w in parts.weights])
            for name, parts in layer.items()
        }
        for layer in layers
    ]
    for rows in options.rows:
        places = inputs_and_outputs(rows)

        def products(places=places) -> None:
            for layer in dense:
                for name, weight in layer.items():
                    x, out = places[name]
                    torch.mm(x, weight.t(), out=out)

        print(f"rows {rows}: dense {milliseconds(products):.2f} ms", flush=True)
        for tiles in () if options.vectors else variants(rows, sweep=options.sweep):
            try:
                error = check(layers, places, tiles)
                took = milliseconds(
                    lambda tiles=tiles, places=places: run_all(layers, places, tiles)
                )
            except Exception as reason:
                print(f"  {tiles}: {str(reason)[:80]}", flush=True)
                continue
            print(f"  {took:.2f} ms, error {error:.1e}: {tiles}", flush=True)
        if rows == 1:
            for shape in VECTORS if options.sweep else VECTORS[:1]:
                options_of = dict(zip(("outputs", "step", "warps", "stages"), shape, strict=True))

                def one_row(places=places, options_of=options_of) -> None:
                    for layer in layers:
                        for name, parts in layer.items():
                            nf4_vector(places[name][0], parts, out_1O=places[name][1], **options_of)

                print(f"  {milliseconds(one_row):.2f} ms: vector {options_of}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
