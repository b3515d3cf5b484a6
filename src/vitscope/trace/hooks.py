"""Hooks of one thread and one pass, taken away when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from vitscope.trace.guard import depth


class Hooks:
    """Adds hooks that act in the present thread and pass only, and takes each away again."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._thread, self._depth = threading.get_ident(), depth()

    def before(self, module: nn.Module, see: Callable[[Any], None]) -> None:
        """Show `module`'s first input, also where it is given by name; None where there is none."""

        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._mine():
                see(inputs[0] if inputs else next(iter(named.values()), None))

        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def before_with(self, module: nn.Module, see: Callable[[tuple[Any, ...]], None]) -> None:
        """Show all of `module`'s inputs."""

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if self._mine():
                see(inputs)

        self._stack.callback(module.register_forward_pre_hook(hook).remove)

    def replace_input(self, module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
        """Give `module` make(x) in place of its first input x, also where it is given by name."""

        def hook(
            _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if not (inputs or named) or not self._mine():
                return None
            if inputs:
                return (make(inputs[0]), *inputs[1:]), named
            first = next(iter(named))
            return inputs, {**named, first: make(named[first])}

        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def replace_tokens(self, module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
        """Give `module` make(x) for its first input x wherever it is given, as in nn.MultiheadAttention's (x, x, x)."""

        def hook(
            _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if not (inputs or named) or not self._mine():
                return None
            first = inputs[0] if inputs else next(iter(named.values()))
            made = make(first)
            return (
                tuple(made if each is first else each for each in inputs),
                {name: made if each is first else each for name, each in named.items()},
            )

        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def replace_output(self, module: nn.Module, make: Callable[[Any], Any]) -> None:
        """Let `module` give make(y) in place of its output y."""

        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return make(output) if self._mine() else None

        self._stack.callback(module.register_forward_hook(hook).remove)

    def after(self, module: nn.Module, see: Callable[[Tensor], None]) -> None:
        """Show `module`'s output."""

        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if self._mine():
                see(output)

        self._stack.callback(module.register_forward_hook(hook).remove)

    def _mine(self) -> bool:
        """Whether it is this thread, and no pass within the one that is watched."""
        return threading.get_ident() == self._thread and depth() == self._depth


@contextmanager
def hooks() -> Iterator[Hooks]:
    """Hooks that are gone behind this context, also after an exception."""
    with ExitStack() as stack:
        yield Hooks(stack)
