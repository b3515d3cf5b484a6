"""CDAM: Class-Discriminative Attention Map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Blocks, Needs, Sway, Trace, head_products


@register_method
@dataclass(frozen=True)
class CDAM:
    """CDAM (Brocki, Binda, Chung; arXiv 2312.02364), by its closed form.

        S[n] = sum_j t_B[n, j] dY/dt_B[n, j],   t_B the output of the last block's LN1

    Token n reaches the class row of the last block through its key and its value only. With dv_n and ds_n the change
    of its value and its class-row score along t_n, its effect on T is a[n] (dv_n + ds_n (v_n - T)), hence

        S[n] = sum_h a^h[n] ( <g^h, dv_n^h> + ds_n^h <g^h, v_n^h - T^h> ),   g = dY/dT_B

    which equals the autograd definition and needs no backward pass. Where the head reads more rows than the class
    token's (a distilled DeiT), S sums over these rows. Where it pools all tokens, every row of T_B changes with token
    n, by its query too: S comes from the definition then, by a backward pass through the last block. An attention pool
    is itself the last block, and the closed form holds. Signed: negative values speak against the target.
    """

    facts: ClassVar[Facts] = Facts(
        name="cdam",
        title="Class-Discriminative Attention Map",
        family="papers",
        paper="arXiv 2312.02364",
        year=2023,
        signed=True,
        class_specific=True,
        cost="1.04",
        any_network=True,
        caution="Looks at the last block's tokens only, which may have moved information between patches before.",
    )

    @property
    def needs(self) -> Needs:
        """The last block's class row, its gradient, and each token's effect on it."""
        last = Blocks.LAST
        return Needs(attention=last, values=last, sensitivity=last, skip_gradient=last)

    needs_of_any_network: ClassVar[Needs] = Needs(rerun=True)
    """The input of the last located attention's module, and the gradient there."""

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The signed map."""
        if isinstance(trace, Recording):
            return self._of_tokens(trace)
        block = trace.blocks[-1]
        if not block.class_row:
            last = trace.again()
            return Maps(values=trace.to_grid(last.at_norm(last.tokens[None])[0]))
        gradient = block.row_gradient  # b h m r d
        vectors, sizes = gradient.flatten(2, 3), gradient.shape[2:4]
        at_values, at_changes = (
            head_products(vectors, each).unflatten(2, sizes) for each in (block.values, block.value_change)
        )
        at_output = (gradient * block.row_output.unsqueeze(2)).sum(dim=-1, keepdim=True)
        sway = Sway(block.row_attention, block.score_change, at_values, at_changes, at_output)
        return Maps(values=trace.to_grid(sway.effect))

    def _of_tokens(self, recording: Recording) -> Maps:
        """By the definition: the input of the last located attention's module times the gradient there."""
        tokens = recording.module_tokens
        if tokens is None:
            raise MethodError("no module with attention has an input whose tokens have a place; use daam, gradcam")
        values = (tokens.gradients * tokens.values.unsqueeze(1)).sum(dim=-1)
        return Maps(values=values.unflatten(-1, tokens.grid).float())
