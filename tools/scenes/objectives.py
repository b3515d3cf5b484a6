"""What the bundled models are trained for: modules that turn a batch into a loss."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

from vitscope.datasets import CLASSES, drawing
from vitscope.datasets.scenes import HUES, KINDS
from vitscope.models.bundled import PATCH


def _factor(values: list[str], names: list[str]) -> Tensor:
    """From a label map's value (0 = no thing, else class + 1) to the value of one factor (0 = none)."""
    return torch.tensor([0, *(1 + names.index(value) for value in values)])


class Supervised(nn.Module):
    """Logits: cross-entropy, shared evenly where several classes are present. Last tokens, for training only:

    their own class (token labelling, LV-ViT, 2104.10858), their hue, pattern and shape, and which of their pixels
    belong to an object. The heads of the tokens are dropped afterwards.
    """

    def __init__(self, net: VisionTransformer | SwinTransformer) -> None:
        super().__init__()
        self.net = net
        self.cell = PATCH if isinstance(net, VisionTransformer) else net.patch_embed.patch_size[0] << net.num_layers - 1
        self.maps = {
            "label": torch.arange(len(CLASSES) + 1),
            "hue": _factor([kind.hue for kind in KINDS], list(HUES)),
            "pattern": _factor([kind.pattern for kind in KINDS], list(drawing.PATTERNS)),
            "shape": _factor([kind.shape for kind in KINDS], list(drawing.SHAPES)),
        }
        self.heads = nn.ModuleDict(
            {name: nn.Linear(net.num_features, int(values.max()) + 1) for name, values in self.maps.items()}
        )
        self.pixels = nn.Linear(net.num_features, self.cell**2)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of pictures whose class token names one of the classes that are there."""
        by_patch = _patches(labels, self.cell)  # b n pixels
        share = F.one_hot(by_patch, len(CLASSES) + 1).float().mean(dim=2)  # b n class
        wanted, named = _wanted(labels)
        features = self.net.forward_features(images)
        logits = self.net.forward_head(features).float()
        tokens = features.flatten(1, 2) if features.ndim == 4 else features[:, self.net.num_prefix_tokens :]
        loss = -(wanted * logits.log_softmax(dim=1)).sum(dim=1).mean()
        for name, values in self.maps.items():
            head = self.heads[name]
            truth = torch.zeros(*share.shape[:2], head.out_features).index_add_(2, values, share)
            weight = 1.0 if name == "label" else 0.5
            loss = loss - weight * (truth * head(tokens).float().log_softmax(dim=2)).sum(dim=2).mean()
        loss = loss + F.binary_cross_entropy_with_logits(self.pixels(tokens).float(), (by_patch > 0).float())
        return loss, named.gather(1, logits.argmax(dim=1, keepdim=True)).mean()


class Classify(nn.Module):
    """The class token's cross-entropy alone."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of pictures whose class token names one of the classes that are there."""
        wanted, named = _wanted(labels)
        logits = self.net(images).float()
        loss = -(wanted * logits.log_softmax(dim=1)).sum(dim=1).mean()
        return loss, named.gather(1, logits.argmax(dim=1, keepdim=True)).mean()


class MomentumContrast(nn.Module):
    """MoCo v3 (2104.02057): the class token of one view finds its partner among the batch's other individuals.

    The partner's features come from a slow copy of the network. No label is used.
    """

    def __init__(self, net: VisionTransformer, temperature: float = 0.2, width: int = 512, out: int = 128) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature
        self.projector = _mlp(net.embed_dim, width, out)
        self.predictor = _mlp(out, width, out)
        self.slow = copy.deepcopy(nn.ModuleList([self.net, self.projector])).requires_grad_(False)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of views whose partner comes first."""
        with torch.no_grad():
            keys = self._embed(*self.slow, images)
        queries = self.predictor(self._embed(self.net, self.projector, images))
        queries, keys = (F.normalize(x.float(), dim=1).unflatten(0, (-1, 2)) for x in (queries, keys))
        rows = torch.arange(len(queries))
        loss, found = queries.new_zeros(()), queries.new_zeros(())
        for query, key in ((queries[:, 0], keys[:, 1]), (queries[:, 1], keys[:, 0])):
            scores = query @ key.T / self.temperature
            loss = loss + self.temperature * F.cross_entropy(scores, rows)
            found = found + (scores.argmax(dim=1) == rows).float().mean() / 2
        return loss, found

    @torch.no_grad()
    def after_step(self, momentum: float) -> None:
        """Let the slow copy follow."""
        fast = nn.ModuleList([self.net, self.projector])
        for slow, now in zip(self.slow.parameters(), fast.parameters(), strict=True):
            slow.lerp_(now, 1 - momentum)

    @staticmethod
    def _embed(net: VisionTransformer, projector: nn.Module, images: Tensor) -> Tensor:
        return projector(net.forward_features(images)[:, 0])


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, outputs), nn.LayerNorm(outputs)
    )


def _patches(labels: Tensor, side: int) -> Tensor:
    """(b, h, w) to (b, patches, pixels of the patch)."""
    grid = labels.unfold(1, side, side).unfold(2, side, side)
    return grid.flatten(3).flatten(1, 2)


def _wanted(labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the class token shall say, (b, classes), and which classes are there: those that fill a patch's pixels.

    Several share evenly; a picture without a thing asks for the uniform distribution.
    """
    flat = labels.flatten(1)
    filled = torch.zeros(len(flat), len(CLASSES) + 1).scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float))
    named = (filled[:, 1:] >= PATCH * PATCH).float()
    count = named.sum(dim=1, keepdim=True)
    return torch.where(count > 0, named / count.clamp(min=1), 1 / len(CLASSES)), named
