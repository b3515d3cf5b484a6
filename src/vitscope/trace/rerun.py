"""The last block run again on altered tokens: only what changes, for one row a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vitscope.models import Anatomy, Block, Grid
from vitscope.once import once
from vitscope.trace.affine import Affine, keys_and_values
from vitscope.trace.aim import Aim, seeds_at
from vitscope.trace.backward import PLAIN, AnotherBackward, Rules
from vitscope.trace.block import BlockCapture
from vitscope.trace.budget import cut_down
from vitscope.trace.classpath import token_sensitivity
from vitscope.trace.guard import left_as_found
from vitscope.trace.heads import head_products, merge_heads, split_heads
from vitscope.trace.jacobian import RowMap, pull_back


@dataclass(frozen=True)
class Sway:
    """How the tokens sway the rows that the head reads; axis s: samples of altered tokens, or left out.

    Attributes:
        attention: a, (s b h r n).
        score_change: ds, the change of each score along the token, (s b h r n).
        at_values: <g, v_n>, the gradient's product with each value, (s b h m r n).
        at_changes: <g, dv_n>, its product with each value's change along the token, (s b h m r n).
        at_output: <g, T>, (s b h m r 1).
    """

    attention: Tensor
    score_change: Tensor
    at_values: Tensor
    at_changes: Tensor
    at_output: Tensor

    @property
    def effect(self) -> Tensor:
        """What each token does to the target along itself: sum_rh a[n] (<g, dv_n> + ds_n <g, v_n - T>), (s b m n)."""
        change = self.at_changes + self.score_change.unsqueeze(-3) * (self.at_values - self.at_output)
        return (self.attention.unsqueeze(-3) * change).sum(dim=(-4, -2))


@dataclass(frozen=True)
class LastBlock:
    """The last block with its input, and the way from there to the targets.

    The effects that it gives, (s b m n), are <t_n, dY/dt_n> of every token n of t_B in every sample s. Where the head
    reads the class row they follow from the closed form (`Sway`); where it pools all rows, queries change with the
    tokens too, and they come from a backward pass through this block.

    Attributes:
        anatomy: the model's description.
        record: the block's record, with its input.
        aims: the targets.
        seeds: their gradients at the features in the pass that was recorded, (m b F).
        grid: patch grid (rows, cols).
    """

    anatomy: Anatomy
    record: BlockCapture
    aims: tuple[Aim, ...]
    seeds: Tensor
    grid: Grid

    @property
    def input(self) -> Tensor:
        """x_B, (b n D), prefix tokens first."""
        assert self.record.input is not None
        return self.record.input

    @once
    def tokens(self) -> Tensor:
        """t_B = LN1(x_B), (b n D)."""
        with left_as_found(self.anatomy.model), torch.no_grad():
            normed: Tensor = self._block.norm(self.input)
        return normed

    def at_input(self, inputs: Tensor) -> Tensor:
        """With x_B replaced by `inputs` (s b n D)."""
        with left_as_found(self.anatomy.model):
            with torch.no_grad():
                tokens = self._block.norm(inputs.flatten(0, 1))
            return self._run(tokens.view_as(inputs), self._block.stream(inputs[:, :, : self._rows]))

    def at_norm(self, tokens: Tensor) -> Tensor:
        """With t_B replaced by `tokens` (s b n D), the residual stream as it was."""
        residual = self._block.stream(self.input[:, : self._rows])
        with left_as_found(self.anatomy.model):
            return self._run(tokens, residual.expand(len(tokens), *residual.shape))

    def scaled_input(self, factors: Tensor) -> Tensor:
        """With x_B times each of `factors` (s).

        The LayerNorm of a scaled token is affine in the token's own, LN(f x) = beta + c (LN(x) - beta) with
        c = f sqrt(var + eps) / sqrt(f^2 var + eps), so that keys and values of all samples follow from one set. With
        another norm, or normed keys, every sample is run.
        """
        norm = self._block.norm
        inputs = factors.view(-1, 1, 1, 1) * self.input
        if not (isinstance(norm, nn.LayerNorm) and self._block.affine_keys and self._rows is not None):
            return self.at_input(inputs)
        variance = self.input.var(dim=-1, unbiased=False)  # b n
        scale = factors.view(-1, 1, 1)
        share = scale * ((variance + norm.eps) / (scale**2 * variance + norm.eps)).sqrt()  # s b n
        origin = torch.zeros_like(self.input[:1, :1]) if norm.bias is None else norm.bias.detach().expand(1, 1, -1)
        with left_as_found(self.anatomy.model):
            return self._along(origin, share, self._block.stream(inputs[:, :, : self._rows])).effect

    def scaled_norm(self, factors: Tensor) -> Tensor:
        """With t_B times each of `factors` (s), the residual stream as it was."""
        residual = self._block.stream(self.input[:, : self._rows]).expand(len(factors), -1, -1, -1)
        if not self._block.affine_keys or self._rows is None:
            return self.at_norm(factors.view(-1, 1, 1, 1) * self.tokens)
        share = factors.view(-1, 1, 1).expand(-1, *self.input.shape[:2])
        with left_as_found(self.anatomy.model):
            return self._along(torch.zeros_like(self.input[:1, :1]), share, residual).effect

    def gradient_at_norm(self, rules: Rules = PLAIN) -> Tensor:
        """Every target's gradient at t_B, (b m n D): through keys, values and queries, never the residual stream.

        Args:
            rules: of the backward pass, which propagates a gradient.

        Raises:
            MethodError: there is no rule for one of the last block's layers.
        """

        def onward(at: Tensor) -> Tensor:
            if rules is PLAIN:
                return forth(at)
            with AnotherBackward(rules, self.anatomy.model):
                return forth(at)

        with left_as_found(self.anatomy.model):
            forth = self._onward(self._block.stream(self.input[:, : self._rows]))
            gradients = pull_back(onward, self.tokens, self._seeds_at(onward, self.tokens, 1))
        return gradients.transpose(0, 1)

    @property
    def _block(self) -> Block:
        return self.anatomy.blocks[-1]

    @property
    def _rows(self) -> int | None:
        return self.anatomy.rows_read

    def _run(self, tokens: Tensor, residual: Tensor) -> Tensor:
        """t_B = `tokens` (s b n D), rows of the residual stream (s b r D)."""
        return self._pooled(tokens, residual) if self._rows is None else self._class_row(tokens, residual).effect

    def _pooled(self, tokens: Tensor, residual: Tensor) -> Tensor:
        """As `_run`, through every row, by a backward pass."""
        onward, flat = self._onward(residual.flatten(0, 1)), tokens.flatten(0, 1)
        gradient = pull_back(onward, flat, self._seeds_at(onward, flat, len(tokens)))  # m sb n D
        by_sample: Tensor = (gradient * flat).sum(dim=-1).unflatten(1, tokens.shape[:2]).permute(1, 2, 0, 3)
        return by_sample

    def _onward(self, stream: Tensor) -> RowMap:
        """The way from t_B (b n D) to the features (b F), with these rows of the residual stream (b r D)."""
        mask = self.record.mask if self.record.attended is None else self.record.attended[2]

        def onward(at: Tensor) -> Tensor:
            keys, values = self._block.keys_values(at, self.grid)
            query = self._block.queries(at[:, : self._rows], self.grid)
            output = F.scaled_dot_product_attention(query, keys, values, mask, scale=1.0)
            after = stream + self._block.projection(merge_heads(output))
            return self.anatomy.features(after + self._block.feedforward(after))

        return onward

    def _class_row(self, tokens: Tensor, residual: Tensor) -> Sway:
        heads, width = self._block.heads, tokens.shape[-1]
        if self._block.affine_keys and len(self.aims) * heads < width:  # a product D wide for each, or all keys
            return self._class_row_of_affine(tokens, residual)
        samples, batch = tokens.shape[:2]
        flat = tokens.flatten(0, 1)
        with torch.no_grad():
            keys, values = self._block.keys_values(flat, self.grid)
            query = self._block.queries(flat[:, : self._rows], self.grid)
            products = head_products(query, keys)
            attention = self._attend(products.unflatten(0, (samples, batch)))
            output = attention.flatten(0, 1) @ values  # sb h r d
        gradient = self._gradient(output.unflatten(0, (samples, batch)), residual)  # s b h m r d
        again = BlockCapture(query=query, values=values, products=products, residual=residual, tokens=flat)
        value_change, score_change = token_sensitivity(self._block, again, self.grid)
        vectors, sizes = gradient.flatten(0, 1).flatten(2, 3), gradient.shape[3:5]
        at_values, at_changes = (
            head_products(vectors, each).unflatten(2, sizes).unflatten(0, (samples, batch))
            for each in (values, value_change)
        )
        at_output = (gradient * output.unflatten(0, (samples, batch)).unsqueeze(3)).sum(dim=-1, keepdim=True)
        return Sway(attention, score_change.unflatten(0, (samples, batch)), at_values, at_changes, at_output)

    def _class_row_of_affine(self, tokens: Tensor, residual: Tensor) -> Sway:
        """The same where keys and values are affine in the token: neither is made."""
        sizes = tokens.shape[:2]
        flat, (to_key, to_value) = tokens.flatten(0, 1), self._affine
        with torch.no_grad():
            query = self._block.queries(flat[:, : self._rows], self.grid)
            score_change = to_key.changes(query, flat).unflatten(0, sizes)
            attention = self._attend(score_change + to_key.at_bias(query).unflatten(0, sizes))
            output = to_value.mean(attention.flatten(0, 1), flat).unflatten(0, sizes)
        gradient = self._gradient(output, residual)  # s b h m r d
        vectors, targets = gradient.flatten(0, 1).flatten(2, 3), gradient.shape[3:5]
        at_changes = to_value.changes(vectors, flat)
        at_changes, at_values = (
            each.unflatten(2, targets).unflatten(0, sizes)
            for each in (at_changes, at_changes + to_value.at_bias(vectors))
        )
        at_output = (gradient * output.unsqueeze(3)).sum(dim=-1, keepdim=True)
        return Sway(attention, score_change, at_values, at_changes, at_output)

    @once
    def _affine(self) -> tuple[Affine, Affine]:
        return keys_and_values(self._block, self.grid, self.input)

    def _along(self, origin: Tensor, share: Tensor, residual: Tensor) -> Sway:
        """t_B = origin + share (t_B - origin): `origin` (1 1 D), `share` (s b n), residual rows (s b r D).

        Keys and values being affine, k = k_o + share (k - k_o), and so with every product that they enter.
        """
        samples, batch = share.shape[:2]
        rows, share = residual.shape[2], share[:, :, None, None]  # s b 1 1 n
        with torch.no_grad():
            tokens = self.tokens
            keys, values = self._block.keys_values(tokens, self.grid)
            key_origin, value_origin = self._block.keys_values(origin, self.grid)
            key_bias, value_bias = self._block.keys_values(torch.zeros_like(origin), self.grid)
            kept = share[:, :, 0, 0, :rows, None]
            moved = origin + kept * (tokens[:, :rows] - origin)  # s b r D
            query = self._block.queries(moved.flatten(0, 1), self.grid).unflatten(0, (samples, batch))  # s b h r d
            at_keys, at_origin = (_all(query, each) for each in (keys, key_origin))
            products = at_origin + share * (at_keys - at_origin)
            attention = self._attend(products)
            moved_share = (attention * share).permute(1, 2, 0, 3, 4).flatten(2, 3) @ values  # b h sr d
            stays = (attention * (1 - share)).sum(dim=-1, keepdim=True) * value_origin
            output = moved_share.unflatten(2, (samples, rows)).permute(2, 0, 1, 3, 4) + stays  # s b h r d
        gradient = self._gradient(output, residual)  # s b h m r d
        sizes = gradient.shape[3:5]
        flat = gradient.flatten(3, 4)
        on_values, on_origin, on_bias = (_all(flat, each) for each in (values, value_origin, value_bias))
        at_values = (on_origin + share * (on_values - on_origin)).unflatten(3, sizes)
        at_changes = at_values - on_bias.unflatten(3, sizes)
        at_output = (gradient * output.unsqueeze(3)).sum(dim=-1, keepdim=True)
        return Sway(attention, products - _all(query, key_bias), at_values, at_changes, at_output)

    def _attend(self, products: Tensor) -> Tensor:
        """Attention of (s b h r n)."""
        return (products if self.record.mask is None else products + self.record.mask).softmax(dim=-1)

    def _gradient(self, output: Tensor, residual: Tensor) -> Tensor:
        """Every target's gradient at T = `output` (s b h r d), (s b h m r d)."""
        samples, batch = output.shape[:2]
        incoming = residual.flatten(0, 1)

        def onward(rows: Tensor) -> Tensor:
            after = incoming + self._block.projection(rows)
            return self.anatomy.features(after + self._block.feedforward(after))

        at = merge_heads(output.flatten(0, 1))
        pulled = pull_back(onward, at, self._seeds_at(onward, at, samples))  # m sb r D
        by_head = split_heads(pulled, self._block.heads)  # m sb h r d
        by_sample: Tensor = by_head.permute(1, 2, 0, 3, 4).unflatten(0, (samples, batch))
        return by_sample

    def _seeds_at(self, onward: RowMap, at: Tensor, samples: int) -> Tensor:
        """Every target's gradient at the features of all samples, (m sb F)."""
        if all(aim.linear for aim in self.aims):
            return self.seeds.repeat(1, samples, 1)
        with torch.no_grad():
            features = onward(at).unflatten(0, (samples, -1))
        each = [seeds_at(self.anatomy, self.aims, self.seeds, sample) for sample in features]
        return torch.cat(each, dim=1)


def samples_at_once(tokens: Tensor, limit: int = 64 * 2**20) -> int:
    """How many samples of (b n D) may be run side by side within about `limit` bytes a tensor; at least one."""
    return max(1, cut_down(limit) // (tokens.numel() * tokens.element_size()))


def _all(vectors: Tensor, tokens: Tensor) -> Tensor:
    """<vectors, tokens> for every sample: (s b h r d) with (b h n d) or (1 h 1 d) -> (s b h r n) or (s b h r 1)."""
    samples = len(vectors)
    together = vectors.permute(1, 2, 0, 3, 4).flatten(2, 3)  # b h sr d
    products = together @ tokens.transpose(-1, -2)
    by_sample: Tensor = products.unflatten(2, (samples, -1)).permute(2, 0, 1, 3, 4)
    return by_sample


def of_last_block(
    anatomy: Anatomy, record: BlockCapture, aims: Sequence[Aim], seeds: Tensor, grid: Grid
) -> LastBlock | None:
    """What `Trace.last` holds: None where the block's input was not kept."""
    return None if record.input is None else LastBlock(anatomy, record, tuple(aims), seeds, grid)
