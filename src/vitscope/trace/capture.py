"""One forward pass, watched: the only place with hooks and function modes.

Attention is seen where its kernel is called (`scaled_dot_product_attention`), so the model's fused kernel keeps
running and no N x N matrix is made; an attention written out as matmul, softmax, matmul is seen there. Only the
rows that the head reads are kept: the class token's, in a distilled DeiT the distillation token's too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from vitscope.errors import ModelError
from vitscope.models import Anatomy
from vitscope.trace.heads import head_products
from vitscope.trace.needs import Blocks, Needs

_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}
_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
_DROPOUT = {F.dropout, torch.dropout}


@dataclass
class BlockCapture:
    """What one block showed of itself in the pass; axis r holds the rows that lead to the output (`Block.rows`)."""

    query: Tensor | None = None  # (b h r d), times the attention's scale
    values: Tensor | None = None  # (b h n d)
    products: Tensor | None = None  # (b h r n), <query, keys>
    scores: Tensor | None = None  # (b h r n), these with the attention's mask
    mask: Tensor | None = None  # what was added to the products, where the attention has a mask
    input: Tensor | None = None  # (b n D), x_b, where the block will be run again
    attended: tuple[Tensor, Tensor, Tensor | None] | None = None  # queries (b h n d), keys, mask; where all rows count
    rows: Tensor | None = None  # (b h r d), T_b
    residual: Tensor | None = None  # (b r D), e_b
    tokens: Tensor | None = None  # (b n D), t_b, where the keys are not affine in it, or thoroughly
    output: Tensor | None = None  # (b h n d) with its graph, where a backward pass will be made; the last: (b h r d)
    incoming: Tensor | None = None  # (b r D), x_b with its graph: the last block's, likewise; or thoroughly

    def keep_residual(self, rows: int | None, tokens: Tensor) -> None:
        """Take e_b from the feed-forward's input (b n D); a clone, so that the whole is not kept."""
        self.residual = tokens.detach()[:, :rows].clone()

    def keep_incoming(self, rows: int | None, tokens: Tensor) -> None:
        """Take x_b with its graph."""
        self.incoming = tokens[:, :rows]

    def keep_input(self, tokens: Tensor) -> None:
        """Take x_b."""
        self.input = tokens.detach()

    def keep_tokens(self, tokens: Tensor) -> None:
        """Take t_b."""
        self.tokens = tokens.detach()


@dataclass
class ForwardCapture:
    """The whole pass: its output (b c), the rows of x_{B+1} that the head reads (b r D), and every block's record."""

    logits: Tensor
    final: Tensor
    start: Tensor | None = None  # (b n D), the second block's input, where a backward pass ends there
    blocks: list[BlockCapture] = field(default_factory=list)


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


class _AttentionWatch(TorchFunctionMode):
    """Sees the attention of the block that is being run and keeps its class row.

    With `graph`, weights enter every function as frozen views, so that neither their gradients nor the activations
    for these are kept and the model's own `requires_grad` flags are never touched; the graph starts at the
    second block's input (the first's, where more than the class row counts) and ends at the last one's attention
    output: what lies before and behind is left to the closed form of the rows that the head reads.
    """

    def __init__(self, anatomy: Anatomy, needs: Needs, records: list[BlockCapture], lean: bool) -> None:
        super().__init__()
        self._lean = lean
        self.current: int | None = None
        self._records = records
        self._rows = [block.rows for block in anatomy.blocks]
        self._needs = needs
        self.graph = max(needs.full_gradient, needs.every_row) == Blocks.ALL and len(records) > 1
        self._frozen = {id(p): p.detach() for p in anatomy.model.parameters() if p.requires_grad and self.graph}
        self._product: tuple[Tensor, Tensor] | None = None  # the queries and keys of a written-out attention
        self._matrix: Tensor | None = None  # its softmax

    def enter(self, index: int, _: Tensor) -> None:
        """The attention of block `index` begins."""
        self.current = index

    def leave(self, _: Tensor) -> None:
        """The attention of the present block is done."""
        self.current = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.graph:
            args = tuple([self._frozen.get(id(arg), arg) for arg in args])
            kwargs = {key: self._frozen.get(id(value), value) for key, value in kwargs.items()}
        if self.current is not None and func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if self.graph and self.current is not None and func is Tensor.unbind:
            return _Unbind.apply(*args, **kwargs)
        result = func(*args, **kwargs)
        if self.current is None:
            return result
        if (func in _SOFTMAX and result.ndim == 4 and self._product is not None) or (
            func in _DROPOUT and args and args[0] is self._matrix
        ):
            self._matrix = result
        elif func in _MATMUL and result.ndim == 4:
            if self._matrix is not None and args[0] is self._matrix:
                assert self._product is not None
                query, key = self._product
                self._matrix = self._product = None
                self._keep(query, key.transpose(-2, -1), args[1], None, result)
                return self._go_on(result, result.shape[-2])
            self._product = (args[0], args[1])
        return result

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Run torch's scaled_dot_product_attention (its own signature) and keep the rows that the head reads.

        In the last block only these rows are computed where `lean` allows it, and the graph ends with them.
        """
        if is_causal or enable_gqa:
            raise ModelError("causal or grouped-query attention is not supported; use a plain vision transformer")
        tokens = query.shape[-2]
        if self._lean and self._at_last():
            rows = self._rows[-1]
            query, attn_mask = query[..., :rows, :], _first_rows(attn_mask, rows)
        output = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, scale=scale)
        self._keep(query, key, value, attn_mask, output, query.shape[-1] ** -0.5 if scale is None else scale)
        return self._go_on(output, tokens)

    def _go_on(self, output: Tensor, tokens: int) -> Tensor:
        """Keep the output for the backward pass, and return what the model goes on with, (b h `tokens` d)."""
        assert self.current is not None
        last = self._at_last()
        if output.requires_grad:
            self._records[self.current].output = output[..., : self._rows[-1], :] if last else output
        output = output.detach() if last else output
        return output.expand(-1, -1, tokens, -1) if output.shape[-2] != tokens else output

    def _at_last(self) -> bool:
        return self.current == len(self._records) - 1

    def _keep(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, output: Tensor, scale: float = 1.0
    ) -> None:
        """Keep what the methods need of one block: of `query`, times `scale`, and `mask` the first r rows or all."""
        assert self.current is not None
        record = self._records[self.current]
        if record.rows is not None:
            raise ModelError(f"block {self.current} computed attention more than once; its adapter does not fit it")
        query, key = query.detach(), key.detach()
        level = Blocks.LAST if self._at_last() else Blocks.ALL
        rows, asked = self._rows[self.current], max(self._needs.attention, self._needs.sensitivity)
        if self._needs.every_row >= level or (rows is None and asked >= level):
            # The last block's other rows have no part in the output.
            whole = query[..., :rows, :] if self._at_last() else query
            record.attended = whole * scale, key, _first_rows(mask, whole.shape[-2])
        record.rows = output.detach()[..., :rows, :].clone()  # cloned, so that the whole is not kept
        if rows is not None and asked >= level:
            query, mask = query[..., :rows, :] * scale, _first_rows(mask, rows)
            record.query = query
            scores = record.products = head_products(query, key)
            if mask is not None:
                if mask.dtype == torch.bool:
                    mask = scores.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))
                record.mask = mask
                scores = scores + mask
            record.scores = scores
        if record.attended is not None or max(self._needs.values, self._needs.sensitivity) >= level:
            # A view would keep queries and keys alive; where there is a graph, it keeps them itself.
            by_token = value.detach().transpose(1, 2)
            record.values = (by_token if self.graph else by_token.clone()).transpose(1, 2)


def _first_rows(mask: Tensor | None, rows: int | None) -> Tensor | None:
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., :rows, :]


def forward(anatomy: Anatomy, images: Tensor, needs: Needs, *, thorough: bool = False) -> ForwardCapture:
    """Run the model once on `images` (b 3 H W) and keep what `needs` names.

    Where the head reads the class token alone and the last block is plain, its attention and feed-forward compute this
    row alone, and the residual sums spread it over the patch rows, which nobody reads any more. With `thorough`, as
    `verify` runs it to show that the head reads no other row, all rows are computed, and every block's x_b and t_b are
    kept.

    Raises:
        ModelError: the model's output is not (b c) and finite, or a block's attention was not seen.
    """
    records = [BlockCapture() for _ in anatomy.blocks]
    lean = not thorough and anatomy.rows_read == 1 and anatomy.blocks[-1].plain
    watch = _AttentionWatch(anatomy, needs, records, lean)
    final: list[Tensor] = []
    graph = watch.graph
    second = anatomy.class_row and needs.every_row == Blocks.NONE and all(block.plain for block in anatomy.blocks)
    start: list[Tensor] = []

    def begin(tokens: Tensor) -> Tensor:
        start.append(tokens.detach().requires_grad_())
        return start[0]

    deepest = 0 if max(needs.skip_gradient, needs.feedforward_gradient) == Blocks.ALL else len(records) - 1
    with _hooks() as hook, watch:
        for index, block in enumerate(anatomy.blocks):
            hook.before(block.attention, partial(watch.enter, index))
            hook.after(block.attention, watch.leave)
            if index >= deepest or (graph and index == 0):
                hook.before(block.feedforward_site, partial(records[index].keep_residual, block.rows))
            level = Blocks.LAST if index + 1 == len(records) else Blocks.ALL
            if thorough or (not block.affine_keys and needs.sensitivity >= level):
                hook.after(block.norm, records[index].keep_tokens)
            if needs.rerun and level == Blocks.LAST:
                hook.before(block.norm, records[index].keep_input)
            if thorough or (graph and index + 1 == len(records)):
                hook.before(block.norm, partial(records[index].keep_incoming, block.rows))
        if graph:
            hook.replace_input(anatomy.blocks[1 if second else 0].module, begin)
        if lean:
            hook.replace_input(anatomy.blocks[-1].feedforward_site, lambda x: x[:, :1])
        if anatomy.final_site is not None:
            hook.before(anatomy.final_site, lambda x: final.append(x.detach()[:, : anatomy.rows_read].clone()))
        with torch.enable_grad() if graph else torch.no_grad():
            logits = anatomy.model(images)
    unseen = [block.name for block, record in zip(anatomy.blocks, records, strict=True) if record.rows is None]
    if unseen:
        raise ModelError(
            f"the attention of {', '.join(unseen[:3])} was not seen: it uses a kernel that torch does not show; "
            "switch the model to torch's scaled_dot_product_attention"
        )
    _check_output(logits, images)
    if not final:
        residual = records[-1].residual
        assert residual is not None
        with torch.no_grad():
            final.append(residual + anatomy.blocks[-1].feedforward(residual))
    return ForwardCapture(logits.detach(), final[0], start[0] if graph and second else None, records)


def check_tokens(anatomy: Anatomy, seen: ForwardCapture, grid: tuple[int, int]) -> None:
    """Hold the number of tokens that attention worked on against prefix and grid.

    Raises:
        ModelError: they differ.
    """
    expected = len(anatomy.prefix) + grid[0] * grid[1]
    for block, row in zip(anatomy.blocks, seen.blocks, strict=True):
        keys = row.scores if row.scores is not None else None if row.attended is None else row.attended[1].mT
        if keys is not None and keys.shape[-1] != expected:
            raise ModelError(
                f"{block.name} works on {keys.shape[-1]} tokens where {len(anatomy.prefix)} prefix tokens and "
                f"{grid[0]} x {grid[1]} patches make {expected}; its adapter does not fit the model"
            )


def _check_output(logits: Any, images: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model's output must be a tensor (images, outputs), got {found}; wrap the model")
    if not torch.isfinite(logits).all():
        index = int((~torch.isfinite(logits)).any(dim=1).nonzero()[0])
        raise ModelError(f"the model's output for image {index} is not finite; check its weights and its input")


class _Hooks:
    """Adds hooks that act in the present thread only, and takes each away again."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._thread = threading.get_ident()

    def before(self, module: nn.Module, see: Callable[[Tensor], None]) -> None:
        """Show `module`'s first input."""

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if threading.get_ident() == self._thread:
                see(inputs[0])

        self._stack.callback(module.register_forward_pre_hook(hook).remove)

    def replace_input(self, module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
        """Give `module` make(x) in place of its first input x."""

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return (make(inputs[0]), *inputs[1:]) if threading.get_ident() == self._thread else None

        self._stack.callback(module.register_forward_pre_hook(hook).remove)

    def after(self, module: nn.Module, see: Callable[[Tensor], None]) -> None:
        """Show `module`'s output."""

        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == self._thread:
                see(output)

        self._stack.callback(module.register_forward_hook(hook).remove)


@contextmanager
def _hooks() -> Iterator[_Hooks]:
    with ExitStack() as stack:
        yield _Hooks(stack)
