"""open_clip's models: both towers, by the name of an architecture and of its published weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vitscope.errors import ModelError, nearest
from vitscope.models.loaded import Loaded, Request, library, one_line, quiet_hub, tell_cut
from vitscope.models.sources.translate import of_open_clip
from vitscope.models.weights import load_strictly

Tokens = Callable[[Sequence[str]], Any]
"""Texts -> what the text tower takes."""


def names() -> list[str]:
    """ "MODEL:PRETRAINED" of the models whose picture tower is a vision transformer; none without open_clip."""
    try:
        open_clip = library("open_clip", "open_clip")
    except ModelError:
        return []
    return [f"{model}:{tag}" for model, tag in open_clip.list_pretrained() if _is_vit(open_clip, model)]


def load(request: Request) -> Loaded:
    """A model of open_clip: "MODEL:PRETRAINED", or "MODEL" with a file of weights, or with random ones.

    QuickGELU is used where the published weights were trained with it.

    Raises:
        ModelError: open_clip is missing, unknown names, ill-fitting weights, or no network within reach.
    """
    open_clip = library("open_clip", request.name)
    architecture, _, tag = request.rest.partition(":")
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(f"{request.name}: open_clip has no model '{architecture}'{nearest(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        hint = nearest(tag, tags) or f"; known: {', '.join(tags) or 'none'}"
        raise ModelError(f"{request.name}: open_clip has no weights '{tag}' of {architecture}{hint}")
    published = request.pretrained and request.weights is None
    if published and not tag:
        some = f"open_clip/{architecture}:{tags[0]}" if tags else "--weights FILE"
        raise ModelError(f"{request.name}: which weights is not said; say {some}{' or another tag' if tags else ''}")
    model = _create(open_clip, request, architecture, tag, published)
    if (weights := request.read) is not None:
        load_strictly(model, _converted(open_clip, model, weights.tensors), weights.label, request.name)
    return _loaded(open_clip, model, request.name, _reading(lambda: open_clip.get_tokenizer(architecture)))


def of_module(model: nn.Module) -> Loaded | None:
    """What an open_clip module that was handed over knows of itself; None for any other module."""
    if not type(model).__module__.startswith("open_clip.") or not hasattr(model, "visual"):
        return None
    open_clip = library("open_clip", type(model).__name__)
    own = _own_tokenizer(open_clip, model)
    tokenizer = None if own is None else _reading(lambda: own)
    if not isinstance(getattr(model.visual, "preprocess_cfg", None), Mapping):
        return Loaded(model, None, source=f"open_clip {open_clip.__version__}", tokenizer=tokenizer)
    return _loaded(open_clip, model, type(model).__name__, tokenizer)


def _loaded(open_clip: Any, model: Any, name: str, tokenizer: Tokens | None) -> Loaded:
    source = f"open_clip {open_clip.__version__}"
    try:
        return Loaded(model, of_open_clip(model.visual.preprocess_cfg, name), source=source, tokenizer=tokenizer)
    except ModelError as error:
        return Loaded(model, None, str(error), source=source, tokenizer=tokenizer)


def _reading(make: Callable[[], Any]) -> Tokens:
    """One of open_clip's tokenizers, made when it is needed, as a function that logs which texts it cuts."""

    def tokens(texts: Sequence[str]) -> Any:
        tokenizer = make()
        for text in texts:
            tell_cut(text, *_length(tokenizer, text), tokenizer.context_length)
        return tokenizer(list(texts))

    return tokens


def _length(tokenizer: Any, text: str) -> tuple[int, int]:
    """A text's number of tokens, uncut, and how many the tokenizer adds."""
    if hasattr(tokenizer, "encode"):  # CLIP's own
        return len(tokenizer.encode(text)), 2
    clean, inner = getattr(tokenizer, "clean_fn", str), tokenizer.tokenizer
    marks = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else inner.num_special_tokens_to_add()
    return len(inner(clean(text), add_special_tokens=False, verbose=False)["input_ids"]), marks


def _own_tokenizer(open_clip: Any, model: Any) -> Any:
    """CLIP's, which comes with open_clip, where the model has its vocabulary."""
    length = getattr(model, "context_length", None)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=length) if length else None
    fits = tokenizer is not None and getattr(model, "vocab_size", None) == tokenizer.vocab_size
    return tokenizer if fits else None


def _create(open_clip: Any, request: Request, architecture: str, tag: str, published: bool) -> nn.Module:
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    try:
        with quiet_hub(), _quiet_root():
            model: nn.Module = open_clip.create_model(
                architecture,
                pretrained=tag if published else None,
                force_quick_gelu=bool(config.get("quick_gelu", False)),
                force_image_size=request.image_size,
                pretrained_image=False,
                pretrained_text=False,
                force_preprocess_cfg={
                    key: config[key] for key in ("mean", "std", "interpolation", "resize_mode") if config.get(key)
                },
            )
    except Exception as error:  # the hub, timm and torch raise many kinds
        action = "pass --weights FILE, or connect to the network" if published else "check the name and the image size"
        raise ModelError(f"{request.name}: cannot be built ({one_line(error)}); {action}") from error
    return model.eval()


def _converted(open_clip: Any, model: Any, tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights under open_clip's present names, as its own loader does it; as they are where it cannot."""
    state = dict(tensors)
    try:
        state = open_clip.convert.convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = open_clip.convert_to_custom_text_state_dict(state)
        for name in ("logit_scale", "logit_bias"):
            own = getattr(model, name, None)
            if name in state and own is not None and own.ndim != state[name].ndim:
                state[name] = state[name].reshape(own.shape)
        open_clip.model.resize_pos_embed(state, model)
        open_clip.model.resize_text_pos_embed(state, model)
    except Exception:  # of another model: the differences are reported as they are
        return tensors
    converted: Mapping[str, Tensor] = state
    return converted


def _is_vit(open_clip: Any, name: str) -> bool:
    vision = (open_clip.get_model_config(name) or {}).get("vision_cfg", {})
    tower = vision.get("timm_model_name")
    if tower is not None:
        return str(tower).startswith(("vit", "eva"))
    return isinstance(vision.get("layers"), int)


@contextlib.contextmanager
def _quiet_root() -> Iterator[None]:
    """Without what open_clip logs on the root logger, which would also give that logger a handler for good."""
    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(placeholder)


def _nothing(record: logging.LogRecord) -> bool:
    return False
