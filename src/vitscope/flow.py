"""A quantitative reading of the attention flow: where in depth the evidence arises, and what that predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import scipy
import torch
from torch import Tensor

from vitscope.arrays import as_array
from vitscope.attribution import Attribution, Subject, half_of, shares_of
from vitscope.errors import MethodError
from vitscope.explainer import Explainer
from vitscope.methods import Method, as_method
from vitscope.options import check_choice
from vitscope.targets import Predicted
from vitscope.targets.target import TargetLike
from vitscope.trace import Needs, record, without_attention
from vitscope.trace.aim import slopes_of
from vitscope.trace.hold import Held

Rows = Literal["all", "read"]
"""Of which rows the attention is left out: of all tokens, or of those that the head reads."""


@dataclass(frozen=True, eq=False)
class Flow:
    """How a decision grows over the blocks, image by image (DAAM's third open question, 2503.14640, section 5).

    Attributes:
        subject: what was explained.
        method: whose maps a block were read.
        share: each block's share of the accumulated evidence, (b blocks), rows sum to 1.
        agreement: Spearman correlation of each block's own map with the accumulated one, (b blocks).
        half: how many blocks it takes until half of the evidence is there, (b), with fractions of a block.
        drop: by how much the target's value falls when the block's attention is left out, (b blocks).
        correlation: Spearman correlation of share and drop over the blocks, (b): what the shares predict.
        rows: of which rows the attention was left out.
    """

    subject: Subject
    method: str
    share: Tensor
    agreement: Tensor
    half: Tensor
    drop: Tensor
    correlation: Tensor
    rows: str

    def __len__(self) -> int:
        return len(self.share)


def attention_flow(
    explainer: Explainer,
    images: Any,
    method: str | Method = "daam",
    target: TargetLike = None,
    rows: Rows = "all",
    progress: Callable[[int], object] = lambda done: None,
) -> Flow:
    """Read the flow of `images`: one explanation, and one forward pass a block with its attention left out.

    Args:
        explainer: of the model.
        images: as for a call of the explainer.
        method: one that gives a map a block, such as "daam" or "agcam".
        target: as for a call of the explainer; what it takes from the pictures, as the predicted class or the
            neighbours' weights, stays that of the whole model.
        rows: leave out the attention of "all" tokens, or of those that the head "read"s alone.
        progress: called with 1 after every block.

    Raises:
        MethodError: the method gives no map a block, or `rows` is neither of these.
        as a call of the explainer.
    """
    check_choice("rows", rows, Rows, MethodError)
    if isinstance(method, str):
        as_method(method)  # which refuses a group
    explanation = explainer(images, [method], target)
    (label, attribution) = next(iter(explanation.attributions.items()))
    if attribution.blocks is None:
        raise MethodError(f"{label} gives no map a block; use daam or agcam")
    subject = explanation.subject
    aim, (output, features) = explainer.target(target), _pass(explainer, subject)
    (slope,) = slopes_of([aim], output, features)
    held, image = Held((aim,), (slope,), output, explainer.activation), torch.arange(len(subject), device=output.device)
    whole = held.score(0, output, features, image)
    drops = []
    for block in range(attribution.blocks.shape[1]):
        with without_attention(explainer.anatomy, block, rows), torch.no_grad():
            drops.append((whole - held.score(0, *_pass(explainer, subject), image)).detach().float().cpu())
        progress(1)
    drop, (share, agreement, half) = torch.stack(drops, dim=1), _reading(attribution)
    correlation = torch.tensor([_spearman(one, other) for one, other in zip(share, drop, strict=True)])
    return Flow(subject, label, share, agreement, half, drop, correlation, rows)


def _pass(explainer: Explainer, subject: Subject) -> tuple[Tensor, Tensor]:
    """Output (b c) and features (b F) of the pictures, in as many passes as memory asks for."""
    images = subject.batch.tensor

    def job(start: int, stop: int) -> tuple[Tensor, Tensor]:
        trace = record(explainer.anatomy, images[start:stop], Needs(), [Predicted()])
        return trace.logits, trace.features

    output, features = zip(*explainer.passes.over(images, "features", job), strict=True)
    return torch.cat(output), torch.cat(features)


def _reading(attribution: Attribution) -> tuple[Tensor, Tensor, Tensor]:
    """Share and agreement (b blocks), half (b)."""
    assert attribution.blocks is not None
    blocks, total = attribution.blocks.flatten(2).cpu(), attribution.values.flatten(1).cpu()
    share = shares_of(as_array(attribution.blocks))
    agreement = torch.tensor(
        [[_spearman(block, whole) for block in each] for each, whole in zip(blocks, total, strict=True)]
    )
    return torch.from_numpy(share), agreement, torch.from_numpy(half_of(share))


def _spearman(one: Tensor, other: Tensor) -> float:
    """NaN where one of them is constant."""
    if one.min() == one.max() or other.min() == other.max():
        return float("nan")
    return float(scipy.stats.spearmanr(one.numpy(), other.numpy()).statistic)
