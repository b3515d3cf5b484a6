"""All that a call of vitscope might leave behind: of a model, to the bit, and of torch and this process."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from vitscope.models.compiled import _inside
from vitscope.trace.budget import limit_of_pass


def of_model(model: nn.Module) -> dict[str, Any]:
    """By name: tensors to the bit with flags and gradients, and of each module its class, flags, hooks and keys."""
    found: dict[str, Any] = {}
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            found[f"{kind} {name}"] = _of_tensor(tensor)
    for name, module in model.named_modules():
        found[f"module {name}"] = _of_module(module)
    found["state dict"] = list(model.state_dict())
    return found


def _of_tensor(tensor: Tensor) -> tuple[Any, ...]:
    bits = tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.ndim else tensor.detach().cpu()
    grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.detach().cpu().numpy().tobytes())
    hooks = sorted(tensor._backward_hooks or {})
    version = None if tensor.is_inference() else tensor._version  # written to and written back is found out too
    return (
        id(tensor),
        tensor.data_ptr(),
        bits.numpy().tobytes(),
        version,
        tensor.requires_grad,
        grad,
        hooks,
        tensor.dtype,
    )


def _of_module(module: nn.Module) -> tuple[Any, ...]:
    keys = {key: None if isinstance(value, dict) else id(value) for key, value in vars(module).items()}
    hooks = {
        key: [(number, id(hook)) for number, hook in value.items()]
        for key, value in vars(module).items()
        if isinstance(value, dict) and "hooks" in key
    }
    parts = {key: [(name, id(part)) for name, part in vars(module)[key].items()] for key in ("_parameters", "_buffers")}
    children = [(name, id(child)) for name, child in module._modules.items()]
    return type(module), module.training, keys, hooks, parts, children


def of_process() -> dict[str, Any]:
    """Random states, torch's modes in this thread and its settings, and a few others' settings."""
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": _hashable(np.random.get_state()),
        "Python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [(torch.is_autocast_enabled(on), torch.get_autocast_dtype(on)) for on in ("cpu", "cuda")],
        "autocast's cache": torch.is_autocast_cache_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": _len_torch_dispatch_stack(),
        "attention kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
        ),
        "hooks of all modules": [
            len(each) for name, each in sorted(vars(global_hooks).items()) if _of_hooks(name, each)
        ],
        "stances": len(_inside),
        "memory limit": limit_of_pass(),
        "warnings": [str(each) for each in warnings.filters],
        "largest picture": Image.MAX_IMAGE_PIXELS,
        "threads alive": {thread.name for thread in threading.enumerate() if not thread.daemon},
    }


def _of_hooks(name: str, each: Any) -> bool:
    return name.startswith("_global_") and name.endswith("hooks") and hasattr(each, "__len__")


def _hashable(state: Any) -> Any:
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in state)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is no longer as it was, by name."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@contextmanager
def in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
