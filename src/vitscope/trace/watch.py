"""How attention is seen: a function mode around the model's own call.

Attention is seen where its kernel is called (`scaled_dot_product_attention`), so the model's fused kernel keeps
running and no N x N matrix is made; torch's own multi-head attention, inside which no mode acts, is led there; an
attention written out as matmul, softmax, matmul is seen there. Only the rows that lead to the output are kept, where
they are few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from vitscope.errors import ModelError
from vitscope.models import Anatomy, Grid
from vitscope.trace.block import BlockCapture
from vitscope.trace.frozen import Frozen
from vitscope.trace.guard import depth
from vitscope.trace.heads import head_products, merge_heads, split_heads
from vitscope.trace.kernel import Attend
from vitscope.trace.needs import Blocks, Needs

SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}
_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
_DROPOUT = {F.dropout, torch.dropout}
_CAST = {Tensor.to, Tensor.float, Tensor.type_as}
_TIMES = {Tensor.__mul__, Tensor.__rmul__, Tensor.mul, torch.mul}
_OVER = {Tensor.__truediv__, Tensor.div, torch.div}
_PLUS = {Tensor.__add__, Tensor.__iadd__, Tensor.add, torch.add}


class _Unbind(torch.autograd.Function):
    """`unbind` whose backward pass gathers the gradients in the input's own memory layout.

    Queries, keys and values are slices of one product; torch's own backward stacks their gradients in another order
    and then copies the whole once more.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
        ctx.layout = packed.size(), packed.stride(), dim
        return packed.unbind(dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        size, stride, dim = ctx.layout
        packed = gradients[0].new_empty_strided(size, stride)
        for slot, gradient in zip(packed.unbind(dim), gradients, strict=True):
            slot.copy_(gradient)
        return packed, None


@dataclass
class _WrittenOut:
    """An attention that is written out, followed from the product of queries and keys to the softmax."""

    query: Tensor
    key: Tensor
    scores: Tensor
    scale: Any = 1.0
    mask: Tensor | None = None
    attention: Tensor | None = None

    def goes_on(self, func: Callable[..., Any], args: tuple[Any, ...], result: Tensor) -> bool:
        """Whether this call is a step of it; if so, it is noted."""
        if self.attention is not None:
            if args[0] is not self.attention or func not in _DROPOUT | _CAST:
                return False
            self.attention = result
            return True
        if args[0] is not self.scores:
            return False
        other = args[1] if len(args) > 1 else None
        number = isinstance(other, int | float) or (isinstance(other, Tensor) and other.numel() == 1)
        if func in SOFTMAX:
            self.attention = result
        elif func in _TIMES and number:
            self.scale = self.scale * other
        elif func in _OVER and number:
            self.scale = self.scale / other
        elif func in _PLUS and isinstance(other, Tensor):
            self.mask = other if self.mask is None else self.mask + other
        elif func not in _CAST:
            return False
        if self.attention is None:
            self.scores = result
        return True


class AttentionWatch(TorchFunctionMode):
    """Sees the attention of the block that is being run and keeps its class row.

    With `graph`, weights enter every function as frozen views, so that neither their gradients nor the activations
    for these are kept and the model's own `requires_grad` flags are never touched; the graph starts at the
    second block's input (the first's, where more than the class row counts; the pictures, where their gradient is
    needed) and ends at the last one's attention output: what lies before and behind is left to the closed form of the
    rows that the head reads. With `whole` it goes through to the model's output instead.
    """

    def __init__(
        self, anatomy: Anatomy, needs: Needs, records: list[BlockCapture], lean: bool = False, whole: bool = False
    ) -> None:
        super().__init__()
        self._depth = depth()
        self._lean = lean
        self._blocks = anatomy.blocks
        self._fused_before = False
        self._of_all: tuple[Tensor, Tensor] | None = None
        self._whole = whole
        self.current: int | None = None
        self._records = records
        self._rows = [block.rows for block in anatomy.blocks]
        self._needs = needs
        self.graph = whole or needs.input_gradient or (needs.full_gradient == Blocks.ALL and len(records) > 1)
        self._frozen = Frozen(anatomy.model) if self.graph else None
        self._running = anatomy.running
        self._written: _WrittenOut | None = None

    def enter(self, index: int, _: Tensor) -> None:
        """The attention of block `index` begins."""
        self.current = index

    def narrow(self, grid: Grid, tokens: Tensor) -> Tensor:
        """What the last block's attention is given of t_B (b n D): the rows that are read, where that can be shown.

        Patch rows of its queries and of its projection lead nowhere; keys and values of all tokens are made as the
        description makes them, which `verify` holds against the model's own. So it is done where the block before, of
        the same kind, ran torch's kernel without a mask, and where keys do not depend on a token's place.
        """
        last = self._blocks[-1]
        if not (self._fused_before and last.affine_keys):
            return tokens
        if not isinstance(last.attention, nn.MultiheadAttention):  # which is given keys and values by themselves
            self._of_all = last.keys_values(tokens, grid)
        return tokens[:, : last.rows]

    def leave(self, _: Tensor) -> None:
        """The attention of the present block is done."""
        self.current = self._of_all = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self._depth:  # a pass within this one, as a hook of the user's may make
            return func(*args, **kwargs)
        if self._frozen is not None:
            args, kwargs = self._frozen.all(args, kwargs)
        if self.current is not None and func is F.scaled_dot_product_attention:
            return self._fused(Attend.of(*args, **kwargs))
        if self.graph and self.current is not None and func is Tensor.unbind:
            return _Unbind.apply(*args, **kwargs)
        if self.current is not None and func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if self.current is not None and func is torch._native_multi_head_attention:
            return self._native_multi_head(*args, **kwargs)
        written = self._written
        if self._of_all is not None and func in _MATMUL and args[0].ndim == 4:  # written out in the last block alone
            keys, values = self._of_all
            weighs = written is not None and args[0] is written.attention
            args = (args[0], values if weighs else keys.transpose(-2, -1))
        result = func(*args, **kwargs)
        if self.current is None or not isinstance(result, Tensor) or not args:
            return result
        if written is not None and written.goes_on(func, args, result):
            return result
        if func in _MATMUL and result.ndim == 4:
            if written is not None and args[0] is written.attention:
                self._written = None
                self._keep(Attend(written.query, written.key, args[1], written.mask, written.scale), result)
                return self._go_on(result, result.shape[-2])
            self._written = _WrittenOut(args[0], args[1].transpose(-2, -1), result)
        return result

    def _fused(self, call: Attend) -> Tensor:
        """Run it and keep the rows that the head reads.

        In the last block only these rows are computed where `lean` allows it, and the graph ends with them.
        """
        tokens = call.query.shape[-2]
        if self._of_all is not None:
            keys, values = self._of_all
            call = dataclasses.replace(call, key=keys, value=values)
        elif self._lean and self._at_last():
            rows = self._rows[-1]
            call = dataclasses.replace(call, query=call.query[..., :rows, :], mask=_first_rows(call.mask, rows))
        self._fused_before = self._before_last() and call.mask is None
        output = call()
        self._keep(call, output)
        return self._go_on(output, tokens)

    def _multi_head(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _: int,
        heads: int,
        weight: Tensor | None,
        bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_weight: Tensor,
        out_bias: Tensor | None,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's multi_head_attention_forward (its own signature, tokens first), through the watched kernel.

        The weights that it returns beside the output, where they are asked for, carry no gradient, as no output may
        rest on them: the description of a model that uses them does not fit it.
        """
        odd = bias_k is not None or bias_v is not None or add_zero_attn or key_padding_mask is not None
        if odd or attn_mask is not None or others.get("is_causal") or query.ndim != 3:
            raise ModelError("nn.MultiheadAttention with masks or added keys is not supported; call it without a mask")
        batch_first = [tokens.transpose(0, 1) for tokens in (query, key, value)]
        output, weights = self._heads(batch_first, heads, weight, bias, out_weight, out_bias, need_weights)
        if weights is not None and others.get("average_attn_weights", True):
            weights = weights.mean(dim=1)
        return output.transpose(0, 1), weights

    def _native_multi_head(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _: int,
        heads: int,
        weight: Tensor,
        bias: Tensor | None,
        out_weight: Tensor,
        out_bias: Tensor | None,
        mask: Tensor | None = None,
        need_weights: bool = True,
        *__: Any,
    ) -> tuple[Tensor, None]:
        """torch's fast path of the same (its own signature, pictures first)."""
        if mask is not None or need_weights:
            raise ModelError("nn.MultiheadAttention with masks or need_weights=True is not supported")
        return self._heads([query, key, value], heads, weight, bias, out_weight, out_bias)[0], None

    def _heads(
        self,
        tokens: list[Tensor],
        heads: int,
        weight: Tensor | None,
        bias: Tensor | None,
        out_weight: Tensor,
        out_bias: Tensor | None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output (b r D) and, where they are needed, each head's attention (b h r n)."""
        if weight is None:
            raise ModelError("nn.MultiheadAttention with keys of another width is not supported")
        biases = (None, None, None) if bias is None else bias.chunk(3)
        query, key, value = (
            split_heads(F.linear(each, part, offset), heads)
            for each, part, offset in zip(tokens, weight.chunk(3), biases, strict=True)
        )
        output = F.linear(merge_heads(self._fused(Attend.of(query, key, value))), out_weight, out_bias)
        if not need_weights:
            return output, None
        products = query.detach() @ key.detach().transpose(-1, -2)
        return output, (products * query.shape[-1] ** -0.5).softmax(dim=-1)

    def _go_on(self, output: Tensor, tokens: int) -> Tensor:
        """Keep the output for the backward pass, and return what the model goes on with, (b h `tokens` d)."""
        assert self.current is not None
        last = self._at_last() and not self._whole
        if output.requires_grad:
            self._records[self.current].output = output[..., : self._rows[-1], :] if last else output
        output = output.detach() if last else output
        return output.expand(-1, -1, tokens, -1) if output.shape[-2] != tokens else output

    def _at_last(self) -> bool:
        return self.current == len(self._records) - 1

    def _before_last(self) -> bool:
        """Whether the present block is the last but one, and its attention of the last one's kind."""
        return self.current == len(self._records) - 2 and type(self._blocks[-2].attention) is type(
            self._blocks[-1].attention
        )

    def _keep(self, call: Attend, output: Tensor) -> None:
        """Keep what the methods need of one block, outside of any autocast."""
        assert self.current is not None
        record = self._records[self.current]
        if record.rows is not None:
            raise ModelError(f"block {self.current} computed attention more than once; its adapter does not fit it")
        with self._running.exact(output.device):
            self._record(record, call, output.detach())

    def _record(self, record: BlockCapture, call: Attend, output: Tensor) -> None:
        """Of the queries, times their scale, and of the mask the first r rows or all."""
        assert self.current is not None
        wide = self._running.wide
        query, key, mask = call.query.detach(), call.key.detach(), None if call.mask is None else wide(call.mask)
        level = Blocks.LAST if self._at_last() else Blocks.ALL
        rows, asked = self._rows[self.current], max(self._needs.attention, self._needs.sensitivity)
        of_all = max(asked, self._needs.own_gradient)
        if self._needs.every_row >= level or (rows is None and of_all >= level):
            # The last block's other rows have no part in the output.
            whole = query[..., :rows, :] if self._at_last() else query
            record.attended = wide(whole) * call.scale, wide(key), _first_rows(mask, whole.shape[-2])
        record.rows = wide(output[..., :rows, :]).clone()  # cloned, so that the whole is not kept
        if rows is not None and asked >= level:
            query, mask = wide(query[..., :rows, :]) * call.scale, _first_rows(mask, rows)
            record.query = query
            scores = record.products = head_products(query, wide(key))
            if mask is not None:
                if mask.dtype == torch.bool:
                    mask = scores.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))
                record.mask = mask
                scores = scores + mask
            record.scores = scores
        kept = max(self._needs.values, self._needs.sensitivity, self._needs.value_transform)
        if record.attended is not None or kept >= level:
            # A view would keep queries and keys alive; where there is a graph, it keeps them itself.
            by_token = wide(call.value.detach()).transpose(1, 2)
            record.values = (by_token if self.graph else by_token.clone()).transpose(1, 2)


def _first_rows(mask: Tensor | None, rows: int | None) -> Tensor | None:
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., :rows, :]
