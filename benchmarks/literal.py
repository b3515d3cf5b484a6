"""The literal procedure of the three papers: one picture at a time, every attention matrix kept, one backward a class.

Written from the papers' equations for timm's vision transformers with a class token. It is what a reader of the papers
would write, and what vitscope's cost and memory are held against; it uses nothing of vitscope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Kept(nn.Module):
    """timm's self-attention, written out, which keeps its N x N matrices for the backward pass.

    Attributes:
        alone: whether its input is cut off from what comes before, so that gradients reach it by the skip path only.
        scores, matrix: before and after the softmax (1 h n n).
        values: (1 h n d).
        mixed: the attention's output T, before the projection (1 n D).
    """

    def __init__(self, attention: nn.Module, alone: bool) -> None:
        super().__init__()
        self.attention, self.alone = attention, alone

    def forward(self, tokens: Tensor, *_: object, **__: object) -> Tensor:
        own = self.attention
        if self.alone:
            tokens = tokens.detach().requires_grad_()
        queries, keys, self.values = own.qkv(tokens).unflatten(-1, (3, own.num_heads, -1)).permute(2, 0, 3, 1, 4)
        self.scores = (own.q_norm(queries) * own.scale) @ own.k_norm(keys).transpose(-2, -1)
        self.matrix = self.scores.softmax(dim=-1)
        self.mixed = (self.matrix @ self.values).transpose(1, 2).flatten(2)
        self.matrix.retain_grad()
        self.mixed.retain_grad()
        return own.proj(own.norm(self.mixed))


@contextmanager
def kept(model: nn.Module, alone: bool = False) -> Iterator[list[Kept]]:
    """The model with every block's attention written out."""
    written = [Kept(block.attn, alone) for block in model.blocks]
    try:
        for block, attention in zip(model.blocks, written, strict=True):
            block.attn = attention
        yield written
    finally:
        for block, attention in zip(model.blocks, written, strict=True):
            block.attn = attention.attention


def daam(model: nn.Module, image: Tensor, classes: Sequence[int]) -> list[Tensor]:
    """sum_b ReLU( sum_d ReLU(dY/dT_b)_d a_b v_b ), by full back-propagation: each (n)."""
    maps = []
    with kept(model) as blocks:
        for _ in _backwards(model, image, classes):
            total = torch.zeros(())
            for block in blocks:
                gradient = block.mixed.grad[0, 0].relu()  # D
                parts = block.matrix[0, :, 0, :, None] * block.values[0]  # h n d, which sums to T over n
                total = total + (parts.transpose(0, 1).flatten(1) @ gradient).relu()
            maps.append(total.detach())
            _forget(tensor for block in blocks for tensor in (block.mixed, block.matrix))
    return maps


def agcam(model: nn.Module, image: Tensor, classes: Sequence[int]) -> list[Tensor]:
    """sum_b sum_h ReLU(dY/da_b) sigmoid(z_b), the gradient by the skip path only: each (n)."""
    maps = []
    with kept(model, alone=True) as blocks:
        for _ in _backwards(model, image, classes):
            total = torch.zeros(())
            for block in blocks:
                weights = block.matrix.grad.relu() * block.scores.sigmoid()  # 1 h n n
                total = total + weights[0, :, 0].sum(dim=0)
            maps.append(total.detach())
            _forget(tensor for block in blocks for tensor in (block.mixed, block.matrix))
    return maps


def cdam(model: nn.Module, image: Tensor, classes: Sequence[int]) -> list[Tensor]:
    """t . dY/dt at the output t of the last block's first LayerNorm: each (n)."""
    held: list[Tensor] = []

    def hold(_: nn.Module, __: object, tokens: Tensor) -> None:
        tokens.retain_grad()
        held.append(tokens)

    handle = model.blocks[-1].norm1.register_forward_hook(hold)
    maps = []
    try:
        with kept(model) as blocks:
            for _ in _backwards(model, image, classes):
                maps.append((held[0] * held[0].grad)[0].sum(dim=-1).detach())
                _forget([*held, *(tensor for block in blocks for tensor in (block.mixed, block.matrix))])
    finally:
        handle.remove()
    return maps


PROCEDURES: dict[str, Callable[[nn.Module, Tensor, Sequence[int]], list[Tensor]]] = {
    "daam": daam,
    "agcam": agcam,
    "cdam": cdam,
}


def explain(methods: str, model: nn.Module, images: Tensor, targets: Sequence[Sequence[int]]) -> list[Tensor]:
    """The maps by the last of `methods` ("daam" or "daam,agcam,cdam"), one after the other: a target each, (b n)."""
    prefix = model.num_prefix_tokens
    for method in methods.split(","):
        each = [
            PROCEDURES[method](model, image[None], classes) for image, *classes in zip(images, *targets, strict=True)
        ]
    return [torch.stack([maps[slot] for maps in each])[:, prefix:] for slot in range(len(targets))]


def _backwards(model: nn.Module, image: Tensor, classes: Sequence[int]) -> Iterator[int]:
    """One forward; then a backward for each class in turn, parameters and all, as `loss.backward()` does it."""
    logits = model(image.clone().requires_grad_())
    for place, label in enumerate(classes):
        model.zero_grad()
        logits[0, label].backward(retain_graph=place < len(classes) - 1)
        yield label
    model.zero_grad()


def _forget(tensors: Iterator[Tensor] | list[Tensor]) -> None:
    for tensor in tensors:
        tensor.grad = None
