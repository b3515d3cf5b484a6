"""transformers' models: a directory made by `save_pretrained`, or a repository of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import ModelError, nearest
from vitscope.images import Preprocessing
from vitscope.models.loaded import Loaded, Request, library, one_line, own_names, quiet_hub, tell_cut
from vitscope.models.sources import from_timm
from vitscope.models.sources.translate import of_processor
from vitscope.models.weights import clause, misfit, outputs_in
from vitscope.parse import parse_json

EXAMPLES = (
    "google/vit-base-patch16-224",
    "facebook/deit-base-distilled-patch16-224",
    "facebook/dino-vits16",
    "facebook/dinov2-base",
    "facebook/vit-mae-base",
    "microsoft/beit-base-patch16-224",
    "microsoft/swin-tiny-patch4-window7-224",
    "openai/clip-vit-base-patch32",
    "google/siglip-base-patch16-224",
)
"""Well-known repositories; any other of these families is loaded as well."""


def names() -> list[str]:
    """Examples of repositories, without "hf/"."""
    return list(EXAMPLES)


def load(request: Request) -> Loaded:
    """A picture model of transformers, by its config's own class.

    A classifier where the config's architectures name one, else the bare model; of CLIP and SigLIP both towers. A
    ViT-MAE hides no patch. Code from the repository is never run. The weights are float32; attention goes through
    `scaled_dot_product_attention` where the family can.

    Raises:
        ModelError: transformers is missing, no such directory or repository, a config that is no picture model's,
            damaged, missing or ill-fitting weights, or no hub within reach.
    """
    folder = Path(request.rest).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{request.name}: the directory has no config.json; give one made by save_pretrained")
        if from_timm.is_directory(folder):
            return from_timm.load_directory(request, folder)
    elif request.rest.startswith((".", "~", "/")) or request.rest.count("/") > 1:
        raise ModelError(f"{request.name}: no such directory; check the path")
    elif "/" not in request.rest:
        raise ModelError(f"{request.name}: neither a directory nor OWNER/NAME; say e.g. hf/{EXAMPLES[0]}")
    transformers = library("transformers", request.name)
    where = str(folder) if folder.is_dir() else request.rest
    with _quiet(transformers, bars=not folder.is_dir()):
        config = _config(transformers, where, request)
        if config.model_type == "timm_wrapper":
            return from_timm.load_hub(request, where, getattr(config, "problem_type", None))
        tensors = None if request.read is None else request.read.tensors
        kind, attention = _class_of(transformers, config, tensors, request.name)
        model = _build(kind, config, attention, where, tensors, request)
        preprocessing, reason = _preprocessing(transformers, where, request.name)
    if request.image_size is not None:
        _check_size(model, request.image_size, request.name)
        preprocessing = preprocessing and preprocessing.replaced(size=request.image_size)
    source = f"transformers {transformers.__version__}, {where}"
    return Loaded(model, preprocessing, reason, _names(model), source, _tokenizer(transformers, model, where))


def of_module(model: nn.Module) -> Loaded | None:
    """What a transformers module that was handed over knows of itself; None for any other module.

    Its preprocessing is looked for where it was loaded from (`config._name_or_path`), on this machine only.
    """
    config = getattr(model, "config", None)
    if not type(model).__module__.startswith("transformers.") or config is None:
        return None
    transformers = library("transformers", type(model).__name__)
    if config.model_type == "timm_wrapper":
        inner: Any = model.timm_model
        return Loaded(
            model, Preprocessing.of_model(inner), names=_names(model), source=f"transformers {transformers.__version__}"
        )
    where = str(getattr(config, "_name_or_path", "") or "")
    with _quiet(transformers, bars=False):
        preprocessing, reason = _preprocessing(transformers, where, type(model).__name__, local=True)
    source = f"transformers {transformers.__version__}"
    return Loaded(
        model, preprocessing, reason, _names(model), source, _tokenizer(transformers, model, where, local=True)
    )


def _tokenizer(transformers: Any, model: Any, where: str, local: bool = False) -> Callable[[Sequence[str]], Any] | None:
    """The tokenizer of a model with a text tower, read when it is first asked for."""
    if not hasattr(model, "get_text_features") or not where:
        return None

    def tokens(texts: Sequence[str]) -> Any:
        try:
            with _quiet(transformers, bars=False):
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    where, local_files_only=local, trust_remote_code=False
                )
        except Exception as error:  # the hub and files raise many kinds
            raise ModelError(
                f"{where}: its tokenizer cannot be read ({one_line(error)}); save it beside the model, or give "
                "Explainer(tokenizer=...)"
            ) from error
        config = getattr(model.config, "text_config", model.config)
        limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length))
        for text in texts:
            uncut = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            tell_cut(text, len(uncut), tokenizer.num_special_tokens_to_add(), limit)
        padding = "max_length" if "siglip" in str(model.config.model_type) else True  # as SigLIP was trained
        return tokenizer(list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt")

    return tokens


def _config(transformers: Any, where: str, request: Request) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # the hub, files and configs raise many kinds
        cause = one_line(error)
        if os.path.isdir(where):
            try:
                parse_json((Path(where) / "config.json").read_text(encoding="utf-8"))
            except ValueError as damage:
                raise ModelError(f"{request.name}: config.json is no JSON ({damage}); save the model again") from error
            action = "only models of transformers itself are loaded, and no code from a repository"
        else:
            hint = nearest(request.rest, EXAMPLES)
            action = f"check the name and the network, or give a directory made by save_pretrained{hint}"
        raise ModelError(f"{request.name}: transformers cannot read its config ({cause}); {action}") from error


def _class_of(transformers: Any, config: Any, tensors: dict[str, Tensor] | None, name: str) -> tuple[Any, str]:
    """The model's class and its kind of attention, from an empty shell of the model."""
    outputs = None if tensors is None else outputs_in(tensors)
    classifies = any("ForImageClassification" in str(arch) for arch in config.architectures or ())
    if outputs:
        classifies = True
        if config.num_labels != outputs:
            config.num_labels = outputs
    elif outputs == 0:
        classifies = False
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    projects = "CLIPVisionModelWithProjection" in (config.architectures or ())
    auto = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
    for attention in ("sdpa", "eager"):
        try:
            with torch.device("meta"):
                if projects and not classifies:
                    return transformers.CLIPVisionModelWithProjection, attention
                shell = auto.from_config(config, attn_implementation=attention, trust_remote_code=False)
        except Exception as error:
            if attention == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            raise ModelError(
                f"{name}: transformers cannot build '{config.model_type}' for pictures ({one_line(error)}); give a "
                "model that classifies or encodes pictures"
            ) from error
        if shell.main_input_name != "pixel_values" and not hasattr(config, "vision_config"):
            raise ModelError(f"{name}: {type(shell).__name__} takes no pictures; give a vision transformer")
        return type(shell), attention
    raise AssertionError("unreachable")


def _build(
    kind: Any, config: Any, attention: str, where: str, tensors: dict[str, Tensor] | None, request: Request
) -> nn.Module:
    if tensors is None and not request.pretrained:
        with torch.device("cpu"):
            fresh: nn.Module = kind._from_config(config, attn_implementation=attention, dtype=torch.float32)
        return fresh.eval()
    model, info = _fill(kind, config, attention, where, tensors, request)
    missing = sorted(info["missing_keys"])
    if missing and all("pooler." in key for key in missing):  # DINO's and others' files come without the unused pooler
        model, info = _fill(kind, config, attention, where, tensors, request, add_pooling_layer=False)
        missing = sorted(info["missing_keys"])
    unknown = sorted(info["unexpected_keys"]) if tensors is not None else []  # a repository may hold a decoder as well
    shapes = [f"{key} {tuple(have)} for {tuple(want)}" for key, have, want in sorted(info["mismatched_keys"])]
    differences = [
        clause(found, what)
        for what, found in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if found
    ]
    if differences:
        source = where if request.read is None else request.read.label
        raise ModelError(misfit(source, f"{request.name} ({kind.__name__})", differences))
    return model.eval()


def _fill(
    kind: Any,
    config: Any,
    attention: str,
    where: str,
    tensors: dict[str, Tensor] | None,
    request: Request,
    **options: bool,
) -> tuple[nn.Module, dict[str, Any]]:
    """The model with the weights of the file or the repository, by transformers' own loader and its renamings."""
    try:
        return kind.from_pretrained(  # type: ignore[no-any-return]
            None if tensors is not None else where,
            config=config,
            state_dict=None if tensors is None else dict(tensors),
            attn_implementation=attention,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:  # the hub, safetensors, torch and transformers raise many kinds
        action = (
            "check that the files are whole" if os.path.isdir(where) else "pass --weights FILE, or connect to the hub"
        )
        raise ModelError(f"{request.name}: its weights cannot be loaded ({one_line(error)}); {action}") from error


def _preprocessing(transformers: Any, where: str, name: str, local: bool = False) -> tuple[Preprocessing | None, str]:
    """The image processor's work, or the reason why it cannot be had."""
    auto = transformers.AutoImageProcessor
    advice = "save its image processor into the same directory, or give preprocessing= of your own"
    if not where:
        return None, f"{name}: how its pictures are prepared is unknown; give preprocessing= of your own"
    try:
        options = {"trust_remote_code": False, "local_files_only": local}
        try:
            processor = auto.from_pretrained(where, backend="pil", **options)
        except (ImportError, ValueError):  # a family with a torchvision processor only
            processor = auto.from_pretrained(where, **options)
    except Exception as error:
        files = ("preprocessor_config.json", "processor_config.json")
        if os.path.isdir(where) and not any((Path(where) / file).is_file() for file in files):
            return None, f"{name}: how its pictures are prepared is unknown: it has no {files[0]}; {advice}"
        return None, f"{name}: its image processor cannot be read ({one_line(error)}); {advice}"
    try:
        return of_processor(processor, name), ""
    except ModelError as error:
        return None, str(error)


def _names(model: nn.Module) -> tuple[str, ...]:
    """Only a classifier's labels are names of its outputs."""
    return own_names(model) if "ForImageClassification" in type(model).__name__ else ()


def _check_size(model: Any, size: tuple[int, int], name: str) -> None:
    """Raise a ModelError where the model does not take pictures of `size`."""
    config = getattr(model.config, "vision_config", model.config)
    own = getattr(config, "image_size", None)
    if own in (size, list(size), size[0] if size[0] == size[1] else None):
        return
    taker = getattr(model, "vision_model", None) if hasattr(model.config, "vision_config") else model
    try:
        with torch.inference_mode():
            (taker or model)(pixel_values=torch.zeros(1, int(config.num_channels), *size))
    except Exception as error:
        raise ModelError(
            f"{name}: does not take pictures of {size[0]} x {size[1]} pixels ({one_line(error)}); its size is {own}"
        ) from error


@contextlib.contextmanager
def _quiet(transformers: Any, bars: bool) -> Iterator[None]:
    """Without transformers' reports, which become errors here, and without its bars where nothing is downloaded."""
    logging = transformers.utils.logging
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        with quiet_hub():
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
