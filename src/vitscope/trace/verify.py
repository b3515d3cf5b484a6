"""Holds an adapter's claims against the model's own numbers, once, before any map is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import ModelError, text_of
from vitscope.models import Anatomy, Block, Grid
from vitscope.trace import capture
from vitscope.trace.block import BlockCapture
from vitscope.trace.chunks import out_of_memory
from vitscope.trace.guard import fitted, left_as_found
from vitscope.trace.heads import head_products, merge_heads
from vitscope.trace.needs import Blocks, Needs
from vitscope.trace.windows import watch_windows

_EVERYTHING = Needs(attention=Blocks.ALL, values=Blocks.ALL, sensitivity=Blocks.ALL, skip_gradient=Blocks.ALL)


@dataclass(frozen=True)
class Verified:
    """What a description was found to be.

    Attributes:
        error: the largest relative error of its claims.
        outputs: how many the model gives an image, 0 where there is no head.
        differentiable: whether it runs all its blocks with a graph where one is asked for.
    """

    error: float
    outputs: int
    differentiable: bool = True


def verify(anatomy: Anatomy, images: Tensor) -> Verified:
    """Run `images` (b 3 H W) through the model and compare it with its description.

    Checked in every block: `norm` is given x_b, which is e_b less the projection and the block before it plus its
    feed-forward; `queries` and `keys_values` give what the attention used, and the latter is affine where it says so;
    the recorded scores and values give T_b. And in the end: features and classifier give the model's output, the
    numbers of which are counted, since a head that was replaced by hand may not tell them.

    Raises:
        ModelError: a claim does not hold, or a part cannot be run as described; the text names it.
    """
    uncounted = anatomy if anatomy.classifier else dataclasses.replace(anatomy, outputs=0)
    run = f"the model's pass over a picture of {images.shape[-2]} x {images.shape[-1]} pixels"
    if anatomy.windows:
        with left_as_found(anatomy.model), _runs(anatomy, run):
            logits, _ = watch_windows(uncounted, fitted(images, anatomy.model))  # which raises where a map does not fit
        return Verified(0.0, logits.shape[1] if anatomy.outputs else 0)
    with left_as_found(anatomy.model), torch.no_grad():
        grid = anatomy.grid((images.shape[-2], images.shape[-1]))
        batch = fitted(images, anatomy.model)
        with _runs(anatomy, run):
            seen = capture.forward(uncounted, batch, _EVERYTHING, thorough=True)
        capture.check_tokens(anatomy, seen, grid)
        worst = 0.0
        for name, claimed, found in _claims(anatomy, seen, grid):
            with _runs(anatomy, name):
                error = float((claimed - found).float().norm() / found.float().norm().clamp_min(1e-12))
            if not error <= _tolerance(batch.dtype):
                raise ModelError(
                    f"the description of {anatomy.name} does not fit it: {name} differs by {error:.1e} (relative); "
                    "hooks or adapter layers may change its tokens: remove the hooks, merge the adapters (with peft: "
                    "model.merge_and_unload()), or describe the model with vitscope.adapt (docs/adapters.md)"
                )
            worst = max(worst, error)
    return Verified(worst, seen.logits.shape[1] if anatomy.outputs else 0, differentiable=not seen.ungraphed)


@contextmanager
def _runs(anatomy: Anatomy, part: str) -> Iterator[None]:
    """Name the part of a description that cannot be run as it says: of wrong shapes, or without what it must have."""
    try:
        yield
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError, AssertionError) as error:
        if out_of_memory(error):
            raise
        raise ModelError(
            f"the description of {anatomy.name} does not fit it: {part} fails ({text_of(error)}); look at what it says "
            "of this part, of widths and heads, and of the size of the pictures"
        ) from error


Claim = tuple[str, Tensor, Tensor]


def _claims(anatomy: Anatomy, seen: capture.ForwardCapture, grid: Grid) -> Iterator[Claim]:
    """Name, claimed, found; one at a time, so that memory holds no more than these."""
    flow: Tensor | None = None
    for block, row in zip(anatomy.blocks, seen.blocks, strict=True):
        assert row.rows is not None
        assert row.residual is not None
        assert row.incoming is not None
        assert row.tokens is not None
        with _runs(anatomy, f"{block.name}: the reading of queries, keys and values"):
            claims = _of_attention(block, row, grid)
        yield from claims
        del claims
        with _runs(anatomy, f"{block.name}: its projection"):
            summed = block.stream(row.incoming) + block.projection(merge_heads(row.rows))
        yield f"{block.name}: residual sum", summed, row.residual
        if block.affine_keys:
            keys, mirrored, origin = (
                block.keys_values(tokens, grid)[0] for tokens in (row.tokens, -row.tokens, torch.zeros_like(row.tokens))
            )
            yield f"{block.name}: affine keys", 2 * origin - mirrored, keys
            yield f"{block.name}: keys alike for every token", origin[:, :, :1].expand_as(origin), origin
        if flow is not None and flow.shape == row.incoming.shape:
            yield f"{block.name}: residual stream", flow, row.incoming
        with _runs(anatomy, f"{block.name}: its feed-forward"):
            flow = row.residual + block.feedforward(row.residual)
    assert flow is not None
    yield "the last block's output", flow, seen.final
    with _runs(anatomy, "the head"):
        features = anatomy.features(seen.final)
        output = anatomy.output(features)
    if anatomy.classifier is not None:
        with _runs(anatomy, "the classifier"):
            slope = features @ anatomy.classifier.weight.T
            change = output - anatomy.output(0 * features)
        yield "the slope of the classifier", slope, change
    if output.shape != seen.logits.shape:
        raise ModelError(
            f"the description of {anatomy.name} does not fit it: its head gives {output.shape[1]} outputs an image, "
            f"the model {seen.logits.shape[1]}"
        )
    yield "the head", output, seen.logits


def _of_attention(block: Block, row: BlockCapture, grid: Grid) -> list[Claim]:
    assert row.tokens is not None
    assert row.values is not None
    assert row.rows is not None
    keys, values = block.keys_values(row.tokens, grid)
    queries = block.queries(row.tokens[:, : block.rows], grid)
    claims = [(f"{block.name}: values", values, row.values)]
    if block.rows is None:
        assert row.attended is not None
        query, found, mask = row.attended
        again = F.scaled_dot_product_attention(query, found, row.values, mask, scale=1.0)
        claims += [(f"{block.name}: keys", keys, found), (f"{block.name}: attention", again, row.rows)]
    else:
        assert row.scores is not None
        assert row.products is not None
        assert row.query is not None
        query = row.query
        again = row.scores.softmax(-1) @ row.values
        claims += [
            (f"{block.name}: keys", head_products(query, keys), row.products),
            (f"{block.name}: attention of the class row", again, row.rows),
        ]
    return [(f"{block.name}: queries", queries, query), *claims]


def _tolerance(dtype: torch.dtype) -> float:
    """For float64 that of a softmax in float32, which transformers' written out attention takes in any dtype."""
    return {torch.float64: 1e-6, torch.float32: 1e-3}.get(dtype, 5e-2)
