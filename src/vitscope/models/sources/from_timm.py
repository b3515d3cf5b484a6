"""timm's models: by name, or from a directory that timm's `save_for_hf` wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from vitscope.activation import activation_of_problem
from vitscope.errors import ModelError, nearest
from vitscope.images import Preprocessing
from vitscope.models.bundled import BUNDLED
from vitscope.models.loaded import Loaded, Request, one_line, own_names, quiet_hub
from vitscope.models.weights import outputs_in, put_weights
from vitscope.parse import parse_json

FILES = (
    "vision_transformer",
    "deit",
    "beit",
    "eva",
    "cait",
    "xcit",
    "convit",
    "crossvit",
    "levit",
    "pvt_v2",
    "swin_transformer",
    "swin_transformer_v2",
    "maxxvit",
    "hiera",
)
"""timm's files of vision transformers."""


def names() -> list[str]:
    """The names of timm's vision transformers, without "timm/"."""
    return [name for file in FILES for name in timm.list_models(module=file)]


def known(architecture: str) -> bool:
    """Whether timm has a model of this name; a tag after a dot may follow it."""
    return bool(architecture) and bool(timm.is_model(architecture.split(".")[0]))


def load(request: Request) -> Loaded:
    """A model of timm's registry.

    Raises:
        ModelError: unknown name, ill-fitting weights, or no hub within reach.
    """
    if not known(request.rest):
        hint = nearest(request.rest, [*timm.list_models(), *BUNDLED])
        raise ModelError(f"{request.name}: timm has no such model{hint or '; see vitscope models'}")
    return _build(request, request.rest)


def is_directory(folder: Path) -> bool:
    """Whether the folder holds a timm model: a config.json that names an "architecture"."""
    return isinstance(_config(folder).get("architecture"), str)


def _config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; empty where it is no JSON object."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def load_directory(request: Request, folder: Path) -> Loaded:
    """A model that timm's `save_for_hf`, or transformers' TimmWrapper, wrote: config.json and model.safetensors.

    config.json names an "architecture"; transformers also writes "problem_type", which declares the activation.

    Raises:
        ModelError: the files are damaged, or ill-fitting weights.
    """
    loaded = _build(request, f"local-dir:{folder}")
    return replace(loaded, activation=activation_of_problem(_config(folder).get("problem_type")))


def load_hub(request: Request, repository: str, problem_type: str | None = None) -> Loaded:
    """A timm model in a repository of the hub ("OWNER/NAME"); `problem_type` as its transformers config has it.

    Raises:
        ModelError: no hub within reach, or ill-fitting weights.
    """
    loaded = _build(request, f"hf-hub:{repository}")
    return replace(loaded, activation=activation_of_problem(problem_type))


def _build(request: Request, architecture: str) -> Loaded:
    options: dict[str, Any] = {} if request.image_size is None else {"img_size": request.image_size}
    weights = request.read
    outputs = None if weights is None else outputs_in(weights.tensors)
    if outputs is not None:
        options["num_classes"] = outputs
    pretrained = request.pretrained and weights is None
    try:
        with quiet_hub():
            model = timm.create_model(architecture, pretrained=pretrained, **options)
    except Exception as error:  # timm and the hub raise many kinds; each becomes one line with the cause kept
        action = "check the name and the image size"
        if architecture.startswith("local-dir:"):
            action = "check that the directory's config.json and weights belong together"
        elif pretrained:
            action = "pass --weights FILE, or connect to the hub"
        raise ModelError(f"{request.name}: cannot be built ({one_line(error)}); {action}") from error
    if weights is not None:
        put_weights(model, weights.tensors, weights.label, request.name)
    model.eval()
    return Loaded(model, Preprocessing.of_model(model), names=own_names(model), source=f"timm {timm.__version__}")
