"""A decoder made ready to generate on a card: weights, cache and graphs that outlive a call.

On a Hopper base weights are read as NF4, in the order of its tensor cores. On other cards they are
held dense and joined, beside NF4, where the memory allows it; one row reads NF4 all the same. Else
NF4 is multiplied as it is, and weights not in NF4 are joined at each step.
Everything is made at the first call and used again by the next ones.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.backend import kernels_for
from medimind.models.cache import KvCache
from medimind.models.decoder import Decoder
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, fuse_layer
from medimind.models.graph_decode.fp8_prompts import Fp8Prompts
from medimind.models.graph_decode.products import Held, all_nf4, make_products
from medimind.models.graph_decode.step import Buffers, TokenStep, make_buffers
from medimind.models.graph_decode.unit_products import why_no_units
from medimind.models.rope import rotary_tables

logger = logging.getLogger(__name__)

_RESERVE = 1 << 30
"""Bytes left free beside weights and cache: prompts, logits, workspaces of the libraries."""
_COLUMNS = 256
"""The cache grows by so many columns."""


class GraphDecoder:
    """One new token per row, as a CUDA graph for each number of rows.

    Args:
        decoder: The model; its adapter may change between calls of ``begin``.
        held: How base weights are held; ``None`` takes dense where it fits.
        graph: Capture graphs; without, each step runs as it is (on any device).
    """

    def __init__(self, decoder: Decoder, *, held: Held | None = None, graph: bool = True) -> None:
        self.decoder = decoder
        self.graph = graph
        self.layers = [fuse_layer(layer) for layer in decoder.layers]
        self.held = held or _held(decoder, self.layers)
        self._bind_adapters()
        self.products = make_products(
            self.layers, held=self.held, dtype=decoder.dtype, device=decoder.device
        )
        self.adapter = False
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.angles: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))
        self._buffers: dict[bool, Buffers] = {}
        self._graphs: dict[tuple[bool, int], torch.cuda.CUDAGraph] = {}
        self._fp8_prompts: Fp8Prompts | None = None
        self._pool = torch.cuda.graph_pool_handle() if graph else None

    def new_cache(self, lengths: Sequence[int], *, capacity: int) -> KvCache:
        """A cache over the memory of the calls before, which it ends; the adapter is taken over."""
        self._reserve(rows=bucket(len(lengths)), columns=-(-capacity // _COLUMNS) * _COLUMNS)
        self.adapter = any(p.has_adapter for _, p in self.decoder.projections())
        if self.adapter:
            self._bind_adapters()
            self.products.refresh()
        a = self.decoder.architecture
        return KvCache(
            a.num_layers,
            lengths=lengths,
            num_kv_heads=a.num_kv_heads,
            head_dim=a.head_dim,
            capacity=self.keys[0].shape[2],
            dtype=self.decoder.dtype,
            device=self.decoder.device,
            memory=(self.keys, self.values),
        )

    @property
    def fp8_prompts(self) -> Fp8Prompts:
        """Reads prompts in fp8; its weights are made at the first use."""
        if self._fp8_prompts is None:
            self._fp8_prompts = Fp8Prompts(self.decoder, self.layers)
        return self._fp8_prompts

    def begin(self, cache: KvCache) -> None:
        """Take over the rows of a cache that has read its prompts or dropped rows."""
        at = self._at()
        at.start_B.zero_()
        at.start_B[: cache.num_rows].copy_(cache.start_B)
        at.length.fill_(cache.length)

    def step(self, token_ids_B: torch.Tensor) -> Buffers:
        """Read one token per row; the first rows of the buffers hold what comes of it."""
        count = bucket(len(token_ids_B))
        at = self._at()
        # What is not finite has no token; the caller sees that when it reads the tokens.
        at.token_ids_B[: len(token_ids_B)].copy_(token_ids_B.clamp(min=0))
        key = (self.adapter, count)
        if key in self._graphs:
            self._graphs[key].replay()
            return at
        step = self._step()
        if not self.graph:
            step(at.rows(count))
            return at
        self._graphs[key] = self._capture(step, at.rows(count))
        self._graphs[key].replay()
        return at

    def _capture(self, step: TokenStep, at: Buffers) -> torch.cuda.CUDAGraph:
        """The step as a graph; what the trial run adds is taken back."""
        length = int(at.length)
        step(at)
        at.length.fill_(length)
        torch.cuda.synchronize()
        self.products.forget()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step(at)
        self.products.forget()
        return graph

    def _step(self) -> TokenStep:
        return TokenStep(
            decoder=self.decoder,
            layers=self.layers,
            products=self.products,
            kernels=kernels_for(self.decoder.device),
            keys=self.keys,
            values=self.values,
            angles=self.angles,
            adapter=self.adapter,
            pdl=self.held == "units" and self.decoder.device.type == "cuda",
        )

    def _at(self) -> Buffers:
        if self.adapter not in self._buffers:
            rows = self.keys[0].shape[0]
            self._buffers[self.adapter] = make_buffers(self.decoder, self.layers[0], rows=rows)
        return self._buffers[self.adapter]

    def _reserve(self, *, rows: int, columns: int) -> None:
        """A cache of at least this size; a new one makes the graphs anew."""
        if self.keys and self.keys[0].shape[0] >= rows and self.keys[0].shape[2] >= columns:
            return
        if self.keys:
            rows = max(rows, self.keys[0].shape[0])
            columns = max(columns, self.keys[0].shape[2])
        self._graphs.clear()
        if self.graph:
            # A pool dies with its last graph.
            self._pool = torch.cuda.graph_pool_handle()
        self._buffers.clear()
        self.keys, self.values = [], []
        a, device = self.decoder.architecture, self.decoder.device
        positions_C = torch.arange(columns, device=device)
        self.angles = rotary_tables(
            positions_C, self.decoder.inverse_frequency, dtype=self.decoder.dtype
        )
        shape = (rows, a.num_kv_heads, columns, a.head_dim)
        for store in (self.keys, self.values):
            store += [
                torch.zeros(shape, dtype=self.decoder.dtype, device=device)
                for _ in range(a.num_layers)
            ]

    def _bind_adapters(self) -> None:
        """Casts of all adapters, at the same place at each call."""
        for layer in self.layers:
            for name in GROUP_NAMES:
                group = layer.groups[name]
                adapted = group.adapted
                casts = [p.adapter(dtype=self.decoder.dtype) for p in adapted]
                if not casts:
                    group.a_EI = torch.empty(
                        0, group.num_inputs, dtype=self.decoder.dtype, device=self.decoder.device
                    )
                    continue
                a_EI = torch.cat([a for a, _ in casts])
                if group.a_EI.shape == a_EI.shape:
                    group.a_EI.copy_(a_EI)
                else:
                    group.a_EI = a_EI
                group.b = [b for _, b in casts]


def bucket(rows: int) -> int:
    """The number of rows that is computed for so many: the next power of 2."""
    return 1 << max(0, rows - 1).bit_length()


def graph_decoder(decoder: Decoder) -> GraphDecoder | None:
    """The decoder's own, made at the first call; ``None`` on devices without CUDA graphs."""
    if decoder.device.type != "cuda" or not has_triton():
        return None
    if not isinstance(decoder.generation, GraphDecoder):
        decoder.generation = GraphDecoder(decoder)
    return decoder.generation


def _held(decoder: Decoder, layers: Sequence[FusedLayer]) -> Held:
    """As units on a Hopper; dense copies where there is room for them; else NF4 as it is."""
    if decoder.device.type != "cuda":
        return "dense"
    groups = [group for layer in layers for group in layer.groups.values()]
    needed = decoder.dtype.itemsize * sum(group.num_outputs * group.width for group in groups)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(decoder.device)
    reason = why_no_units(layers, dtype=decoder.dtype, device=decoder.device)
    if reason is None and _RESERVE + needed // 3 <= free:
        return "units"
    if decoder.dtype == torch.bfloat16 and all_nf4(layers):
        logger.info("generation: NF4 is not read on tensor cores: %s", reason or "no memory for it")
    if needed + max(_RESERVE, needed // 4) <= free:
        return "dense"
    held = "nf4" if all_nf4(layers) else "scratch"
    logger.info("generation: no memory for dense weights; they are held as: %s", held)
    return held
