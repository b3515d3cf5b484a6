"""The class row's own way through the model: J^T and J products of one token, never of the whole picture.

After block b's attention the rows that the head reads travel by themselves: T_b -> projection, LayerScale, residual
-> e_b -> LN2, MLP, LayerScale, residual -> x_{b+1}, and after the last block through the final norm and the head. Along
this skip path (gradient that never passes a later attention) the chain rule needs Jacobians of these r rows only (the
class token; in a distilled DeiT the distillation token too), so it costs a few per cent of a forward pass. The Jacobian
products are taken through the model's own modules on those rows: any norm, any MLP (GELU, SwiGLU), any LayerScale,
nothing re-implemented.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import jvp

from vitscope.errors import MethodError
from vitscope.models import Anatomy, Block, Grid
from vitscope.trace.aim import Aim, seeds_at
from vitscope.trace.block import BlockCapture
from vitscope.trace.capture import NO_GRADIENT, ForwardCapture
from vitscope.trace.heads import head_products, merge_heads, split_heads
from vitscope.trace.hooks import hooks
from vitscope.trace.jacobian import RowMap, batchable, gradients_of, pull_back

_TOGETHER = 8
"""Pictures times targets of a backward pass through all blocks: with more, batched gradients leave a CPU's caches."""


def skip_gradients(
    anatomy: Anatomy, capture: ForwardCapture, seeds: Tensor, last_only: bool = False, beside: bool = True
) -> tuple[dict[int, Tensor], Tensor]:
    """Gradient of every target at every T_b along the skip path (AG-CAM's; exact for the last block).

    g = J_features(x_{B+1})^T seed; for b = B..1: g += J_{ff}(e_b)^T g; gT_b = J_{proj}(T_b)^T g. Where the head pools
    all rows, it goes through each row's own residual stream and feed-forward. It ends at an attention pool, which is
    itself a later attention to the blocks before it: their gradients are zero.

    Args:
        anatomy: the model's description.
        capture: the recorded pass.
        seeds: gradient of every target at the features, (m b F).
        last_only: stop after the last block.
        beside: let the gradient pass the earlier feed-forward parts on the residual stream beside them as well; False
            leaves g = J_{ff}(e_b)^T g for all blocks but the last, whose sum the head reads.

    Returns:
        block index -> (m b h r d) (row 0 is the class token's); and the gradient at the last
        block's e_B, (m b r D).
    """
    last = len(anatomy.blocks) - 1
    alone = last_only or not anatomy.blocks[last].residual
    reach = [last] if alone else list(range(last + 1))
    stretches = [reach] if anatomy.rows_read is not None else [[index] for index in reversed(reach)]
    gradients: dict[int, Tensor] = {}
    flow, onward = seeds, _to_features(anatomy, capture)
    for stretch in stretches:
        found, at_sums = _back_along(anatomy, capture, stretch, onward, flow, beside)
        gradients |= dict(zip(stretch, found, strict=True))
        if stretch[-1] == last:
            at_last = at_sums[-1]
        flow, onward = at_sums[0], _as_it_is
    if alone and not last_only:
        for before, recorded in enumerate(capture.blocks[:last]):
            assert recorded.rows is not None
            gradients[before] = torch.zeros_like(recorded.rows).expand(len(seeds), *recorded.rows.shape)
    return gradients, at_last


def _back_along(
    anatomy: Anatomy,
    capture: ForwardCapture,
    stretch: Sequence[int],
    onward: RowMap,
    cotangents: Tensor,
    beside: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients along some blocks that follow each other: one small graph, in which every e_b has its recorded value.

    Args:
        anatomy, capture: as for `skip_gradients`.
        stretch: the blocks' indices.
        onward: from the last one's output (b r D) to where the cotangents stand.
        cotangents: one a target, (m ...).
        beside: as for `skip_gradients`.

    Returns:
        At every T_b, (m b h r d), and at every e_b, (m b r D).
    """
    leaves, sums = [], []
    flow: Tensor | None = None
    with torch.enable_grad(), batchable(len(cotangents) > 1):
        for index in stretch:
            block, record = anatomy.blocks[index], capture.blocks[index]
            assert record.residual is not None
            assert record.rows is not None
            leaves.append(merge_heads(record.rows).detach().requires_grad_())
            added = block.projection(leaves[-1])
            sums.append(_valued(record.residual, added if flow is None else flow + added))
            through = block.feedforward(sums[-1])
            flow = sums[-1] + through if beside or index + 1 == len(anatomy.blocks) else through
        assert flow is not None
        found = gradients_of([onward(flow)], [*leaves, *sums], [cotangents])
    at_leaves = [
        split_heads(gradient, anatomy.blocks[index].heads) for gradient, index in zip(found, stretch, strict=False)
    ]
    return at_leaves, found[len(stretch) :]


def _to_features(anatomy: Anatomy, capture: ForwardCapture) -> RowMap:
    return lambda flow: anatomy.features(_valued(capture.final, flow))


def _as_it_is(flow: Tensor) -> Tensor:
    return flow


def _valued(value: Tensor, flow: Tensor) -> Tensor:
    """`value`, with the graph of `flow`."""
    return value + (flow - flow.detach())


def shares_of_reads(anatomy: Anatomy, capture: ForwardCapture, seeds: Tensor) -> Tensor | None:
    """How much of each target comes from each part that the head reads, (b m p), 1 in all; None where there is one.

    A part's contribution is sum_d | sum_r y[r, d] dY/dy[r, d] | over its rows r, y the rows behind the final norm: of a
    linear head gradient times features, channel by channel, so that it is 0 where the head's weights on the part are,
    and no channel cancels another. Where none contributes, the parts are alike.

    Args:
        anatomy: the model's description.
        capture: the recorded pass.
        seeds: gradient of every target at the features, (m b F).
    """
    reads = anatomy.rows_of_reads
    if anatomy.rows_read is not None or len(reads) == 1:
        return None
    normed: list[Tensor] = []
    with torch.enable_grad(), batchable(len(seeds) > 1), hooks() as hook:
        assert anatomy.final_site is not None
        hook.after(anatomy.final_site, normed.append)
        features = anatomy.features(capture.final.detach().requires_grad_())
        (gradient,) = gradients_of([features], normed, [seeds])
    each = gradient * normed[0].detach()  # m b r D
    found = torch.stack([each[..., rows, :].sum(dim=-2).abs().sum(dim=-1) for rows in reads], dim=-1).transpose(0, 1)
    whole = found.sum(dim=-1, keepdim=True)
    return torch.where(whole > 0, found / whole, torch.full_like(found, 1 / len(reads)))


def own_gradients(
    anatomy: Anatomy, capture: ForwardCapture, seeds: Tensor, aims: Sequence[Aim], grid: Grid, last_only: bool = False
) -> dict[int, Tensor]:
    """Gradient at every T_b of every target as block b's own output x_{b+1} gives it, in place of the last block's.

    T_b -> projection, residual -> e_b -> feed-forward -> x_{b+1} -> final norm and head, on the rows that the head
    reads. Where the last block is an attention pool, x_{b+1} goes through the pool.

    Args:
        anatomy: the model's description.
        capture: the recorded pass.
        seeds: gradient of every target at the features of the last block's output, (m b F).
        aims: the targets; those that are not linear are taken again at the block's own features.
        grid: patch grid (rows, cols).
        last_only: the last block's alone.

    Returns:
        block index -> (m b h r d).
    """
    gradients = {}
    last = len(anatomy.blocks) - 1
    for index in range(last if last_only else 0, last + 1):
        block, record = anatomy.blocks[index], capture.blocks[index]
        assert record.rows is not None
        read = anatomy.features if index == last else _reader(anatomy, grid)
        onward = _onward(block, record, read)
        at = merge_heads(record.rows)
        with torch.no_grad():
            features = onward(at)
        gradient = pull_back(onward, at, seeds_at(anatomy, aims, seeds, features))
        gradients[index] = split_heads(gradient, block.heads)
    return gradients


def _reader(anatomy: Anatomy, grid: Grid) -> RowMap:
    """The way from any block's output (b r D), the rows that matter, to the features (b F)."""
    pool = anatomy.blocks[-1]
    if pool.residual:
        return anatomy.features

    def through_pool(tokens: Tensor) -> Tensor:
        normed: Tensor = pool.norm(tokens)
        keys, values = pool.keys_values(normed, grid)
        output = F.scaled_dot_product_attention(pool.queries(normed[:, :1], grid), keys, values, scale=1.0)
        after = pool.projection(merge_heads(output))
        return anatomy.features(after + pool.feedforward(after))

    return through_pool


def _onward(block: Block, record: BlockCapture, read: RowMap) -> RowMap:
    """The way from the block's T (b r D) by its own output to the features (b F)."""
    assert record.residual is not None
    assert record.rows is not None
    with torch.no_grad():
        incoming = record.residual - block.projection(merge_heads(record.rows))

    def onward(rows: Tensor) -> Tensor:
        after = incoming + block.projection(rows)
        return read(after + block.feedforward(after))

    return onward


def full_gradients(
    anatomy: Anatomy, capture: ForwardCapture, last: Tensor, residual: Tensor
) -> tuple[dict[int, Tensor], Tensor | None]:
    """Gradient of every target at every T_b, and at the pictures, by full back-propagation.

    It starts where the last block's attention and residual stream meet, with the closed form's gradients there: what
    lies behind acts on the rows that the head reads alone, so no patch row is pushed back through the last projection
    and MLP. Where the graph starts at the second block's input, its class row gives all that the first block's T needs.

    Args:
        anatomy: the model's description.
        capture: the recorded pass, with its graph.
        last: gradient at the last block's T_B, (m b h r d).
        residual: gradient at its e_B, which is also that at x_B along the residual stream, (m b r D).

    Returns:
        block index -> (m b h n d), where the graph starts at the first block's input or before; otherwise
        (m b h r d). And (m b 3 H W), where it starts at the pictures.

    Raises:
        MethodError: no gradient leads through the blocks, or from them to the pictures.
    """
    *before, end = capture.blocks
    graph = before if capture.start is None else before[1:]
    if end.output is None or end.incoming is None or any(record.output is None for record in graph):
        raise MethodError(NO_GRADIENT)
    if capture.pictures is not None and not capture.reached:
        raise MethodError(NO_GRADIENT)
    from_here, seeds = [end.output], [last]
    if anatomy.blocks[-1].residual:
        from_here, seeds = [*from_here, end.incoming], [*seeds, residual]
    watched = [record.output for record in before if record.output is not None]
    at_once = max(1, _TOGETHER // last.shape[1])
    if capture.pictures is not None:
        at_pictures, *inner = gradients_of(from_here, [capture.pictures, *watched], seeds, at_once)
        return dict(enumerate([*inner, last])), at_pictures
    start = capture.start
    if start is None:
        return dict(enumerate([*gradients_of(from_here, watched, seeds, at_once), last])), None
    first = capture.blocks[0]
    assert first.residual is not None
    assert first.rows is not None
    rows = last.shape[-2]
    at_start, *inner = gradients_of(from_here, [start, *watched], seeds, at_once)
    flow = at_start[..., :rows, :]
    flow = flow + pull_back(anatomy.blocks[0].feedforward, first.residual, flow)
    at_first = pull_back(anatomy.blocks[0].projection, merge_heads(first.rows), flow)
    found = [
        split_heads(at_first, anatomy.blocks[0].heads),
        *(gradient[..., :rows, :] for gradient in inner),
        last,
    ]
    return dict(enumerate(found)), None


def token_sensitivity(block: Block, record: BlockCapture, grid: Grid) -> tuple[Tensor, Tensor]:
    """How each token's own direction t_n moves its value and its class-row score (CDAM's closed form).

    dv_n = d values / dt . t_n and ds_r[n] = <q_r, d keys / dt . t_n> / sqrt(d); without a norm on the keys these are
    the values and the products of query and keys less what the biases give.

    Returns:
        value_change (b h n d) and score_change (b h r n).
    """
    assert record.products is not None
    assert record.values is not None
    assert record.query is not None
    assert record.residual is not None
    if block.affine_keys:
        with torch.no_grad():
            key_bias, value_bias = block.keys_values(record.residual.new_zeros(1, 1, record.residual.shape[-1]), grid)
        return record.values - value_bias, record.products - head_products(record.query, key_bias)
    assert record.tokens is not None
    with torch.no_grad():
        keys, values = jvp(lambda t: block.keys_values(t, grid), (record.tokens,), (record.tokens,))[1]
    return values, head_products(record.query, keys)


def feature_map(anatomy: Anatomy, capture: ForwardCapture) -> RowMap:
    """The way from the last block's T (b r D) to the features (b F), for Jacobian products."""
    return _onward(anatomy.blocks[-1], capture.blocks[-1], anatomy.features)


def token_effects(block: Block, record: BlockCapture, grid: Grid) -> Tensor:
    """Each token's own effect on the rows that the head reads, along t_n: dT_r = a_r[n] (dv_n + ds_r[n] (v_n - T_r)).

    Returns:
        (n b r D), heads concatenated: one tangent of T a token.
    """
    assert record.scores is not None
    assert record.values is not None
    assert record.rows is not None
    value_change, score_change = token_sensitivity(block, record, grid)
    distance = record.values[:, :, None] - record.rows[:, :, :, None]  # b h r n d
    effect = value_change[:, :, None] + score_change[..., None] * distance
    weighted = record.scores.softmax(-1)[..., None] * effect
    return weighted.permute(3, 0, 2, 1, 4).flatten(3)
