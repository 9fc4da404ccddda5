"""One decoder layer forward and backward, written out over explicit buffers.

``T`` tokens, ``D`` model width, ``H`` query heads, ``G`` key/value heads, ``K`` head width, ``I``
MLP width, ``E`` adapter columns.

```
x_in ─┬─ norm ─ h1 ─ qkv ─ rotate ─ attention ─ o ─┐
      └──────────────────── + ◄────────────────────┘
x_mid ┬─ norm ─ h2 ─ gate, up ─ swiglu ─ z ─ down ─┐
      └──────────────────── + ◄────────────────────┘   (added by the next layer's norm)
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from medimind.kernels.attention.backward import attention_backward
from medimind.kernels.attention.forward import Backend, Segments, attention_forward
from medimind.kernels.backend import Kernels
from medimind.kernels.lora_linear.backward import a_gradient, b_gradient
from medimind.kernels.lora_linear.forward import project_down
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.architecture import Architecture
from medimind.models.fused.activations import Activations, Workspace
from medimind.models.fused.group import FusedLayer, Group, GroupName
from medimind.models.fused.products import Codes, Products


@dataclass(slots=True)
class LayerMath:
    """The arithmetic of layers on one device.

    Attributes:
        architecture: Shapes.
        kernels: Elementwise kernels.
        products: Of the projections.
        work: Shared buffers.
        cos_TK: Cosines of the tokens' positions.
        sin_TK: Sines.
        segments: How the tokens are divided.
        backend: The attention's.
    """

    architecture: Architecture
    kernels: Kernels
    products: Products
    work: Workspace
    cos_TK: torch.Tensor
    sin_TK: torch.Tensor
    segments: Segments
    backend: Backend

    def heads(
        self, qkv_TQ: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of q, k, v, and of q and k together."""
        a = self.architecture
        view = qkv_TQ.view(qkv_TQ.shape[0], a.num_heads + 2 * a.num_kv_heads, a.head_dim)
        last = a.num_heads + a.num_kv_heads
        return view[:, : a.num_heads], view[:, a.num_heads : last], view[:, last:], view[:, :last]

    def normed(self, layer: FusedLayer, saved: Activations) -> None:
        """h1 of a layer whose input is in its buffer."""
        _, _, saved.rstd1_T = self.kernels.rms_norm_forward(
            saved.x_in_TD,
            layer.norm1_D,
            eps=self.architecture.rms_norm_epsilon,
            normed_out=saved.h1.x_TI,
        )

    def added_normed(
        self, layer: FusedLayer, saved: Activations, *, before: FusedLayer, kept: Activations
    ) -> None:
        """The layer's input, the last layer's output added up, and h1.

        Args:
            layer: The layer.
            saved: Its activations.
            before: The last layer.
            kept: The last layer's activations.
        """
        saved.rstd1_T = self.add_output(
            before,
            kept,
            layer.norm1_D,
            normed_out=saved.h1.x_TI,
            sum_out=saved.x_in_TD,
            codes=self.products.codes(layer, "qkv", saved.h1.x_TI),
        )

    def add_output(
        self,
        layer: FusedLayer,
        saved: Activations,
        norm_D: torch.Tensor,
        *,
        normed_out: torch.Tensor,
        sum_out: torch.Tensor,
        codes: Codes | None = None,
    ) -> torch.Tensor:
        """A layer's output added up and normed by the next norm; its rstd."""
        return self._add(
            layer.groups["down"],
            norm_D,
            residual_TD=saved.x_mid_TD,
            normed_out=normed_out,
            sum_out=sum_out,
            columns_TE=saved.z_columns_TE,
            codes=codes,
        )

    def _add(
        self,
        group: Group,
        norm_D: torch.Tensor,
        *,
        residual_TD: torch.Tensor,
        normed_out: torch.Tensor,
        sum_out: torch.Tensor,
        columns_TE: torch.Tensor,
        codes: Codes | None,
    ) -> torch.Tensor:
        """Product, update and bias of o or down added to the stream, and normed."""
        update = {}
        if group.parts:
            rank = group.a_EI.shape[0]
            kept = len(columns_TE) == len(residual_TD)  # else they are made again with z
            update = {
                "t_TR": self.work.delta.t_TE[:, :rank],
                "b_DR": group.b[0],
                "scaling": group.parts[0].scaling,
                "t_out": columns_TE[:, :rank] if kept else None,
            }
        return self.kernels.lora_norm_forward(
            self.work.delta.x_TI,
            norm_D,
            eps=self.architecture.rms_norm_epsilon,
            residual_TD=residual_TD,
            normed_out=normed_out,
            sum_out=sum_out,
            bias_D=group.projections[0].bias,
            codes=codes,
            **update,
        )

    def attend(self, layer: FusedLayer, saved: Activations) -> None:
        """From h1 to x_mid and h2."""
        self.project_qkv(layer, saved)
        q_THK, k_TGK, v_TGK, _ = self.heads(saved.qkv_TQ)
        out_THK, saved.attention_saved = attention_forward(
            q_THK, k_TGK, v_TGK, self.segments, backend=self.backend
        )
        saved.o = InputBuffer(out_THK.reshape(out_THK.shape[0], -1), saved.o_columns_TE, None)
        self.add_attention(layer, saved)

    def project_qkv(self, layer: FusedLayer, saved: Activations) -> None:
        """From h1 to turned queries and keys, and values."""
        self.products.forward(layer, "qkv", saved.h1, out=saved.qkv_TQ)
        qk_THK = self.heads(saved.qkv_TQ)[3]
        self.kernels.rotate(qk_THK, self.cos_TK, self.sin_TK, out=qk_THK)

    def add_attention(self, layer: FusedLayer, saved: Activations) -> None:
        """From the attention's output to x_mid and h2."""
        assert saved.o is not None
        self.products.narrow(layer, "o", saved.o.x_TI, out=self.work.delta)
        saved.rstd2_T = self._add(
            layer.groups["o"],
            layer.norm2_D,
            residual_TD=saved.x_in_TD,
            normed_out=saved.h2.x_TI,
            sum_out=saved.x_mid_TD,
            columns_TE=saved.o_columns_TE,
            codes=self.products.codes(layer, "gate_up", saved.h2.x_TI),
        )

    def widen(self, layer: FusedLayer, saved: Activations) -> None:
        """From h2 to z."""
        self.products.forward(layer, "gate_up", saved.h2, out=saved.gate_up_TI)
        self._activate(layer, saved)

    def _activate(self, layer: FusedLayer, saved: Activations) -> None:
        """From gate and up to z."""
        gate_TI, up_TI = saved.gate_up_TI.chunk(2, dim=1)
        codes = self.products.codes(layer, "down", saved.z.x_TI)
        self.kernels.swiglu_forward(gate_TI, up_TI, out=saved.z.x_TI, codes=codes)

    def narrow(self, layer: FusedLayer, saved: Activations) -> None:
        """From z to what is added to x_mid."""
        self.products.narrow(layer, "down", saved.z.x_TI, out=self.work.delta)

    def mlp_parts(self, saved: Activations) -> Iterator[tuple[LayerMath, Activations]]:
        """The MLP's work in parts of as many tokens as its buffers hold, one after the other."""
        num_tokens, at_once = len(saved.x_mid_TD), len(saved.gate_up_TI)
        if at_once >= num_tokens:
            yield self, saved
            return
        for start in range(0, num_tokens, at_once):
            stop = min(start + at_once, num_tokens)
            yield replace(self, work=self.work.part(start, stop)), saved.part(start, stop)

    def mlp(self, layer: FusedLayer, saved: Activations) -> None:
        """From h2 to what is added to x_mid."""
        for math, part in self.mlp_parts(saved):
            math.widen(layer, part)
            math.narrow(layer, part)

    def recompute_cheap(self, layer: FusedLayer, saved: Activations) -> None:
        """h1, h2 and z again, with their adapter columns, from what was kept."""
        eps = self.architecture.rms_norm_epsilon
        pairs = (
            (saved.x_in_TD, layer.norm1_D, saved.h1),
            (saved.x_mid_TD, layer.norm2_D, saved.h2),
        )
        for (x_TD, norm_D, h), name in zip(pairs, ("qkv", "gate_up"), strict=True):
            self.kernels.rms_norm_forward(x_TD, norm_D, eps=eps, normed_out=h.x_TI)
            project_down(h, layer.groups[name].a_EI)
        if not layer.skinny_in_swiglu:
            self._activate(layer, saved)
            project_down(saved.z, layer.groups["down"].a_EI)

    def recompute(self, layer: FusedLayer, saved: Activations, *, projections: bool) -> None:
        """Everything up to h2 that was not kept, from the layer's input.

        Args:
            layer: The layer.
            saved: With the attention's output, where that was kept.
            projections: Whether q, k, v and x_mid are done again too.
        """
        self.normed(layer, saved)
        if saved.o is None:
            self.attend(layer, saved)
        elif projections:
            self.project_qkv(layer, saved)
            self.add_attention(layer, saved)
        else:
            project_down(saved.h1, layer.groups["qkv"].a_EI)
            _, _, saved.rstd2_T = self.kernels.rms_norm_forward(
                saved.x_mid_TD,
                layer.norm2_D,
                eps=self.architecture.rms_norm_epsilon,
                normed_out=saved.h2.x_TI,
            )

    def _widen_again(self, layer: FusedLayer, saved: Activations) -> None:
        """What the MLP's backward pass needs, from h2."""
        if layer.skinny_in_swiglu:  # which makes z itself
            self.products.forward(layer, "gate_up", saved.h2, out=saved.gate_up_TI)
            return
        self.widen(layer, saved)
        project_down(saved.z, layer.groups["down"].a_EI)

    def backward(
        self, layer: FusedLayer, saved: Activations, *, before: FusedLayer | None, widen: bool
    ) -> None:
        """Turns ``work.grad_TD`` from the gradient of the output into that of the input.

        Args:
            layer: The layer.
            saved: Its activations.
            before: The layer before it; the first one's input needs no gradient.
            widen: Whether gate, up and z are to be made again.
        """
        work = self.work
        assert saved.o is not None
        assert saved.rstd1_T is not None
        assert saved.rstd2_T is not None
        for math, part in self.mlp_parts(saved):
            if widen:
                math._widen_again(layer, part)
            math._mlp_back(layer, part)
            self.kernels.rms_norm_backward(
                math.work.grad_h2.x_TI,
                part.x_mid_TD,
                layer.norm2_D,
                part.rstd2_T,
                grad_sum_TD=math.work.grad_TD,
                out=math.work.grad_TD,
                codes=self.products.codes(layer, "o", math.work.grad_TD, gradient=True),
            )
        self._project_back(layer, "o", work.grad_TD, saved.o, work.grad_o)
        self._attention_back(saved)
        self._project_back(
            layer, "qkv", work.grad_qkv_TQ, saved.h1, work.grad_h1, needs_input=before is not None
        )
        if before is not None:
            self.kernels.rms_norm_backward(
                work.grad_h1.x_TI,
                saved.x_in_TD,
                layer.norm1_D,
                saved.rstd1_T,
                grad_sum_TD=work.grad_TD,
                out=work.grad_TD,
                codes=self.products.codes(before, "down", work.grad_TD, gradient=True),
            )

    def _mlp_back(self, layer: FusedLayer, saved: Activations) -> None:
        work, wide, down = self.work, layer.groups["gate_up"], layer.groups["down"]
        if not layer.skinny_in_swiglu:
            self._project_back(layer, "down", work.grad_TD, saved.z, work.grad_z)
            gate_TI, up_TI = saved.gate_up_TI.chunk(2, dim=1)
            self.kernels.swiglu_backward(
                work.grad_z.x_TI, gate_TI, up_TI, grad_gate_out=gate_TI, grad_up_out=up_TI
            )
            self._project_back(layer, "gate_up", saved.gate_up_TI, saved.h2, work.grad_h2)
            return
        rank = down.a_EI.shape[0]
        columns = InputBuffer(saved.z.x_TI, saved.z_columns_TE, None)
        b_gradient(work.grad_TD, columns, down.parts, down.grad_b, down.grad_b_OR)
        self.products.input_gradient(
            layer, "down", work.grad_TD, grad_inputs=work.grad_z, update=False
        )
        self.kernels.lora_swiglu_backward(
            work.grad_z.x_TI,
            work.grad_z.t_TE[:, :rank],
            saved.gate_up_TI,
            saved.h2.t_TE[:, : 2 * rank],
            down.a_EI,
            scaling=wide.parts[0].scaling,
            grad_a_RI=down.grad_a_EI,
            grad_b_gate_IR=wide.grad_b[0],
            grad_b_up_IR=wide.grad_b[1],
        )
        self.products.input_gradient(layer, "gate_up", saved.gate_up_TI, grad_inputs=work.grad_h2)
        a_gradient(work.grad_h2, saved.h2, wide.grad_a_EI)

    def _attention_back(self, saved: Activations) -> None:
        assert saved.o is not None
        q_THK, k_TGK, v_TGK, _ = self.heads(saved.qkv_TQ)
        grads = attention_backward(
            self.work.grad_o.x_TI.view(q_THK.shape),
            q_THK,
            k_TGK,
            v_TGK,
            saved.o.x_TI.view(q_THK.shape),
            saved.attention_saved,
            self.segments,
            backend=self.backend,
        )
        self.kernels.rotate_back(*grads, self.cos_TK, self.sin_TK, out_TQ=self.work.grad_qkv_TQ)

    def _project_back(
        self,
        layer: FusedLayer,
        name: GroupName,
        grad_TO: torch.Tensor,
        inputs: InputBuffer,
        grad_inputs: InputBuffer,
        *,
        needs_input: bool = True,
    ) -> None:
        group = layer.groups[name]
        self.products.input_gradient(
            layer, name, grad_TO, grad_inputs=grad_inputs, needs_input=needs_input
        )
        a_gradient(grad_inputs, inputs, group.grad_a_EI)
        b_gradient(grad_TO, inputs, group.parts, group.grad_b, group.grad_b_OR)
