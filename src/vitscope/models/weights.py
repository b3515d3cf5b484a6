"""Reading a file of weights, safely, and putting it into a model with an answer that helps when it does not fit."""

from __future__ import annotations

import os
import pickle  # nosec B403  # for its error alone
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vitscope.errors import ModelError, text_of

_WRAPPERS = ("state_dict", "state_dict_ema", "model", "model_ema", "teacher", "student", "module")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
_CLASSIFIERS = (
    "head.weight",  # timm's ViT, DeiT, BEiT, XCiT, ...; torchvision's Swin
    "fc.weight",
    "classifier.weight",  # transformers
    "cls_classifier.weight",  # transformers' distilled DeiT
    "heads.head.weight",  # torchvision's ViT
    "head.fc.weight",  # timm's Swin, MaxViT, Hiera
    "head.linear.weight",  # timm's LeViT
    "classifier.5.weight",  # torchvision's MaxViT
)
_HEADS = {name.split(".")[0] for name in _CLASSIFIERS}
_BLOCKS = (".blocks.", ".layers.", ".layer.", ".stages.", ".resblocks.")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weights file by name.

    `.safetensors` is read as such; anything else by `torch.load(weights_only=True)`, so that no code in the file runs.
    Checkpoints that wrap their tensors ("state_dict", "model", "teacher", ...) or prefix all names ("module.") are
    unwrapped.

    Raises:
        ModelError: the file is missing, damaged, holds code, or holds no tensors.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise ModelError(f"{file}: no such weights file; check --weights")
        if file.suffix == ".safetensors":
            return _unwrap(safetensors.torch.load_file(file), file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: refused, it is damaged or holds Python objects beside tensors; "
            "save its state_dict alone, best as .safetensors"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # a damaged file makes torch and safetensors raise nearly any kind
        words = (str(error).splitlines() or [""])[0][:120]
        reason = words if any(sign.isalpha() for sign in words) else type(error).__name__
        raise ModelError(f"{file}: not a readable weights file ({reason}); download or save it again") from error
    return _unwrap(content, file)


def _unwrap(content: Any, file: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ModelError(f"{file}: holds no tensors by name; save the model's state_dict")
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def outputs_in(weights: Mapping[str, Tensor]) -> int | None:
    """Number of outputs of the classifier in a file of weights; 0 where it has none, None where unknown."""
    for name in _CLASSIFIERS:
        if name in weights and weights[name].ndim == 2:
            return int(weights[name].shape[0])
    branches = [weights.get(f"head.{index}.weight") for index in (0, 1)]  # timm's CrossViT has a head a branch
    rows = {int(branch.shape[0]) for branch in branches if branch is not None and branch.ndim == 2}
    if len(rows) == 1 and None not in branches:
        return rows.pop()
    headed = any(name.split(".")[0] in _HEADS for name in weights)
    return None if headed or not any(part in f".{name}" for name in weights for part in _BLOCKS) else 0


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str, name: str) -> None:
    """Load `weights` into `model`, strictly, after timm's renaming of the official checkpoints where it is needed.

    Raises:
        ModelError: the names or shapes differ; the text shows the first differences.
    """
    fitting: Mapping[str, Tensor] = weights
    if _differences(model, fitting):
        try:
            fitting = _renamed(model, weights)
        except Exception:  # not an official layout that timm knows: report the differences as they are
            fitting = weights
    load_strictly(model, fitting, source, name)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str, name: str) -> None:
    """Load `weights` into `model` as they are named.

    Raises:
        ModelError: the names or shapes differ; the text shows the first differences.
    """
    differences = _differences(model, weights)
    if differences:
        raise ModelError(misfit(source, name, differences))
    try:
        model.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:  # tensors of the right shape that are no numbers: sparse, quantised, on no device
        raise ModelError(misfit(source, name, [text_of(error)])) from error


def misfit(source: str, name: str, differences: Sequence[str]) -> str:
    """The text of the error for weights that are not the model's."""
    return (
        f"{source}: these are not weights of {name}: {'; '.join(differences)}; "
        "check that --model and --weights belong together"
    )


def clause(found: Sequence[str], what: str, shown: int = 2) -> str:
    """Such as "12 missing (head.weight, head.bias, ...)"."""
    return f"{len(found)} {what} ({', '.join(found[:shown])}{', ...' if len(found) > shown else ''})"


def _renamed(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The official checkpoint's names turned into timm's, by the function that timm has for the model's family."""
    from timm.models.vision_transformer import checkpoint_filter_fn  # takes long to import

    module = sys.modules[type(model).__module__]
    convert = getattr(module, "checkpoint_filter_fn", checkpoint_filter_fn)
    if convert is checkpoint_filter_fn:
        return checkpoint_filter_fn(dict(weights), model, adapt_layer_scale=True)  # type: ignore[no-any-return]
    return convert(dict(weights), model)  # type: ignore[no-any-return]


def _differences(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Clauses such as "12 missing (head.weight, head.bias, ...)", empty where everything fits."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    extra = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} {tuple(weights[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    return [
        clause(found, what)
        for what, found in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if found
    ]
