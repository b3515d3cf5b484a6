"""What loading a model by name gives: the module with the preprocessing and the class names that came with it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten
from typing import Any

from torch import nn

from vitscope.activation import Activation
from vitscope.errors import ModelError
from vitscope.images import Preprocessing
from vitscope.models.weights import Weights, read_weights

_LOG = logging.getLogger(__name__)

EXTRAS = {"transformers": "hf", "open_clip": "clip"}


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Attributes:
        name: the whole name, as the user gave it.
        rest: what follows the source in it: "vit_b_16" of "torchvision/vit_b_16".
        weights: a .safetensors, .pth or .bin file, or None.
        pretrained: where no file is given: the published weights, or those of the directory; False leaves random ones.
        image_size: (height, width) in pixels, where it shall differ from the model's own.
        weights_key: of the set of weights to use, where the file has several.
    """

    name: str
    rest: str
    weights: str | os.PathLike[str] | None = None
    pretrained: bool = True
    image_size: tuple[int, int] | None = None
    weights_key: str | None = None

    @cached_property
    def read(self) -> Weights | None:
        """The weights of the file, read once; None where no file is given.

        Raises:
            ModelError: it cannot be read, or has no such key.
        """
        return None if self.weights is None else read_weights(self.weights, self.weights_key)


@dataclass(frozen=True)
class Loaded:
    """A model with what came with it.

    Attributes:
        model: in evaluation mode, on the CPU.
        preprocessing: how pictures become its input, or None where nothing says so.
        no_preprocessing: why there is none, and what to do; "" where there is one.
        names: of its outputs in order; empty where they are unknown.
        source: the library that built it and the weights in it, for the record.
        tokenizer: texts -> what the model's text tower takes; None where it has none, or none is at hand.
        activation: what turns its outputs into probabilities, where a file beside the model declares it.
        weights_key: the key of the weights file that was used; None where there is no file, or no key in it.
    """

    model: nn.Module
    preprocessing: Preprocessing | None
    no_preprocessing: str = ""
    names: tuple[str, ...] = ()
    source: str = ""
    tokenizer: Callable[[Sequence[str]], Any] | None = None
    activation: Activation | None = None
    weights_key: str | None = None

    def preprocessing_with(self, fields: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing with some fields replaced.

        Raises:
            ModelError: an unknown field or an impossible value; or there is no preprocessing, and not all are given.
        """
        if self.preprocessing is not None:
            return self.preprocessing.replaced(**fields)
        if Preprocessing.FIELDS - {"crop_start"} <= set(fields):
            return Preprocessing.of_fields(**fields)
        raise ModelError(self.no_preprocessing)


def own_names(model: nn.Module) -> tuple[str, ...]:
    """The class names that a module carries: timm's `pretrained_cfg["label_names"]`, transformers' `config.id2label`.

    transformers' placeholders ("LABEL_0", ...) are no names.
    """
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping):
        return _timm_names(config.get("label_names") or (), config.get("label_descriptions") or {})
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(labels, Mapping) or set(labels) != set(range(len(labels))):
        return ()
    names = tuple(str(labels[index]) for index in range(len(labels)))
    return () if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def _timm_names(names: Any, descriptions: Mapping[str, str]) -> tuple[str, ...]:
    """timm's labels, a list or an object from index to label, by their descriptions where it has them."""
    if isinstance(names, Mapping):
        indices = {str(index): name for index, name in names.items()}
        if set(indices) != {str(index) for index in range(len(indices))}:
            return ()
        names = [indices[str(index)] for index in range(len(indices))]
    return tuple(str(descriptions.get(name, name)) for name in names)


def tell_cut(text: str, tokens: int, marks: int, limit: int) -> None:
    """Say in the log where a text is longer than the model reads.

    Args:
        text: the text.
        tokens: its number of tokens.
        marks: tokens that the tokenizer adds, such as those of start and end.
        limit: tokens that the model reads, the marks among them.
    """
    if tokens + marks > limit:
        _LOG.warning(
            "'%s': %d tokens, the model reads %d, %d of which are marks of its own; what follows in the text has no "
            "effect",
            shorten(text, 60, placeholder=" ..."),
            tokens,
            limit,
            marks,
        )


def library(package: str, name: str) -> Any:
    """Import an optional library.

    Raises:
        ModelError: it is not installed; the text names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = EXTRAS[package]
        raise ModelError(f'{name}: needs {package} ({error}); pip install "vitscope[{extra}]"') from error


def one_line(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an error's text, on one line; the error's kind where it has no text."""
    text = " ".join(str(error).split()).split(". ")[0]
    return text[:limit].rstrip(".:") or type(error).__name__


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub's log lines about each new attempt: where all fail, the error says why."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
