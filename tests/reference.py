"""The methods a second time, written from their definitions: whole attention matrices, hooks, autograd, float64.

Nothing here uses vitscope, its closed forms, or its way of seeing attention.
"""

from __future__ import annotations

import copy
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


def libra_gradients(model: nn.Module, images: Tensor, target: int) -> list[Tensor]:
    """Of every block, the gradient of the target at its input, all tokens (b n D), by autograd of the affine model.

    In it attention matrices, the norms' spreads and GELU(x) / x are what they were in the true one.
    """

    class Norm(nn.Module):
        def __init__(self, norm: nn.LayerNorm) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            spread = (x.var(dim=-1, unbiased=False, keepdim=True) + self.norm.eps).sqrt().detach()
            return (x - x.mean(dim=-1, keepdim=True)) / spread * self.norm.weight + self.norm.bias

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (nn.functional.gelu(x) / x).detach()

    affine = copy.deepcopy(model)
    for parent in list(affine.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, Norm(child))
            elif isinstance(child, nn.GELU):
                setattr(parent, name, Gate())

    def attend(module: nn.Module, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = module.qkv(x).reshape(b, n, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        matrix = (module.q_norm(q) @ module.k_norm(k).transpose(-1, -2) * module.scale).softmax(-1).detach()
        return module.proj(module.norm((matrix @ v).transpose(1, 2).flatten(2)))

    inputs: list[Tensor] = []
    for block in affine.blocks:
        block.attn.forward = lambda x, *_, site=block.attn, **__: attend(site, x)
        block.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    return list(torch.autograd.grad(affine(images)[:, target].sum(), inputs))


def chefer_lrp(model: nn.Module, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """One picture's transformer attribution and partial LRP, (n) each: relevance layer by layer, whole matrices."""

    def over(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b == 0, torch.zeros_like(a), a / (b + 1e-9))

    def linear(layer: nn.Linear, x: Tensor, relevance: Tensor) -> Tensor:
        positive = torch.einsum("...i,oi->...oi", x, layer.weight).clamp(min=0)
        return torch.einsum("...oi,...o->...i", positive, over(relevance, positive.sum(-1)))

    def add(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        share = over(relevance, a + b)
        parts = [a * share, b * share]
        sums = [part.sum() for part in parts]
        norm = sum(total.abs() for total in sums)
        return tuple(
            part * over(total.abs() / norm * relevance.sum(), total) for part, total in zip(parts, sums, strict=True)
        )

    output, run = forward(model, image)
    gradients = torch.autograd.grad(output[0, target], run.attention)
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_hook(
                lambda _, x, y, name=name: seen.update({f"{name}<": x[0].detach(), f"{name}>": y.detach()})
            )
        )
    with torch.no_grad():
        logits = model(image)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        relevance = torch.zeros_like(logits)
        relevance[0, target] = 1
        at = torch.zeros_like(seen["norm<"])
        at[:, 0] = linear(model.head, seen["head<"], relevance)
        matrices = []
        for index in reversed(range(len(model.blocks))):
            block, name = model.blocks[index], f"blocks.{index}"
            attended, fed = seen[f"{name}.ls1>"], seen[f"{name}.ls2>"]
            middle = seen[f"{name}<"] + attended
            straight, through = add(middle, fed, at)
            through = linear(block.mlp.fc2, seen[f"{name}.mlp.fc2<"], through)
            middle_at = straight + linear(block.mlp.fc1, seen[f"{name}.mlp.fc1<"], through)
            straight, through = add(seen[f"{name}<"], attended, middle_at)
            through = linear(block.attn.proj, seen[f"{name}.attn.proj<"], through)
            heads = block.attn.num_heads
            through = through.unflatten(-1, (heads, -1)).transpose(1, 2)
            x = seen[f"{name}.attn.qkv<"]
            q, k, v = seen[f"{name}.attn.qkv>"].reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
            q, k = block.attn.q_norm(q), block.attn.k_norm(k)
            matrix = (q @ k.transpose(-1, -2) * block.attn.scale).softmax(-1)
            share = over(through, matrix @ v)
            at_matrix = matrix * (share @ v.transpose(-1, -2)) / 2
            at_values = v * (matrix.transpose(-1, -2) @ share) / 2
            matrices.append((gradients[index], at_matrix))
            share = over(at_matrix, q @ k.transpose(-1, -2))
            at_query, at_key = q * (share @ k) / 2, k * (share.transpose(-1, -2) @ q) / 2
            joint = torch.stack([at_query, at_key, at_values]).permute(1, 3, 0, 2, 4).flatten(2)
            at = straight + linear(block.attn.qkv, x, joint)
        product = torch.eye(at.shape[1], dtype=at.dtype)
        for gradient, at_matrix in reversed(matrices):
            product = product + (gradient * at_matrix)[0].relu().mean(0) @ product
        return product[0], matrices[0][1][0].relu().mean(0)[0]
