"""What makes a pass leave the model as it was found."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.models.compiled import uncompiled

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def left_as_found(model: nn.Module, watched: bool = True) -> Iterator[None]:
    """The model in evaluation mode, for one thread at a time, also where the caller is under inference mode.

    Every module's own training flag comes back, also after an exception.

    Args:
        model: it.
        watched: run what torch.compile made as it was written, so that hooks and function modes see it.

    Raises:
        ModelError: the model's parameters are inference tensors, which no gradient can pass.
    """
    with _lock_of(model), uncompiled() if watched else nullcontext(), torch.inference_mode(False):
        training = [module for module in model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def _lock_of(model: nn.Module) -> threading.RLock:
    """The model's lock. Held against inference mode are all parameters at first, and then one, as that takes long."""
    with _locks_guard:
        looked_at = islice(model.parameters(), 1 if model in _locks else None)
        if any(parameter.is_inference() for parameter in looked_at):
            raise ModelError("the model was built under torch.inference_mode; build or load it outside of it")
        return _locks.setdefault(model, threading.RLock())


def fitted(images: Tensor, model: nn.Module) -> Tensor:
    """The images without their graph, an ordinary tensor, on the model's device and of its dtype."""
    parameter = next(model.parameters())
    images = images.clone() if images.is_inference() else images.detach()
    return images.to(parameter.device, parameter.dtype, non_blocking=images.is_pinned())
