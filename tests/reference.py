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


class Parts:
    """The tokens of every block of a timm ViT with their graph: what enters, what the feed-forward gets, what leaves.

    `logits` and `run` are those of the same pass; an attention pool is the last block of `run` alone.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model = model
        self.inputs: list[Tensor] = []
        self.middles: list[Tensor] = []
        self.outputs: list[Tensor] = []
        hooks = []
        for block in model.blocks:
            hooks.append(block.register_forward_pre_hook(lambda _, x: self.inputs.append(x[0])))
            hooks.append(block.norm2.register_forward_pre_hook(lambda _, x: self.middles.append(x[0])))
            hooks.append(block.register_forward_hook(lambda _, __, y: self.outputs.append(y)))
        self.logits, self.run = forward(model, images)
        for hook in hooks:
            hook.remove()

    def gradients(self, score: Tensor) -> list[Tensor]:
        """At every attention matrix, whole, (b h n n)."""
        return list(torch.autograd.grad(score, self.run.attention, retain_graph=True))

    @property
    def prefix(self) -> int:
        return self.model.num_prefix_tokens

    @property
    def pool(self) -> bool:
        return self.model.attn_pool is not None

    @property
    def reads_class_token(self) -> bool:
        return not self.pool and self.model.global_pool == "token"

    def of_product(self, matrices: list[Tensor], normed: bool = False, behind: list[Tensor] | None = None) -> Tensor:
        """The row (b n) that leads to the output of the product of these + I, less that of the identities alone."""
        eye = torch.eye(matrices[0].shape[-1], dtype=matrices[0].dtype)
        whole, stayed = eye, eye
        for index, matrix in enumerate(matrices):
            has_residual = matrix.shape[-2] == len(eye)
            total = matrix + eye if has_residual else matrix
            alone = eye if has_residual else torch.zeros_like(matrix)
            if normed:
                total, alone = (each / total.sum(-1, keepdim=True) for each in (total, alone))
            if behind is not None:
                total, alone = (behind[index][..., None] * each for each in (total, alone))
            whole, stayed = total @ whole, alone @ stayed
        moved = whole - stayed
        return moved[:, 0] if self.pool or self.reads_class_token else moved[:, self.prefix :].mean(1)


def legrad(model: nn.Module, images: Tensor, score) -> Tensor:
    """(b blocks n): the gradient at every whole attention matrix of score(logits of this block's own output)."""
    parts, maps = Parts(model, images), []
    last = parts.run.attention[-1]
    for attention, output in zip(parts.run.attention, parts.outputs, strict=False):
        own = score(model.forward_head(model.norm(output))).sum()
        (gradient,) = torch.autograd.grad(own, attention, retain_graph=True)
        positive = gradient.relu().mean(1)
        maps.append(positive[:, 0] if parts.reads_class_token else positive.mean(1))
    if parts.pool:
        (gradient,) = torch.autograd.grad(score(parts.logits).sum(), last)
        maps.append(gradient.relu().mean((1, 2)))
    return torch.stack(maps, 1) / len(maps)


def grad_sam(model: nn.Module, images: Tensor, score) -> Tensor:
    """(b blocks n)."""
    parts = Parts(model, images)
    pairs = zip(parts.run.attention, parts.gradients(score(parts.logits).sum()), strict=True)
    return torch.stack([(a * g.relu()).mean((1, 2)) for a, g in pairs], 1) / len(parts.run.attention)


def gmar(model: nn.Module, images: Tensor, score, norm: int) -> Tensor:
    """(b n)."""
    parts, mixed = Parts(model, images), []
    for attention, gradient in zip(parts.run.attention, parts.gradients(score(parts.logits).sum()), strict=True):
        size = torch.linalg.vector_norm(gradient, norm, dim=(2, 3))
        mixed.append((attention * (size / size.sum(1, keepdim=True))[..., None, None]).sum(1))
    return parts.of_product(mixed, normed=True)


def grad_eclip(model: nn.Module, images: Tensor, score) -> Tensor:
    """(b n), from queries and keys computed again of the last attention's input."""
    parts = Parts(model, images)
    run = parts.run
    (gradient,) = torch.autograd.grad(score(parts.logits).sum(), run.outputs[-1])
    site, tokens = (model.attn_pool if parts.pool else model.blocks[-1].attn), run.tokens[-1]
    b, n, width = tokens.shape
    if parts.pool:
        query = site.q(site.latent).expand(b, -1, -1)
        key = site.kv(tokens)[..., :width]
    else:
        heads = site.qkv(tokens).reshape(b, n, 3, site.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = (each.transpose(1, 2).flatten(2) for each in (site.q_norm(heads[0]), site.k_norm(heads[1])))
    cosine = torch.cosine_similarity(query[:, :, None], key[:, None], dim=-1)  # b r n
    patches = cosine[..., parts.prefix :]
    low, high = patches.amin(-1, keepdim=True), patches.amax(-1, keepdim=True)
    weight = (cosine - low) / (high - low)
    rows = slice(0, 1) if parts.reads_class_token else slice(None)
    effect = torch.einsum("bhrd,bhnd->brn", gradient, run.values[-1])
    return (effect * weight)[:, rows].sum(1).relu()


def value_of_tokens(parts: Parts) -> list[tuple[Tensor, Tensor]]:
    """x_b and W_o v_b, LayerScale in it, without what the projection makes of nothing; of a pool too."""
    found = []
    for index, value in enumerate(parts.run.values):
        if index < len(parts.model.blocks):
            block, token = parts.model.blocks[index], parts.inputs[index]

            def project(v: Tensor, block: nn.Module = block) -> Tensor:
                return block.ls1(block.attn.proj(block.attn.norm(v)))
        else:
            project, token = parts.model.attn_pool.proj, parts.outputs[-1]
        merged = value.transpose(1, 2).flatten(2)
        found.append((token, project(merged) - project(torch.zeros_like(merged))))
    return found


def beyond_intuition(model: nn.Module, images: Tensor, score, steps: int, tokens: bool, first: int = 0) -> Tensor:
    """(b n): BTT where `tokens`, else BTH; whole products, and one backward pass a scaled picture."""
    parts, matrices = Parts(model, images), []
    gradients = parts.gradients(score(parts.logits).sum())
    changes = value_of_tokens(parts)
    for attention, gradient, (before, after) in zip(parts.run.attention, gradients, changes, strict=True):
        if tokens:
            matrices.append(attention.mean(1) * (after.norm(dim=-1) / before.norm(dim=-1))[:, None])
        else:
            size = (attention.transpose(-1, -2) @ gradient).abs().mean((2, 3))
            matrices.append((attention * (size / size.sum(1, keepdim=True))[..., None, None]).sum(1))
    perceived = torch.eye(matrices[0].shape[-1], dtype=images.dtype)
    for matrix in matrices[first:]:
        square = matrix.shape[-2] == matrix.shape[-1]
        perceived = matrix @ perceived + (perceived if square else 0)
    total = 0
    for k in range(1, steps + 1):
        logits, run = forward(model, images * k / steps)
        total = total + torch.autograd.grad(score(logits).sum(), run.attention[-1])[0]
    heard = perceived * (total / steps).relu().mean(1)
    return heard[:, 0] if parts.pool or parts.reads_class_token else heard[:, parts.prefix :].mean(1)


def tokentm(model: nn.Module, images: Tensor, score, mean: bool = False) -> Tensor:
    """(b n)."""

    def weight(before: Tensor, after: Tensor) -> Tensor:
        alike = torch.cosine_similarity(before, after, dim=-1).exp()
        whole = (alike.mean if mean else alike.sum)(-1, keepdim=True)
        return after.norm(dim=-1) / before.norm(dim=-1) * alike / whole

    parts, matrices, behind = Parts(model, images), [], []
    gradients = parts.gradients(score(parts.logits).sum())
    fed = [
        (middle, block.ls2(block.mlp(block.norm2(middle))))
        for block, middle in zip(model.blocks, parts.middles, strict=True)
    ]
    if parts.pool:
        row = model.attn_pool.proj(parts.run.outputs[-1].transpose(1, 2).flatten(2))
        fed.append((row, model.attn_pool.mlp(model.attn_pool.norm(row))))
    for index, change in enumerate(value_of_tokens(parts)):
        positive = (parts.run.attention[index] * gradients[index]).relu().mean(1)
        matrices.append(positive * weight(*change)[:, None])
        behind.append(1 + weight(*fed[index]))
    return parts.of_product(matrices, behind=behind) * parts.inputs[0].norm(dim=-1)
