"""Reading a file of weights, safely, and putting it into a model with an answer that helps when it does not fit."""

from __future__ import annotations

import logging
import os
import pickle  # nosec B403  # for its error alone
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vitscope.errors import ModelError, text_of

_LOG = logging.getLogger(__name__)

_AVERAGED = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model_state_dict",
    "ema_model",
    "params_ema",
    "ema",
    "teacher",
    "target_encoder",
)
"""Keys of moving averages of the weights, which are what is evaluated; timm's own first, in its loader's order."""
_KEYS = (*_AVERAGED, "state_dict", "model", "model_state_dict", "student", "module")
"""Keys of a model's weights in a checkpoint; of several sets of weights the first one here is used."""
Keys = tuple[str, ...]
"""From the top of a checkpoint to a set of weights."""
_DEEPEST = 4
"""How many keys lead to a set of weights, at most."""
_LISTED = 8
"""Keys that a message lists."""
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


@dataclass(frozen=True)
class Weights:
    """One set of weights of a file.

    Attributes:
        tensors: by name, without a prefix that all names share.
        key: the key that led to it, "model.state_dict" for nested ones; None where the file holds the tensors directly.
        label: the file, with the key, for messages.
    """

    tensors: dict[str, Tensor]
    key: str | None
    label: str


def read_weights(path: str | os.PathLike[str], key: str | None = None) -> Weights:
    """Read one set of weights from a file.

    `.safetensors` is read as such; anything else by `torch.load(weights_only=True)`, so that no code in the file runs.
    Of a training checkpoint with several sets of weights the averaged ones are used before the raw ones ("model_ema"
    before "model", "teacher" before "student"), as timm's loader does, and a warning in the log names the choice.
    A prefix of all names ("module.") is dropped.

    Args:
        path: a .safetensors, .pth or .bin file.
        key: of the set to use, instead of that choice.

    Raises:
        ModelError: the file is missing, damaged, holds code or no tensors, or has no such key.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise ModelError(f"{file}: no such weights file; check --weights")
        if file.suffix == ".safetensors":
            return _chosen(safetensors.torch.load_file(file), file, key)
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
    return _chosen(content, file, key)


def _chosen(content: Any, file: Path, key: str | None) -> Weights:
    """The set of weights under `key`; without one the first by `_KEYS`."""
    found = dict(_sets(content, (), set()))
    if not found:
        raise ModelError(f"{file}: holds no tensors by name; save the model's state_dict")
    most = max(map(len, found.values()))
    usable = [path for path, tensors in found.items() if 10 * len(tensors) >= most]  # not the state of a loss
    if key is not None:
        usable, known = [path for path in found if f"{_joined(path)}.".startswith(f"{key}.")], _listed(usable)
        if not usable:
            has = f"its keys are {known}" if known else "it holds its weights under no key; leave weights_key out"
            raise ModelError(f"{file}: has no weights under weights_key='{key}'; {has}")
    first, *others = sorted(usable, key=_rank)
    used = _joined(first)
    several = f"{file}: holds several sets of weights ({_listed(usable)})"
    if others and _rank(first) == _rank(others[0]):
        raise ModelError(f"{several}; choose one by weights_key= (--weights-key)")
    for name in () if key else _nameless(content):
        _LOG.warning(
            "%s: holds averaged weights without their names (%s), which cannot be used; %s is used, which may be the "
            "raw ones; save the averaged model's state_dict",
            file,
            name,
            used or "the set with names",
        )
    if others:
        _LOG.warning("%s; %s is used, choose another by weights_key= (--weights-key)", several, used)
    return Weights(_without_prefix(found[first]), used or None, f"{file} ({used})" if used else str(file))


def _joined(path: Keys) -> str:
    return ".".join(name if name.isprintable() else repr(name) for name in path)


def _listed(paths: Sequence[Keys]) -> str:
    names = [_joined(path) for path in paths if path]
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _sets(content: Any, path: Keys, entered: set[int]) -> Iterator[tuple[Keys, dict[str, Tensor]]]:
    """Every mapping of names to tensors in a checkpoint, with the keys that lead to it.

    Args:
        content: the checkpoint, or a part of it.
        path: the keys that led to it.
        entered: the mappings whose entries were looked at, as a file may hold one twice, or in itself.
    """
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    if id(content) in entered or len(path) == _DEEPEST:
        return
    entered.add(id(content))
    for name, value in content.items():
        if isinstance(name, str):
            yield from _sets(value, (*path, name), entered)


def _nameless(content: Any) -> Iterator[str]:
    """Averaged weights in a list, without their names, as torch_ema saves them ("shadow_params")."""
    for name in (*_AVERAGED, "shadow_params"):
        value = content.get(name) if isinstance(content, Mapping) else None
        lists = {f"{name}.{part}": of for part, of in value.items()} if isinstance(value, Mapping) else {name: value}
        for path, listed in lists.items():
            if isinstance(listed, list | tuple) and listed and all(isinstance(one, Tensor) for one in listed):
                yield path


def _rank(path: Keys) -> tuple[int, ...]:
    """The place of a set of weights in the order of preference; the last for keys that are not known."""
    return tuple(_KEYS.index(name) if name in _KEYS else len(_KEYS) + 1 for name in path) or (len(_KEYS),)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that all names share, and without the counter of torch's `AveragedModel`."""
    tensors = {name: tensor for name, tensor in tensors.items() if name.split(".")[-1] != "n_averaged"} or tensors
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
