"""Loss and adapter gradients of a packed batch, forward and backward written out by hand.

On CUDA the passes of a shape run eagerly once, which also compiles and plans what they need; from
then on they are two CUDA graphs around the head, whose number of rows changes with the targets.

``T`` tokens, ``N`` targets, ``D`` model width, ``V`` vocabulary, ``K`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medimind.kernels.attention.forward import Segments, choose_backend
from medimind.kernels.backend import kernels_for
from medimind.kernels.embedding import gather_rows
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.decoder import Decoder
from medimind.models.fused.adapters import FlatAdapters
from medimind.models.fused.buffers import BufferMaker
from medimind.models.fused.layer import LayerMath, fuse_layer
from medimind.models.fused.offload import NUM_SLOTS, Offload
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.weights import ResidentWeights, ScratchWeights
from medimind.models.rope import rotary_tables
from medimind.packing.batch import IGNORE_INDEX, PackedBatch

_LONGEST_STEP = 512
"""Longest segments are rounded up to multiples of this, so that few graphs are captured."""


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


def _embedding(decoder: Decoder, *, on_host: bool) -> torch.Tensor:
    """The embedding table; moved to pinned host memory where that is asked for and possible."""
    weight = decoder.model.embed_tokens.weight
    if on_host and weight.is_cuda and not decoder.architecture.tied_head:
        weight.data = weight.data.cpu().pin_memory()
        torch.cuda.empty_cache()
    return weight.data


def _logits_buffer(
    spare: torch.Tensor | None,
    num_rows: int,
    vocab_size: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Room for the logits of some rows, in a spare buffer where it holds any."""
    if spare is None or spare.numel() < vocab_size:
        return torch.empty(num_rows, vocab_size, dtype=dtype, device=device)
    num_rows = min(num_rows, spare.numel() // vocab_size)
    return spare.view(-1)[: num_rows * vocab_size].view(num_rows, vocab_size)


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
        source = ResidentWeights if plan.resident else ScratchWeights
        self.weights = source(self.layers, dtype=dtype, device=device)
        maker = BufferMaker(a, self.layers, num_tokens=num_tokens, dtype=dtype, device=device)
        self.inputs: Offload | None = None
        self.outputs: Offload | None = None
        if plan.keep == "inputs" and plan.offload:
            stream = torch.cuda.Stream() if device.type == "cuda" else None
            slots = [maker.rows_D() for _ in range(NUM_SLOTS)]
            self.saved = maker.activations(plan.keep, inputs=slots)
            self.inputs = Offload(slots, num_layers=len(self.layers), stream=stream)
            width = self.layers[0].groups["o"].num_inputs
            slots = [maker.rows(width) for _ in range(NUM_SLOTS)]
            self.outputs = Offload(slots, num_layers=len(self.layers), stream=stream)
        else:
            self.saved = maker.activations(plan.keep)
        self.work = maker.workspace(self.saved[0])
        self.table_VD = _embedding(decoder, on_host=plan.host_embedding)
        self.token_ids_T = torch.zeros(num_tokens, dtype=torch.int64, device=device)
        self.cos_TK = torch.empty(num_tokens, a.head_dim, dtype=dtype, device=device)
        self.sin_TK = torch.empty_like(self.cos_TK)
        # Between the passes the layers' own buffers are free for the head.
        self.hidden_TD = self.work.grad_TD
        self.grad_hidden_TD = self.work.delta_TD
        lean = plan.keep == "inputs"
        self.final_TD = self.saved[-1].x_mid_TD if lean else maker.rows_D()
        self.final_rstd_T = torch.empty(num_tokens, dtype=torch.float32, device=device)
        spare = self.saved[0].gate_up_TI if lean else None
        self.logits_CV = _logits_buffer(
            spare, min(plan.head_chunk, num_tokens), a.vocab_size, dtype=dtype, device=device
        )
        self.losses_T = torch.empty(num_tokens, dtype=torch.float32, device=device)
        self.kernels = kernels_for(device)
        self.math: LayerMath | None = None
        self._math: dict[tuple[int | None, int, int], LayerMath] = {}
        self._graphs: dict[tuple[int | None, int, int], _Graphs] = {}
        self._key: tuple[int | None, int, int] = (None, 0, 0)

    @torch.no_grad()
    def run(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        labels_T: torch.Tensor | np.ndarray,
        *,
        cu_seqlens: Sequence[int],
    ) -> torch.Tensor:
        """Sum of the losses (fp32 scalar); its gradient is added to ``adapters.grads``.

        Args:
            token_ids_T: int64, ``num_tokens`` of them.
            position_ids_T: int64.
            labels_T: int64; ``IGNORE_INDEX`` where there is no target.
            cu_seqlens: Offsets of the segments.
        """
        self._take_segments(tuple(int(offset) for offset in cu_seqlens))
        self._take_tokens(token_ids_T, position_ids_T)
        graphs = self._graphs.get(self._key)
        if graphs is not None:
            graphs.forward.replay()
            loss = self._head(labels_T)
            graphs.backward.replay()
            return loss
        self._forward()
        loss = self._head(labels_T)
        self._backward()
        if self.plan.graph and self.device.type == "cuda":
            self._graphs[self._key] = self._capture()
        return loss

    def run_batch(self, batch: PackedBatch) -> torch.Tensor:
        """As ``run``, for a packed batch of at most ``num_tokens`` tokens."""
        padding = self.num_tokens - len(batch.token_ids_T)
        if padding < 0:
            raise ValueError(f"the batch has more than {self.num_tokens} tokens")
        offsets = [int(offset) for offset in batch.cu_seqlens]
        tokens, positions, labels = batch.token_ids_T, batch.position_ids_T, batch.labels_T
        if padding:
            offsets.append(self.num_tokens)
            tokens = np.pad(tokens, (0, padding))
            positions = np.concatenate([positions, np.arange(padding)])
            labels = np.pad(labels, (0, padding), constant_values=IGNORE_INDEX)
        return self.run(
            torch.from_numpy(tokens), torch.from_numpy(positions), labels, cu_seqlens=offsets
        )

    def refresh(self) -> None:
        """Take over changed adapters; to be called after each update of the parameters."""
        self.adapters.refresh()
        self.weights.refresh()

    def zero_gradients(self) -> None:
        """Start a new sum of gradients."""
        self.adapters.grads.zero_()

    def _take_segments(self, offsets: tuple[int, ...]) -> None:
        lengths = np.diff(offsets)
        lengths = lengths[lengths > 0]
        equal = len(lengths) if (lengths == lengths[0]).all() else None
        a = self.decoder.architecture
        backend = choose_backend(
            self.device, self.dtype, head_dim=a.head_dim, equal=equal is not None
        )
        exact = equal is not None or backend == "reference"
        capacity = len(offsets) if exact else 1 << (len(offsets) - 1).bit_length()
        longest = int(lengths.max())
        if not exact:
            longest = min(self.num_tokens, -(-longest // _LONGEST_STEP) * _LONGEST_STEP)
        self._key = (equal, capacity, longest)
        padded = list(offsets) + [offsets[-1]] * (capacity - len(offsets))
        found = self._math.get(self._key)
        if found is None:
            cu_seqlens = torch.tensor(padded, dtype=torch.int32, device=self.device)
            found = LayerMath(
                architecture=a,
                kernels=self.kernels,
                weights=self.weights,
                work=self.work,
                cos_TK=self.cos_TK,
                sin_TK=self.sin_TK,
                segments=Segments(cu_seqlens, longest, equal, offsets),
                backend=backend,
            )
            self._math[self._key] = found
        elif not (equal is not None and backend == "cudnn"):
            found.segments.cu_seqlens.copy_(torch.tensor(padded, dtype=torch.int32))
            found.segments = Segments(found.segments.cu_seqlens, longest, equal, offsets)
        self.math = found

    def _take_tokens(self, token_ids_T: torch.Tensor, position_ids_T: torch.Tensor) -> None:
        self.token_ids_T.copy_(token_ids_T, non_blocking=True)
        cos_TK, sin_TK = rotary_tables(
            position_ids_T.to(self.device, non_blocking=True),
            self.decoder.inverse_frequency,
            dtype=self.dtype,
        )
        self.cos_TK.copy_(cos_TK)
        self.sin_TK.copy_(sin_TK)
        gather_rows(self.table_VD, self.token_ids_T, out=self.saved[0].x_in_TD)

    def _forward(self) -> None:
        math = self._need_math()
        if self.inputs is not None:
            self.inputs.begin()
        for index, (layer, saved) in enumerate(zip(self.layers, self.saved, strict=True)):
            self._free_slots(index - NUM_SLOTS)
            if index == 0:
                math.normed(layer, saved)
            else:
                math.added_normed(layer, saved, residual_TD=self.saved[index - 1].x_mid_TD)
            if self.inputs is not None:
                self.inputs.send(index, saved.x_in_TD)
            math.attend(layer, saved)
            if self.outputs is not None and saved.o is not None:
                self.outputs.send(index, saved.o.x_TI)
            math.widen(layer, saved)
            math.narrow(layer, saved)
            if self.plan.keep == "inputs" and self.outputs is None:
                saved.forget_attention()
        _, _, rstd_T = self.kernels.rms_norm_forward(
            self.work.delta_TD,
            self.decoder.model.norm.weight,
            eps=self.decoder.architecture.rms_norm_epsilon,
            residual_TD=self.saved[-1].x_mid_TD,
            normed_out=self.hidden_TD,
            sum_out=self.final_TD,
        )
        self.final_rstd_T.copy_(rstd_T)
        if self.inputs is not None:
            self.inputs.wait_fetched()
            for index in range(len(self.layers)):
                self._free_slots(index)

    def _free_slots(self, index: int) -> None:
        """The slot and the attention's output of a layer that were sent are free again."""
        if self.inputs is None or self.outputs is None:
            return
        self.inputs.wait_sent(index)
        self.outputs.wait_sent(index)
        if 0 <= index < self.outputs.num_offloaded:
            self.saved[index].o = None

    def _fetch(self, index: int) -> None:
        """This layer's kept tensors are there, and those of the next to come travel."""
        if self.inputs is None or self.outputs is None:
            return
        self.inputs.wait_fetched()
        if index < self.outputs.num_offloaded:
            saved = self.saved[index]
            slot = self.outputs.slots[index % NUM_SLOTS]
            saved.o = InputBuffer(slot, saved.o_columns_TE, None)
        self.inputs.fetch(index - 1)
        self.outputs.fetch(index - 1)

    def _head(self, labels_T: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Loss at the targets, and the gradient of the final norm's output."""
        labels = labels_T if isinstance(labels_T, np.ndarray) else labels_T.cpu().numpy()
        positions = np.flatnonzero(labels != IGNORE_INDEX)
        targets_N = torch.from_numpy(labels[positions]).to(self.device, non_blocking=True)
        head_VD = self.decoder.head_VD
        full = len(positions) == self.num_tokens
        rows_N = None if full else torch.from_numpy(positions).to(self.device, non_blocking=True)
        if not full:
            self.grad_hidden_TD.zero_()
        for start in range(0, len(positions), len(self.logits_CV)):
            stop = min(start + len(self.logits_CV), len(positions))
            if rows_N is None:
                hidden_CD = self.hidden_TD[start:stop]
            else:
                hidden_CD = self.hidden_TD.index_select(0, rows_N[start:stop])
            logits_CV = self.logits_CV[: stop - start]
            torch.mm(hidden_CD, head_VD.t(), out=logits_CV)
            self.kernels.cross_entropy_(
                logits_CV, targets_N[start:stop], losses_out=self.losses_T[start:stop]
            )
            if rows_N is None:
                torch.mm(logits_CV, head_VD, out=self.grad_hidden_TD[start:stop])
            else:
                self.grad_hidden_TD.index_copy_(0, rows_N[start:stop], logits_CV @ head_VD)
        return self.losses_T[: len(positions)].sum()

    def _backward(self) -> None:
        math = self._need_math()
        if self.inputs is not None:
            self.inputs.begin()
        self.kernels.rms_norm_backward(
            self.grad_hidden_TD,
            self.final_TD,
            self.decoder.model.norm.weight,
            self.final_rstd_T,
            out=self.work.grad_TD,
        )
        for layer, saved in zip(reversed(self.layers), reversed(self.saved), strict=True):
            self._fetch(layer.index)
            if self.plan.keep == "cheap":
                math.recompute_cheap(layer, saved)
            elif self.plan.keep == "inputs":
                math.recompute(layer, saved)
            math.backward(layer, saved, needs_input=layer.index > 0)
            if self.plan.keep == "inputs":
                saved.forget_attention()
        if self.inputs is not None:
            self.inputs.wait_fetched()

    def _capture(self) -> _Graphs:
        """Both passes as graphs over one memory pool; capturing computes nothing."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graphs = _Graphs(torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph())
        self._forget_held()
        with torch.cuda.graph(graphs.forward, capture_error_mode="thread_local"):
            self._forward()
        self._forget_held()
        with torch.cuda.graph(
            graphs.backward, pool=graphs.forward.pool(), capture_error_mode="thread_local"
        ):
            self._backward()
        self._forget_held()
        return graphs

    def _forget_held(self) -> None:
        """A graph must fill its scratch weights itself."""
        if isinstance(self.weights, ScratchWeights):
            self.weights.refresh()

    def _need_math(self) -> LayerMath:
        assert self.math is not None
        return self.math
