"""The methods a second time, written from their definitions: whole attention matrices, hooks, autograd, float64.

Nothing here uses vitscope, its closed forms, or its way of seeing attention.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WrittenOut:
    """Runs timm attention written out, keeping scores, attention, values and T of every block with their graph."""

    def __init__(self, model: nn.Module, detach_inputs: bool = False) -> None:
        self.model, self.detach_inputs = model, detach_inputs
        self.scores: list[Tensor] = []
        self.attention: list[Tensor] = []
        self.values: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.tokens: list[Tensor] = []

    def attend(self, module: nn.Module, x: Tensor) -> Tensor:
        if self.detach_inputs:
            x = x.detach()
        x = x.requires_grad_() if not x.requires_grad else x
        self.tokens.append(x)
        b, n, _ = x.shape
        q, k, v = module.qkv(x).reshape(b, n, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = module.q_norm(q), module.k_norm(k)
        scores = q @ k.transpose(-1, -2) * module.scale
        attention = scores.softmax(-1)
        attention.retain_grad()
        out = attention @ v
        self.scores.append(scores)
        self.attention.append(attention)
        self.values.append(v)
        self.outputs.append(out)
        return module.proj(module.norm(out.transpose(1, 2).flatten(2)))

    def pool(self, module: nn.Module, x: Tensor) -> Tensor:
        """An attention pool, likewise."""
        if self.detach_inputs:
            x = x.detach()
        x = x.requires_grad_() if not x.requires_grad else x
        self.tokens.append(x)
        b, n, _ = x.shape
        q = module.q(module.latent).reshape(1, 1, module.num_heads, -1).transpose(1, 2)
        k, v = module.kv(x).reshape(b, n, 2, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * module.scale
        self.scores.append(scores)
        self.attention.append(scores.softmax(-1))
        self.values.append(v)
        self.outputs.append(self.attention[-1] @ v)
        row = module.proj(self.outputs[-1].transpose(1, 2).flatten(2))
        return (row + module.mlp(module.norm(row)))[:, 0]

    @contextmanager
    def installed(self):
        sites = {block.attn: self.attend for block in self.model.blocks}
        if self.model.attn_pool is not None:
            sites[self.model.attn_pool] = self.pool
        for site, run in sites.items():
            site.forward = lambda x, *_, site=site, run=run, **__: run(site, x)
        try:
            yield self
        finally:
            for site in sites:
                del site.forward


def forward(model: nn.Module, images: Tensor, detach_inputs: bool = False) -> tuple[Tensor, WrittenOut]:
    run = WrittenOut(model, detach_inputs)
    with run.installed(), torch.enable_grad():
        return model(images), run


def gradients_at_outputs(model: nn.Module, images: Tensor, classes: Tensor, path: str) -> list[Tensor]:
    """Class row of dY/dT_b, (b h d) a block; the skip path detaches every attention's input."""
    logits, run = forward(model, images, detach_inputs=path == "skip")
    score = logits.gather(1, classes[:, None]).sum()
    return [g[:, :, 0] for g in torch.autograd.grad(score, run.outputs)]


def daam_blocks_of_every_row(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(b blocks n), every token: all rows of the attention matrix take part."""
    logits, run = forward(model, images)
    gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.outputs)
    each = zip(run.attention, run.values, gradients, strict=True)
    return torch.stack([((a.transpose(-1, -2) @ g.relu()) * v).sum((1, 3)).relu() for a, v, g in each], 1)


def daam_blocks(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(b blocks n), every token."""
    _, run = forward(model, images)
    maps = []
    for attention, value, gradient in zip(
        run.attention, run.values, gradients_at_outputs(model, images, classes, "full"), strict=True
    ):
        s = attention[:, :, 0, :, None] * value
        maps.append((gradient.relu()[:, :, None] * s).sum((1, 3)).relu())
    return torch.stack(maps, 1)


def agcam(model: nn.Module, images: Tensor, classes: Tensor, path: str = "skip") -> Tensor:
    """(b n), by the gradient at the whole attention matrix."""
    logits, run = forward(model, images, detach_inputs=path == "skip")
    grads = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.attention)
    return sum((g[:, :, 0].relu() * s[:, :, 0].sigmoid()).sum(1) for g, s in zip(grads, run.scores, strict=True))


def agcam_of_every_row(model: nn.Module, images: Tensor, classes: Tensor, path: str = "skip") -> Tensor:
    """(b n): the gradient at every entry of the attention matrix, positive part, times the sigmoid of its score."""
    logits, run = forward(model, images, detach_inputs=path == "skip")
    grads = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.attention, allow_unused=True)
    pairs = zip(grads, run.scores, strict=True)
    return sum((g.relu() * s.sigmoid()).sum((1, 2)) for g, s in pairs if g is not None)


def rollout(model: nn.Module, images: Tensor) -> Tensor:
    """(b n), by whole products of row-normed matrices."""
    _, run = forward(model, images)
    product = torch.eye(run.attention[0].shape[-1], dtype=images.dtype)
    for attention in run.attention:
        mixed = attention.mean(1) + torch.eye(attention.shape[-1], dtype=images.dtype)
        product = (mixed / mixed.sum(-1, keepdim=True)) @ product
    return product[:, 0]


def chefer(model: nn.Module, images: Tensor, classes: Tensor, normed: bool = False) -> Tensor:
    """(b n), by whole products of matrices; gradient rollout where every row is normed."""
    logits, run = forward(model, images)
    gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.attention)
    product = torch.eye(run.attention[0].shape[-1], dtype=images.dtype)
    for attention, gradient in zip(run.attention, gradients, strict=True):
        mixed = (attention * gradient).relu().mean(1) + torch.eye(attention.shape[-1], dtype=images.dtype)
        product = (mixed / mixed.sum(-1, keepdim=True) if normed else mixed) @ product
    return product[:, 0]


def cdam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(b n), t_B times the gradient at t_B."""
    logits, run = forward(model, images)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.tokens[-1:])
    return (run.tokens[-1] * gradient).sum(-1)


def last_input(model: nn.Module, images: Tensor) -> Tensor:
    """x_B, (b n D): what enters the last block."""
    seen: list[Tensor] = []
    hook = model.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(images)
    hook.remove()
    return seen[0]


def cdam_of_last_block(model: nn.Module, inputs: Tensor, score, tokens: Tensor | None = None) -> Tensor:
    """(b n), the CDAM of score(logits) with x_B = `inputs`, and t_B = `tokens` where given."""
    run, block = WrittenOut(model), model.blocks[-1]
    with run.installed(), torch.enable_grad():
        if tokens is not None:
            block.norm1.forward = lambda _: tokens
        try:
            logits = model.forward_head(model.norm(block(inputs)))
        finally:
            if tokens is not None:
                del block.norm1.forward
        (gradient,) = torch.autograd.grad(score(logits).sum(), run.tokens[-1:])
    return (run.tokens[-1] * gradient).sum(-1)
