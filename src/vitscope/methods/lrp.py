"""Layer-wise relevance propagation down to the patch tokens: CP-LRP, AttnLRP, ResLRP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import CP_LRP, Needs, Rules, Trace, attn_lrp, res_lrp


@register_method
@dataclass(frozen=True)
class CPLRP:
    """Conservative propagation (Ali et al., ICML 2022, arXiv 2202.07304, Eqs. 8 to 11).

        map[n] = sum_d x_1[n, d] g[n, d],   g = dY/dx_1 with every attention matrix and every norm's spread constant

    x_1 are the tokens that enter the first block, positions included. Activations keep their own gradient, as the paper
    treats attention and norms alone; so relevance is conserved with ReLU, without biases, and not quite with GELU.
    """

    facts: ClassVar[Facts] = Facts(
        name="cplrp",
        title="CP-LRP, conservative propagation",
        family="relevance",
        paper="arXiv 2202.07304",
        year=2022,
        signed=True,
        class_specific=True,
        cost="3.4",
        caution="What queries and keys decide does not count; relevance of the class token and of biases is not shown.",
    )

    @property
    def needs(self) -> Needs:
        """A backward pass by its rules."""
        return Needs(backward=frozenset({CP_LRP}))

    def __call__(self, trace: Trace) -> Maps:
        """Relevance of the first block's tokens."""
        return _at_patches(trace, CP_LRP)


@register_method
@dataclass(frozen=True)
class AttnLRP:
    """Attention-aware LRP (Achtibat et al., ICML 2024, arXiv 2402.05602).

        map[n] = sum_d R[n, d] of the tokens that enter the first block

    softmax by its own Taylor expansion, R_i = x_i (R'_i - s_i sum_j R'_j) (Prop. 3.1); products of matrices share alike
    between their factors (Prop. 3.3); norms with a constant spread and activations by the identity rule (Prop. 3.4);
    linear layers by the gamma rule. Softmax and biases keep relevance, so it is not conserved. The paper goes on to
    the pixels; here it ends at the tokens, before the patches' own linear layer.

    Attributes:
        gamma: of the linear layers; 0.05 is that of the authors' example for vision transformers, 0 gives LRP-0.
    """

    gamma: float = 0.05

    facts: ClassVar[Facts] = Facts(
        name="attnlrp",
        title="AttnLRP",
        family="relevance",
        paper="arXiv 2402.05602",
        year=2024,
        signed=True,
        class_specific=True,
        cost="15",
        caution="Relevance is lost in softmax and biases; with gamma = 0 the map is noisy.",
    )

    def __post_init__(self) -> None:
        _check_gamma("attnlrp", self.gamma)

    @property
    def needs(self) -> Needs:
        """A backward pass by its rules."""
        return Needs(backward=frozenset({attn_lrp(self.gamma)}))

    def __call__(self, trace: Trace) -> Maps:
        """Relevance of the first block's tokens."""
        return _at_patches(trace, attn_lrp(self.gamma))


@register_method
@dataclass(frozen=True)
class ResLRP:
    """ResLRP (2026): AttnLRP with a rule for residual connections, whose summands often cancel.

        R_a = w_a a / (w_a a + w_b b) R,   w_z = 1 + [sign z = sign(a + b)]

    a and b are the residual stream and what is added to it, place by place. The rule keeps all relevance and is never
    near a pole. Which rule the linear layers follow was not found out; that of our AttnLRP is taken.

    Attributes:
        gamma: of the linear layers, as for AttnLRP.
    """

    gamma: float = 0.05

    facts: ClassVar[Facts] = Facts(
        name="reslrp",
        title="ResLRP",
        family="relevance",
        paper="ResLRP, 2026",
        year=2026,
        signed=True,
        class_specific=True,
        cost="15",
        caution="Relevance is lost in softmax and biases, as in AttnLRP.",
    )

    def __post_init__(self) -> None:
        _check_gamma("reslrp", self.gamma)

    @property
    def needs(self) -> Needs:
        """A backward pass by its rules."""
        return Needs(backward=frozenset({res_lrp(self.gamma)}))

    def __call__(self, trace: Trace) -> Maps:
        """Relevance of the first block's tokens."""
        return _at_patches(trace, res_lrp(self.gamma))


def _at_patches(trace: Trace, rules: Rules) -> Maps:
    return Maps(values=trace.to_grid(trace.under(rules).relevance(0)))


def _check_gamma(name: str, gamma: float) -> None:
    if not 0 <= gamma < float("inf"):
        raise MethodError(f"{name}:gamma={gamma:g}: give a number of at least 0")
