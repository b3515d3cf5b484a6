"""Holds an adapter's claims against the model's own numbers, once, before any map is made."""

from __future__ import annotations

import torch
from torch import Tensor

from vitscope.errors import ModelError
from vitscope.models import Anatomy
from vitscope.trace import capture as watching
from vitscope.trace.guard import fitted, left_as_found
from vitscope.trace.heads import head_products, merge_heads
from vitscope.trace.needs import Blocks, Needs

_EVERYTHING = Needs(attention=Blocks.ALL, values=Blocks.ALL, sensitivity=Blocks.ALL, skip_gradient=Blocks.ALL)


def verify(anatomy: Anatomy, images: Tensor) -> float:
    """Run `images` (b 3 H W) through the model and compare it with its description.

    Checked in every block: `norm` is given x_b, which is e_b less the projection and the block before it plus its
    feed-forward; `queries` and `keys_values` give what the attention used, and the latter is affine where it says so;
    the recorded scores and values give T_b. And in the end: features and classifier give the model's output. Models
    without a class row have nothing to compare beyond their token count.

    Returns:
        The largest relative error found.

    Raises:
        ModelError: a claim does not hold; the text names it.
    """
    with left_as_found(anatomy.model), torch.no_grad():
        grid = anatomy.grid((images.shape[-2], images.shape[-1]))
        batch = fitted(images, anatomy.model)
        seen = watching.forward(anatomy, batch, _EVERYTHING, thorough=True)
        watching.check_tokens(anatomy, seen, grid)
        if anatomy.no_class_row:
            return 0.0
        worst = 0.0
        for name, claimed, found in _claims(anatomy, seen):
            error = float((claimed - found).float().norm() / found.float().norm().clamp_min(1e-12))
            if not error <= _tolerance(batch.dtype):
                raise ModelError(
                    f"the description of {anatomy.name} does not fit it: {name} differs by {error:.1e} (relative); "
                    "the model changes its tokens in a way that its adapter does not know"
                )
            worst = max(worst, error)
    return worst


def _claims(anatomy: Anatomy, seen: watching.ForwardCapture) -> list[tuple[str, Tensor, Tensor]]:
    claims = []
    flow: Tensor | None = None
    for block, row in zip(anatomy.blocks, seen.blocks, strict=True):
        assert row.scores is not None
        assert row.products is not None
        assert row.query is not None
        assert row.values is not None
        assert row.rows is not None
        assert row.residual is not None
        assert row.incoming is not None
        assert row.tokens is not None
        keys, values = block.keys_values(row.tokens)
        queries = block.queries(row.tokens[:, : anatomy.rows_read])
        claims += [
            (f"{block.name}: queries", queries, row.query),
            (f"{block.name}: values", values, row.values),
            (f"{block.name}: keys", head_products(row.query, keys), row.products),
            (f"{block.name}: attention of the class row", row.scores.softmax(-1) @ row.values, row.rows),
            (f"{block.name}: residual sum", row.incoming + block.projection(merge_heads(row.rows)), row.residual),
        ]
        if block.affine_keys:
            mirrored, origin = block.keys_values(-row.tokens)[0], block.keys_values(torch.zeros_like(row.tokens))[0]
            claims.append((f"{block.name}: affine keys", 2 * origin - mirrored, keys))
        if flow is not None:
            claims.append((f"{block.name}: residual stream", flow, row.incoming))
        flow = row.residual + block.feedforward(row.residual)
    assert flow is not None
    claims.append(("the last block's output", flow, seen.final))
    claims.append(("the head", anatomy.output(anatomy.features(seen.final)), seen.logits))
    return claims


def _tolerance(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-8, torch.float32: 1e-3}.get(dtype, 5e-2)
