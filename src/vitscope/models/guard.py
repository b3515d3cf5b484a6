"""What makes a pass leave the model as it was found."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from vitscope.errors import RefusedError
from vitscope.models.compiled import uncompiled

_locks = WeakIdKeyDictionary()
"""First parameter of a model -> its lock: a wrapper and the model in it, which share parameters, have one."""

_looked_at: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models of which all parameters were held against inference mode."""

_locks_guard = threading.Lock()


class _Depth(threading.local):
    """Of each thread."""

    passes = 0


_depth = _Depth()


def depth() -> int:
    """How many passes this thread is in, one within another."""
    return _depth.passes


@contextmanager
def left_as_found(model: nn.Module, watched: bool = True) -> Iterator[None]:
    """The model in evaluation mode, for one thread at a time, whatever mode of torch the caller is in.

    Every module's own training flag comes back, also after an exception.

    Args:
        model: it.
        watched: run what torch.compile made as it was written, so that hooks and function modes see it.

    Raises:
        ModelError: the model's parameters are inference tensors, which no gradient can pass.
    """
    lock, device = _lock_of(model), next(model.parameters()).device
    with lock, uncompiled() if watched else nullcontext(), undisturbed(device):
        training = [module for module in model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Outside of what the caller is in: of inference mode, of any autocast, and of a pass that is watched.

    In which precision a model is run is what its `Running` says. A pass lies within another where a hook of the user's
    calls an explainer; what watches the outer one looks at its `depth`, and lets the inner one alone.
    """
    outer = _depth.passes
    with torch.inference_mode(False), ExitStack() as stack:
        for kind in {"cpu", device.type}:
            stack.enter_context(without_autocast(kind))
        try:
            _depth.passes = outer + 1
            yield
        finally:
            _depth.passes = outer


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Within it, torch computes in the precision of what it is given; also on a kind of device without autocast."""
    try:
        enabled = torch.is_autocast_enabled(kind)
    except RuntimeError:  # a kind of device that knows no autocast
        enabled = False
    return torch.autocast(kind, enabled=False) if enabled else nullcontext()


def _lock_of(model: nn.Module) -> threading.RLock:
    """The model's lock. Held against inference mode are all parameters at first, and then one, as that takes long."""
    first = next(model.parameters())
    with _locks_guard:
        if any(parameter.is_inference() for parameter in ([first] if model in _looked_at else model.parameters())):
            raise RefusedError("the model was built under torch.inference_mode; build or load it outside of it")
        _looked_at.add(model)
        lock: threading.RLock = _locks.setdefault(first, threading.RLock())
        return lock
