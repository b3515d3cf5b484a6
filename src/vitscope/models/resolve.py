"""From a name such as "timm/vit_tiny_patch16_224", "hf/OWNER/NAME" or a directory to a model."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

from vitscope.errors import ModelError, nearest, text_of
from vitscope.images import Preprocessing
from vitscope.models.bundled import BUNDLED, FOLDER, PATCH
from vitscope.models.find import check_kind
from vitscope.models.loaded import Loaded, Request, own_names
from vitscope.models.weights import outputs_in, put_weights, read_weights
from vitscope.models.within import unwrapped

_LOG = logging.getLogger(__name__)


def list_models(pattern: str = "") -> list[str]:
    """Names of vision transformers that `load` takes, those that contain `pattern`, of all sources.

    They can be loaded; whether a model is understood, and which methods apply, `vitscope.describe` tells. open_clip's
    are listed where it is installed; of the Hugging Face hub there are examples, since it cannot be listed offline.
    """
    from vitscope.models.sources import SOURCES  # timm and torchvision, which take long to import

    names = {f"{source}/{name}" for source, of in SOURCES.items() for name in of.names()} | set(BUNDLED)
    return sorted(name for name in names if pattern.lower() in name.lower())


def load(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = True,
    image_size: tuple[int, int] | None = None,
    weights_key: str | None = None,
) -> Loaded:
    """Build the model `name`, in evaluation mode, on the CPU, with its preprocessing and class names.

    Example:
        >>> loaded = load("scenes")
        >>> loaded.preprocessing.size, loaded.names[0]
        ((96, 96), 'red striped disc')

    Args:
        name: a bundled model, such as "scenes" or "scenes-windows"; "timm/NAME" (the prefix may be left out);
            "hf/OWNER/NAME" on the Hugging Face hub or "hf/DIRECTORY"; "torchvision/NAME"; "open_clip/MODEL:PRETRAINED",
            or "open_clip/MODEL" or "t2t/t2t_vit_14" with a file of weights; "hub/dino_vits16" (this runs the code of
            github.com/facebookresearch/dino); or a directory that transformers' `save_pretrained` or timm's
            `save_for_hf` wrote. A directory with the name of a model is meant by "./NAME".
        weights: a .safetensors, .pth or .bin file; the number of classes is taken from it. Of a training checkpoint
            the averaged weights (EMA) are used before the raw ones, as timm's loader does.
        pretrained: where no file is given, use the directory's weights or fetch the published ones (a bundled model's
            are in the package); False leaves random weights.
        image_size: (height, width) in pixels, where it shall differ from the model's own.
        weights_key: of the set of weights to use, where the file has several: "state_dict", say.

    Raises:
        ModelError: unknown name, a missing extra, unreadable or ill-fitting weights, a key that the file does not
            have, a size that the model cannot take, or no hub within reach.
    """
    if weights is None and weights_key is not None:
        raise ModelError(f"weights_key='{weights_key}' is a key in a weights file, and none is given; add weights=")
    from vitscope.models.sources import SOURCES

    first, slash, rest = name.partition("/")
    within = bool(slash) and first in SOURCES
    request = Request(name, rest if within else name, weights, pretrained, image_size, weights_key)
    loaded = _loader(name)(request)
    return dataclasses.replace(loaded, weights_key=None if request.read is None else request.read.key)


def _loader(name: str) -> Callable[[Request], Loaded]:
    """What loads the model of this name.

    Raises:
        ModelError: unknown name.
    """
    from vitscope.models.sources import SOURCES, from_hf, from_timm

    if name in BUNDLED:
        return _bundled
    first, slash, rest = name.partition("/")
    if slash and first in SOURCES:
        if not rest:
            raise ModelError(f"{name}: names a source and no model; say e.g. {SOURCES[first].example}")
        return SOURCES[first].load
    if name in SOURCES["t2t"].names():
        return SOURCES["t2t"].load
    if not slash and from_timm.known(name):
        return from_timm.load
    folder = Path(name).expanduser()
    if folder.is_dir():
        return from_hf.load
    if name.startswith((".", "~", "/")):
        raise ModelError(f"{name}: no such directory; give one that save_pretrained wrote, or a name (vitscope models)")
    if not slash:
        return from_timm.load  # which says what is near
    known = ", ".join(f"{source}/" for source in SOURCES)
    hint = nearest(name, from_hf.EXAMPLES, count=1)
    hint = f"; for a model on the Hugging Face hub say hf/{name}" if name.count("/") == 1 else hint
    raise ModelError(f"{name}: '{first}' is neither a source of models ({known}) nor a directory{hint}")


def load_model(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = True,
    image_size: tuple[int, int] | None = None,
    weights_key: str | None = None,
) -> nn.Module:
    """The module alone that `load` builds; arguments and errors are its."""
    return load(name, weights, pretrained=pretrained, image_size=image_size, weights_key=weights_key).model


def of_module(model: nn.Module, asked: bool = True) -> Loaded:
    """What a module that was handed over knows of its preprocessing and class names.

    timm's and open_clip's modules know both, or the first. A transformers module's processor is looked for where the
    module was loaded from, on this machine only. Where nothing is known, timm's defaults are taken (ImageNet's mean and
    standard deviation, bicubic, the central 87.5 %), at the size the module was built for, with a warning in the log.

    Args:
        model: any module; in torch's own wrappers (DataParallel and kin, torch.compile) the one inside is meant.
        asked: whether the preprocessing is wanted; if not, names and tokenizer alone are given.

    Raises:
        ModelError: it is no module, or one that `check_kind` refuses.
    """
    from vitscope.models.sources import from_hf, from_open_clip

    if not isinstance(model, nn.Module):
        raise ModelError(f"a model must be a torch.nn.Module or a name such as timm/NAME, not {type(model).__name__}")
    model = unwrapped(model)
    check_kind(model)
    found = from_open_clip.of_module(model) or from_hf.of_module(model)
    tokenizer = found.tokenizer if found else None
    if not asked:
        return Loaded(model, None, names=own_names(model), tokenizer=tokenizer)
    if found is None and getattr(model, "pretrained_cfg", None):
        return Loaded(model, Preprocessing.of_model(model), names=own_names(model))
    if found is not None and found.preprocessing is not None:
        return found
    size = _built_for(model)
    reason = found.no_preprocessing if found else ""
    unknown = f"{type(model).__name__}: how its pictures are prepared is unknown; give preprocessing= of your own"
    _LOG.warning("%s; until then timm's defaults are taken", reason or unknown)
    preprocessing = Preprocessing.of_model(model, **({} if size is None else {"size": size}))
    return Loaded(model, preprocessing, names=found.names if found else own_names(model), tokenizer=tokenizer)


def _built_for(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) that the module says it was built for, where it is no timm model."""
    config = getattr(model, "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or getattr(model, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) and len(size) == 2 else None


def _bundled(request: Request) -> Loaded:
    name, size = request.name, request.image_size
    weights = request.read or (read_weights(FOLDER / f"{name}.safetensors") if request.pretrained else None)
    bundled = BUNDLED[name]
    outputs = bundled.outputs if weights is None else outputs_in(weights.tensors) or 0
    if size is not None and any(side < bundled.multiple or side % bundled.multiple for side in size):
        height, width = size
        part = "patch" if bundled.multiple == PATCH else "last cell"
        raise ModelError(
            f"{name}: cannot be built for {height} x {width} pixels; give multiples of its {part}, "
            f"{bundled.multiple} at least"
        )
    try:
        model: nn.Module = bundled.architecture(outputs, **({} if size is None else {"img_size": size}))
    except (RuntimeError, MemoryError) as error:  # a position embedding that no memory holds
        raise ModelError(f"{name}: cannot be built ({text_of(error)}); give a smaller size") from error
    if weights is not None:
        put_weights(model, weights.tensors, weights.label, name)
    model.eval()
    return Loaded(model, Preprocessing.of_model(model), names=own_names(model), source="bundled")
