"""Loss and adapter gradients of a packed batch, forward and backward written out by hand.

On CUDA the passes of a shape run eagerly at first, which also compiles and plans what they need; a
shape that comes again becomes two CUDA graphs around the head, whose number of rows changes with
the targets.

``T`` tokens, ``N`` targets, ``D`` model width, ``V`` vocabulary, ``K`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medimind.kernels.attention.forward import Backend, Segments, choose_backend, length_by_token
from medimind.kernels.backend import kernels_for
from medimind.kernels.embedding import gather_rows
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.decoder import Decoder
from medimind.models.fused.adapters import FlatAdapters
from medimind.models.fused.buffers import BufferMaker
from medimind.models.fused.fp8 import Fp8Products
from medimind.models.fused.fp8_weights import why_no_fp8
from medimind.models.fused.group import fuse_layer
from medimind.models.fused.head import Head
from medimind.models.fused.layer import LayerMath
from medimind.models.fused.offload import NUM_SLOTS
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.products import Products, joined_products
from medimind.models.fused.segments import padded_segments, padded_tokens
from medimind.models.fused.step_buffers import StepBuffers
from medimind.models.fused.transfer import send
from medimind.models.rope import rotary_tables
from medimind.packing.batch import IGNORE_INDEX, PackedBatch

_Key = tuple[int, int | None, int, int, Backend]


@dataclass(slots=True)
class _Graphs:
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


def why_unsupported(decoder: Decoder) -> str | None:
    """Why the fused step cannot run this decoder; ``None`` when it can."""
    if decoder.lora is None:
        return "there is no adapter"
    if decoder.lora.dropout:
        return "the adapter has dropout"
    if decoder.architecture.qk_norm:
        return "the model norms queries and keys"
    return None


def _move_embedding(decoder: Decoder) -> None:
    """To pinned host memory, where it is not the head too."""
    if decoder.embedding.device.type == "cuda" and not decoder.architecture.tied_head:
        decoder.model.embed_tokens.move_to_host()
        torch.cuda.empty_cache()


class FusedStep:
    """Losses and gradients of batches of up to ``num_tokens`` tokens.

    Args:
        decoder: With an adapter; its parameters become views of one buffer.
        num_tokens: Tokens of every batch; shorter ones are padded.
        plan: Memory against time.
    """

    def __init__(self, decoder: Decoder, *, num_tokens: int, plan: StepPlan | None = None) -> None:
        reason = why_unsupported(decoder)
        if reason is not None:
            raise ValueError(f"no fused step: {reason}")
        plan = plan or StepPlan()
        a, dtype, device = decoder.architecture, decoder.dtype, decoder.device
        self.decoder, self.plan, self.num_tokens = decoder, plan, num_tokens
        self.dtype, self.device = dtype, device
        self.layers = [fuse_layer(layer) for layer in decoder.layers]
        groups = [group for layer in self.layers for group in layer.groups.values()]
        self.adapters = FlatAdapters(groups, dtype=dtype, device=device)
        self.products = self._make_products()
        maker = BufferMaker(
            a,
            self.layers,
            num_tokens=num_tokens,
            mlp_chunk=plan.mlp_chunk if plan.keep == "inputs" else None,
            dtype=dtype,
            device=device,
            apart=plan.fp8,
        )
        if plan.host_embedding:
            _move_embedding(decoder)
        self.kernels = kernels_for(device)
        self.all = self._make_buffers(maker)
        spare = self.all.saved[0].gate_up_TI if plan.keep == "inputs" else None
        rows = min(plan.head_chunk, num_tokens)
        self.head = Head(decoder, self.kernels, num_rows=rows, spare=spare)
        self.at = self.all
        self.math: LayerMath | None = None
        self._shapes: dict[int, StepBuffers] = {num_tokens: self.all}
        self._math: dict[_Key, LayerMath] = {}
        self._graphs: dict[_Key, _Graphs] = {}
        self._seen: frozenset[_Key] = frozenset()
        self._key: _Key = (0, None, 0, 0, "reference")
        self._segments: tuple[int, tuple[int, ...]] | None = None
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def _make_products(self) -> Products:
        place = {"dtype": self.dtype, "device": self.device}
        if not self.plan.fp8:
            return joined_products(self.layers, resident=self.plan.resident, **place)
        reason = why_no_fp8(self.layers, self.device)
        if reason is not None:
            raise ValueError(f"no fp8: {reason}")
        return Fp8Products(self.layers, num_tokens=self.num_tokens, **place)

    def _make_buffers(self, maker: BufferMaker) -> StepBuffers:
        a, plan, device = self.decoder.architecture, self.plan, self.device
        travel = None
        if plan.keep == "inputs" and plan.offload:
            travel = maker.travel(projections=plan.offload_projections)
        saved = maker.activations(plan.keep, travel=travel)
        tokens = self.num_tokens
        cos_TK = torch.empty(tokens, a.head_dim, dtype=self.dtype, device=device)
        return StepBuffers(
            saved=saved,
            work=maker.workspace(saved[0], keep=plan.keep),
            travel=travel,
            token_ids_T=torch.zeros(tokens, dtype=torch.int64, device=device),
            position_ids_T=torch.zeros(tokens, dtype=torch.int64, device=device),
            cos_TK=cos_TK,
            sin_TK=torch.empty_like(cos_TK),
            final_TD=maker.final(saved[-1], plan),
            final_rstd_T=torch.empty(tokens, dtype=torch.float32, device=device),
            losses_T=torch.empty(tokens, dtype=torch.float32, device=device),
        )

    @torch.no_grad()
    def run(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        labels_T: torch.Tensor | np.ndarray,
        *,
        cu_seqlens: Sequence[int],
        backward: bool = True,
    ) -> torch.Tensor:
        """Sum of the losses (fp32 scalar); its gradient is added to ``adapters.grads``.

        Args:
            token_ids_T: int64, at most ``num_tokens`` of them.
            position_ids_T: int64.
            labels_T: int64; ``IGNORE_INDEX`` where there is no target.
            cu_seqlens: Offsets of the segments.
            backward: Whether gradients are wanted.
        """
        self._take_segments(tuple(int(offset) for offset in cu_seqlens), len(token_ids_T))
        send(token_ids_T, self.at.token_ids_T)
        send(position_ids_T, self.at.position_ids_T)
        graphs = self._graphs.get(self._key)
        if graphs is not None:
            graphs.forward.replay()
            loss = self.head(self.at, labels_T)
            if backward:
                graphs.backward.replay()
            return loss
        self._forward()
        loss = self.head(self.at, labels_T)
        if not backward:
            return loss
        self._backward()
        again, self._seen = self._key in self._seen, self._seen | {self._key}
        if again and self.plan.graph and self.device.type == "cuda":
            self._graphs[self._key] = self._capture()
        return loss

    def run_batch(self, batch: PackedBatch, *, backward: bool = True) -> torch.Tensor:
        """As ``run``, for a packed batch of at most ``num_tokens`` tokens."""
        used = len(batch.token_ids_T)
        if used > self.num_tokens:
            raise ValueError(f"the batch has more than {self.num_tokens} tokens")
        whole = padded_tokens(used, num_tokens=self.num_tokens, graph=self.plan.graph)
        padding = whole - used
        offsets = [int(offset) for offset in batch.cu_seqlens]
        tokens, positions, labels = batch.token_ids_T, batch.position_ids_T, batch.labels_T
        if padding:
            offsets.append(used + padding)
            tokens = np.pad(tokens, (0, padding))
            positions = np.concatenate([positions, np.arange(padding)])
            labels = np.pad(labels, (0, padding), constant_values=IGNORE_INDEX)
        return self.run(
            torch.from_numpy(tokens),
            torch.from_numpy(positions),
            labels,
            cu_seqlens=offsets,
            backward=backward,
        )

    def refresh(self) -> None:
        """Take over changed adapters; to be called after each update of the parameters."""
        self.adapters.refresh()
        self.products.refresh()

    def zero_gradients(self) -> None:
        """Start a new sum of gradients."""
        self.adapters.grads.zero_()

    def _take_segments(self, offsets: tuple[int, ...], num_tokens: int) -> None:
        if self._segments == (num_tokens, offsets):
            return
        self._segments = None  # until all of it is there, should something fail
        for saved in self.at.saved:  # another shape's attention must not be held beside this one's
            saved.forget_attention()
        if num_tokens not in self._shapes:
            self._shapes[num_tokens] = self.all.rows(num_tokens)
        self.at = self._shapes[num_tokens]
        lengths = np.diff(offsets)
        lengths = lengths[lengths > 0]
        equal = len(lengths) if (lengths == lengths[0]).all() else None
        a = self.decoder.architecture
        backend = choose_backend(
            self.device,
            self.dtype,
            head_dim=a.head_dim,
            equal=equal is not None,
            deterministic=self.plan.deterministic,
            mean_length=length_by_token(lengths.tolist()),
        )
        count, longest = len(offsets) - 1, int(lengths.max())
        if equal is None:
            count, longest = padded_segments(
                count, longest, num_tokens=num_tokens, backend=backend, graph=self.plan.graph
            )
        capacity = 1 + count
        self._key = (num_tokens, equal, capacity, longest, backend)
        padded = list(offsets) + [offsets[-1]] * (capacity - len(offsets))
        found = self._math.get(self._key)
        if found is None:
            cu_seqlens = torch.tensor(padded, dtype=torch.int32, device=self.device)
            found = LayerMath(
                architecture=a,
                kernels=self.kernels,
                products=self.products,
                work=self.at.work,
                cos_TK=self.at.cos_TK,
                sin_TK=self.at.sin_TK,
                segments=Segments(cu_seqlens, longest, equal, offsets),
                backend=backend,
            )
            self._math[self._key] = found
        elif equal is None:
            send(torch.tensor(padded, dtype=torch.int32), found.segments.cu_seqlens)
            cu_seqlens = found.segments.cu_seqlens
            found.segments = Segments(cu_seqlens, longest, equal, offsets)
        self.math, self._segments = found, (num_tokens, offsets)

    def _embed(self) -> None:
        """The first layer's input, and the angles, from the tokens and positions that were sent."""
        cos_TK, sin_TK = rotary_tables(
            self.at.position_ids_T, self.decoder.inverse_frequency, dtype=self.dtype
        )
        self.at.cos_TK.copy_(cos_TK)
        self.at.sin_TK.copy_(sin_TK)
        gather_rows(self.decoder.embedding, self.at.token_ids_T, out=self.at.saved[0].x_in_TD)

    def _forward(self) -> None:
        math = self._need_math()
        self._embed()
        travel = self.at.travel
        if travel is not None:
            travel.begin()
        for index, (layer, saved) in enumerate(zip(self.layers, self.at.saved, strict=True)):
            self._free_slots(index - NUM_SLOTS)
            if index == 0:
                math.normed(layer, saved)
            else:
                before, kept = self.layers[index - 1], self.at.saved[index - 1]
                math.added_normed(layer, saved, before=before, kept=kept)
            if travel is not None:
                travel.send("x_in_TD", index, saved.x_in_TD)
            math.attend(layer, saved)
            if travel is not None and saved.o is not None:
                travel.send("o", index, saved.o.x_TI)
                travel.send("qkv_TQ", index, saved.qkv_TQ)
                travel.send("x_mid_TD", index, saved.x_mid_TD)
            math.mlp(layer, saved)
            if self.plan.keep == "inputs" and travel is None:
                saved.forget_attention()
        rstd_T = math.add_output(
            self.layers[-1],
            self.at.saved[-1],
            self.decoder.model.norm.weight.data,
            normed_out=self.at.hidden_TD,
            sum_out=self.at.final_TD,
        )
        self.at.final_rstd_T.copy_(rstd_T)
        if travel is not None:
            travel.wait_fetched()
            for index in range(len(self.layers)):
                self._free_slots(index)

    def _free_slots(self, index: int) -> None:
        """The slot and the attention's output of a layer that were sent are free again."""
        if self.at.travel is None:
            return
        self.at.travel.wait_sent(index)
        if 0 <= index < self.at.travel.num_offloaded:
            self.at.saved[index].o = None

    def _fetch(self, index: int) -> None:
        """This layer's kept tensors are there, and those of the next to come travel."""
        travel = self.at.travel
        if travel is None:
            return
        travel.wait_fetched()
        if index < travel.num_offloaded:
            saved = self.at.saved[index]
            saved.o = InputBuffer(travel.slot("o", index), saved.o_columns_TE, None)
        travel.fetch(index - 1)

    def _backward(self) -> None:
        math = self._need_math()
        if self.at.travel is not None:
            self.at.travel.begin()
        self.kernels.rms_norm_backward(
            self.at.grad_hidden_TD,
            self.at.final_TD,
            self.decoder.model.norm.weight,
            self.at.final_rstd_T,
            out=self.at.work.grad_TD,
        )
        for layer, saved in zip(reversed(self.layers), reversed(self.at.saved), strict=True):
            self._fetch(layer.index)
            if self.plan.keep == "cheap":
                math.recompute_cheap(layer, saved)
            elif self.plan.keep == "inputs":
                math.recompute(layer, saved, projections=not self.plan.offload_projections)
            before = self.layers[layer.index - 1] if layer.index else None
            math.backward(layer, saved, before=before, widen=self.plan.keep == "inputs")
            if self.plan.keep == "inputs":
                saved.forget_attention()
        if self.at.travel is not None:
            self.at.travel.wait_fetched()

    def _capture(self) -> _Graphs:
        """Both passes as graphs; all graphs share a memory pool. Capturing computes nothing."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graphs = _Graphs(torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph())
        self.products.forget()
        mode = "thread_local"
        with torch.cuda.graph(graphs.forward, pool=self._pool, capture_error_mode=mode):
            self._forward()
        self.products.forget()
        with torch.cuda.graph(graphs.backward, pool=self._pool, capture_error_mode=mode):
            self._backward()
        self.products.forget()
        # Graphs run one after the other, so the next shape's may use the same memory.
        for saved in self.at.saved:
            saved.forget_attention()
        return graphs

    def _need_math(self) -> LayerMath:
        assert self.math is not None
        return self.math
