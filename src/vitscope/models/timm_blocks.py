"""A model of anyone's own built of timm's blocks: what surrounds the blocks is found by running it once.

The blocks, the token that is read, the norm and the head are tried against the model's own output on random pictures;
only what gives that output is believed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Classifier, Grid, Part
from vitscope.models.guard import left_as_found
from vitscope.models.parts import whole_patches
from vitscope.models.placed import with_token_placement
from vitscope.models.timm_vit import block_of

Read = Callable[[Tensor], Tensor]


def describe_timm_blocks(model: nn.Module) -> Anatomy | None:
    """Describe a module by the one list of timm Blocks that it holds; None where there is none.

    Raises:
        ModelError: several lists of blocks, or an output that does not follow from them by a norm, the class token or
            the mean of tokens, and one head.
    """
    lists = {
        name: list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module)
        and all(type(block) is TimmBlock for block in module)
    }
    if not lists:
        return None
    if len(lists) > 1:
        raise ModelError(f"{type(model).__name__} holds several lists of blocks ({', '.join(lists)}); {_WAY_OUT}")
    ((name, blocks),) = lists.items()
    patch, size = _patch(model), _size(model)
    tokens, output = _run(model, blocks[-1], size)
    cells = (size[0] // patch[0]) * (size[1] // patch[1])
    prefix = tokens.shape[1] - cells
    if prefix < 0:
        raise ModelError(f"{type(model).__name__} has fewer tokens than {cells} patches; {_WAY_OUT}")
    inside = {part for block in blocks for part in block.modules()}
    found = _way_out_of([module for module in model.modules() if module not in inside], prefix, tokens, output)
    if found is None:
        raise ModelError(f"how the output of {type(model).__name__} follows from {name} was not found; {_WAY_OUT}")
    part, read, norm, head = found
    rows = 1 if part == "class" else None
    linear = head if type(head) is nn.Linear else None

    def features(kept: Tensor) -> Tensor:
        pooled = read(kept)
        whole: Tensor = pooled if linear is not None or head is None else head(pooled)
        return whole

    anatomy = Anatomy(
        family="timm blocks in a module of its own",
        name=type(model).__name__,
        model=model,
        prefix=tuple(["class", *(f"register {index + 1}" for index in range(prefix - 1))][:prefix]),
        blocks=tuple(block_of(f"{name}.{index}", block, rows) for index, block in enumerate(blocks)),
        final_site=norm,
        features=features,
        classifier=None if linear is None else Classifier((linear,)),
        patch=patch,
        grid=whole_patches(patch, only=size),
        input_size=size,
        flexible_size=False,
        outputs=0 if head is None else int(output.shape[-1]),
        reads=(part,),
    )
    return with_token_placement(anatomy)


_WAY_OUT = "describe it with vitscope.adapt (docs/adapters.md)"


def _way_out_of(
    outside: list[nn.Module], prefix: int, tokens: Tensor, output: Tensor
) -> tuple[Part, Read, nn.Module | None, nn.Module | None] | None:
    """What is read, reading, norm and head by which `tokens` (b n D) give `output` (b c), or None."""
    heads = [None, *(module for module in outside if isinstance(module, nn.Linear | nn.Sequential))]
    for part, read, norm in _readings(outside, prefix):
        for head in heads:
            if _gives(read, head, tokens, output):
                return part, read, norm, head
    return None


def _readings(outside: list[nn.Module], prefix: int) -> Iterator[tuple[Part, Read, nn.Module | None]]:
    """What is read, the way to what the head reads, and the norm that stands behind the last block."""
    norms = [module for module in outside if "norm" in type(module).__name__.lower() or type(module) is nn.Identity]
    pools: list[tuple[Part, Read]] = [
        ("patches", lambda x: x[:, prefix:].mean(dim=1)),
        ("all", lambda x: x.mean(dim=1)),
    ]
    if prefix:
        pools.insert(0, ("class", lambda x: x[:, 0]))
    for part, pool in pools:
        for norm in norms:
            yield part, _after(norm, pool), norm
            yield part, _after(pool, norm), None
        yield part, pool, None


def _after(first: Read, second: Read) -> Read:
    return lambda x: second(first(x))


def _gives(read: Read, head: nn.Module | None, tokens: Tensor, output: Tensor) -> bool:
    try:
        with torch.no_grad():
            found = read(tokens) if head is None else head(read(tokens))
    except RuntimeError:
        return False  # a layer of another width
    return found.shape == output.shape and torch.allclose(found, output, rtol=1e-4, atol=1e-5)


def _run(model: nn.Module, last: nn.Module, size: Grid) -> tuple[Tensor, Tensor]:
    """The last block's output (b n D) and the model's (b c) on some random pictures."""
    parameter = next(model.parameters())
    picture = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1)).to(parameter)
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def see(_: nn.Module, __: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            seen.append(output)

    with left_as_found(model), torch.no_grad():
        handle = last.register_forward_hook(see)
        try:
            output: Any = model(picture)
        except Exception as error:  # a module of anyone's own may raise anything
            raise ModelError(
                f"{type(model).__name__} does not take a picture of {size[0]} x {size[1]} pixels ({error}); {_WAY_OUT}"
            ) from error
        finally:
            handle.remove()
    if len(seen) != 1 or not isinstance(output, Tensor) or seen[0].ndim != 3:
        raise ModelError(f"{type(model).__name__} gives no tensor, or runs its blocks several times; {_WAY_OUT}")
    return seen[0], output


def _patch(model: nn.Module) -> Grid:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.in_channels == 3:
            return int(module.kernel_size[0]), int(module.kernel_size[1])
    raise ModelError(f"{type(model).__name__} embeds its patches in a way that was not found; {_WAY_OUT}")


def _size(model: nn.Module) -> Grid:
    """The picture size (height, width) that one of its modules names, or 224 x 224."""
    for module in model.modules():
        for name in ("img_size", "image_size"):
            side = getattr(module, name, None)
            if isinstance(side, int):
                return side, side
            if isinstance(side, tuple | list) and len(side) == 2:
                return int(side[0]), int(side[1])
    return 224, 224
