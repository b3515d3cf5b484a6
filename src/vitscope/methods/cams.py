"""The CAM family on a transformer: the last block's LN1 output as the activations, the patch grid as the picture.

    A[n, k] = t_B[n, k],   G[n, k] = dY/dt_B[n, k]           (patch n, channel k)

as is usual for transformers (Gildenblat et al., pytorch-grad-cam). G reaches a patch through its key and its value, and
in a model that pools its tokens through its query too; never through the residual stream beside the norm. By that of
LibraGrad (`path=libra`, arXiv 2411.16760) through the value alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import LIBRA, PLAIN, Blocks, Needs, Trace

_NEEDS = Needs(attention=Blocks.LAST, rerun=True)
_TINY = 1e-7

Sign = Literal["svd", "peaked"]
Path = Literal["full", "libra"]

_BLUNT = "Sums channels of the last block's tokens, which may have moved information between patches before."


def _facts(
    name: str,
    title: str,
    paper: str,
    year: int,
    caution: str = _BLUNT,
    class_specific: bool = True,
    cost: str = "1.1",
    divides: bool = False,
) -> Facts:
    return Facts(
        name, title, "cam", paper, year, False, class_specific, cost, caution, divides=divides, any_network=True
    )


@register_method
@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391, Eqs. 1 and 2).

    map[n] = ReLU( sum_k mean_n'(G[n', k]) A[n, k] )

    Attributes:
        path: of the gradient, "full" or "libra".
    """

    path: Path = "full"

    facts: ClassVar[Facts] = _facts("gradcam", "Grad-CAM", "arXiv 1610.02391", 2017)

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """Channels weighted by their mean gradient."""
        activations, gradients = _last_tokens(trace, self.path)
        return _maps(trace, activations @ gradients.mean(dim=2).unsqueeze(-1))


@register_method
@dataclass(frozen=True)
class GradCAMPlusPlus:
    """Grad-CAM++ (Chattopadhay et al., WACV 2018, arXiv 1710.11063, Eqs. 10 and 19, for an exponential of the logit).

    alpha[n, k] = G^2 / (2 G^2 + sum_n'(A[n', k]) G^3),   w_k = sum_n alpha[n, k] ReLU(G[n, k])
    map[n] = ReLU( sum_k w_k A[n, k] )

    Attributes:
        path: of the gradient, "full" or "libra".
    """

    path: Path = "full"

    facts: ClassVar[Facts] = _facts("gradcam_pp", "Grad-CAM++", "arXiv 1710.11063", 2018, divides=True)

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """Channels weighted by their positive gradients."""
        activations, gradients = _last_tokens(trace, self.path)
        square = gradients**2
        below = 2 * square + activations.sum(dim=2, keepdim=True) * gradients**3
        alpha = torch.where(gradients == 0, torch.zeros_like(square), square / (below + 1e-6))
        weights = (alpha * gradients.relu()).sum(dim=2)
        return _maps(trace, activations @ weights.unsqueeze(-1))


@register_method
@dataclass(frozen=True)
class XGradCAM:
    """Axiom-based Grad-CAM (Fu et al., BMVC 2020, arXiv 2008.02312, Eq. 7).

    w_k = sum_n( G[n, k] A[n, k] / sum_n'(A[n', k]) ),   map[n] = ReLU( sum_k w_k A[n, k] )

    Attributes:
        path: of the gradient, "full" or "libra".
    """

    path: Path = "full"

    facts: ClassVar[Facts] = _facts("xgradcam", "XGrad-CAM", "arXiv 2008.02312", 2020, divides=True)

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """Channels weighted by their share of the first-order effect."""
        activations, gradients = _last_tokens(trace, self.path)
        weights = (gradients * activations).sum(dim=2) / (activations.sum(dim=2) + _TINY)
        return _maps(trace, activations @ weights.unsqueeze(-1))


@register_method
@dataclass(frozen=True)
class LayerCAM:
    """LayerCAM (Jiang et al., IEEE TIP 2021, Eqs. 6 and 7).

    map[n] = ReLU( sum_k ReLU(G[n, k]) A[n, k] )

    Attributes:
        path: of the gradient, "full" or "libra".
    """

    path: Path = "full"

    facts: ClassVar[Facts] = _facts("layercam", "LayerCAM", "doi 10.1109/TIP.2021.3089943", 2021)

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """Positive gradients, place by place."""
        activations, gradients = _last_tokens(trace, self.path)
        return _maps(trace, (gradients.relu() * activations).sum(dim=-1, keepdim=True))


@register_method
@dataclass(frozen=True)
class HiResCAM:
    """HiResCAM (Draelos, Carin; arXiv 2011.08891, Eq. 4).

    map[n] = ReLU( sum_k G[n, k] A[n, k] ): the positive part of CDAM, which keeps the sign.

    Attributes:
        path: of the gradient, "full" or "libra".
    """

    path: Path = "full"

    facts: ClassVar[Facts] = _facts("hirescam", "HiResCAM", "arXiv 2011.08891", 2020)

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """Gradient times activation, place by place."""
        activations, gradients = _last_tokens(trace, self.path)
        return _maps(trace, (gradients * activations).sum(dim=-1, keepdim=True))


@register_method
@dataclass(frozen=True)
class EigenCAM:
    """Eigen-CAM (Muhammad, Yeasin; IJCNN 2020, arXiv 2008.00299).

    map[n] = ReLU( A0[n] . v ), A0 less each channel's mean over the patches, v its first right singular vector.

    Attributes:
        sign: a singular vector has none of its own. "svd" takes what the linear algebra library gives, as
            pytorch-grad-cam does: thing or background, by chance. "peaked", our reading, takes the side on which the
            values are rarer and larger, sum_n (A0[n] . v)^3 >= 0.
    """

    sign: Sign = "svd"

    facts: ClassVar[Facts] = _facts(
        "eigencam",
        "Eigen-CAM",
        "arXiv 2008.00299",
        2020,
        "Shows the tokens' main direction of variance, whatever it means, without a gradient.",
        class_specific=False,
        cost="1.3",
    )

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The first principal component of the tokens."""
        tokens = _last_tokens(trace, "full")[0][:, 0]
        return Maps(values=_on_grid(trace, _first_component(tokens, self.sign)).relu())


@register_method
@dataclass(frozen=True)
class EigenGradCAM:
    """Eigen-CAM of gradient times activation, G * A (Gildenblat et al., pytorch-grad-cam; no paper).

    Attributes:
        sign: as for Eigen-CAM.
        path: of the gradient, "full" or "libra".
    """

    sign: Sign = "svd"
    path: Path = "full"

    facts: ClassVar[Facts] = _facts(
        "eigengradcam", "EigenGrad-CAM", "github.com/jacobgil/pytorch-grad-cam", 2021, cost="1.4"
    )

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return _NEEDS

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The first principal component of gradient times activation."""
        activations, gradients = _last_tokens(trace, self.path)
        return _maps(trace, _first_component(gradients * activations, self.sign).unsqueeze(-1))


def _last_tokens(trace: Trace | Recording, path: Path) -> tuple[Tensor, Tensor]:
    """A (b 1 P D) and G (b m P D) of the patch tokens, or of any other network's last located tokens."""
    if isinstance(trace, Recording):
        tokens = trace.need_layer(path)
        return tokens.values.unsqueeze(1), tokens.gradients
    last = trace.again()
    gradients = last.gradient_at_norm(LIBRA if path == "libra" else PLAIN)[:, :, trace.prefix :]
    return last.tokens[:, None, trace.prefix :], gradients


def _maps(trace: Trace | Recording, values: Tensor) -> Maps:
    """(b m P 1) -> the positive part on the grid."""
    return Maps(values=_on_grid(trace, values[..., 0]).relu())


def _on_grid(trace: Trace | Recording, values: Tensor) -> Tensor:
    grid = trace.need_layer().grid if isinstance(trace, Recording) else trace.grid
    on_grid: Tensor = values.unflatten(-1, grid).float()
    return on_grid


def _first_component(values: Tensor, sign: Sign) -> Tensor:
    """(... P D) -> each patch's coordinate along the first right singular vector of the centred values, (... P)."""
    centred = (values - values.mean(dim=-2, keepdim=True)).float()
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[..., 0, :]
    along: Tensor = (centred @ direction.unsqueeze(-1)).squeeze(-1)
    if sign == "svd":
        return along
    return torch.where((along**3).sum(dim=-1, keepdim=True) < 0, -along, along)
