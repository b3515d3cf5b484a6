"""What vitscope finds on this machine, and what of it will give trouble."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from timm.layers import use_fused_attn

import vitscope
from vitscope.datasets import CLASSES, Scenes
from vitscope.errors import ModelError, VitscopeError
from vitscope.explainer import Explainer
from vitscope.models import PRECISIONS, Running

NOT_INSTALLED = "not installed"
SHARED = "/dev/shm"  # nosec B108  # asked how much room it has; nothing is written there
LITTLE_SHARED = 256 * 2**20
"""Bytes of shared memory below which the processes that read pictures may fail."""
LITTLE_DISK = 2**30
SCENE = Scenes(100, "one", seed=31)[0]
METHODS = "daam,agcam,cdam"


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        facts: subject -> what -> finding, ready for JSON.
        troubles: what will go wrong, one line each, with what to do.
        sound: whether vitscope itself does on this machine what it should.
    """

    facts: Mapping[str, Mapping[str, Any]]
    troubles: tuple[str, ...]
    sound: bool


def diagnose() -> Diagnosis:
    """Look at the installation, the machine and torch, and explain a bundled scene with the bundled model."""
    troubles = [*_ill_fitting(), *_little_room()]
    try:
        check, sound = _self_check(), True
    except Exception as error:  # whatever it is: this is where it is to be told
        check, sound = {"failed": f"{type(error).__name__}: {error}"}, False
        troubles.append(f"the bundled model is not explained as it should be ({error}); reinstall vitscope and torch")
    facts = {
        "installation": _installation(),
        "versions": {name: _version(name) for name in ("vitscope", *sorted(_needs()))},
        "machine": _machine(),
        "devices": _devices(),
        "attention kernels": _kernels(),
        "precisions": {name: _where(name) for name in PRECISIONS},
        "downloads": _downloads(),
        "optional extras": {extra: _extra(extra) for extra in metadata("vitscope").get_all("Provides-Extra") or []},
        "self-check": check,
    }
    return Diagnosis(facts, tuple(troubles), sound)


def _installation() -> dict[str, Any]:
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "vitscope lies in": str(Path(vitscope.__file__).parent),
        "system": platform.platform(),
    }


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    return {
        "CPU cores": cores,
        "CPU threads of torch": torch.get_num_threads(),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "memory": _size(_memory()),
        "shared memory, free": _size(_free(SHARED)),
        "temporary files": f"{tempfile.gettempdir()}, {_size(_free(tempfile.gettempdir()))} free",
        "C++ compiler (--compile)": compiler or "none",
    }


def _devices() -> dict[str, Any]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = {
        f"cuda:{index}": f"{torch.cuda.get_device_name(index)}, "
        f"{_size(torch.cuda.get_device_properties(index).total_memory)}"
        for index in range(count)
    }
    return {
        **(cuda or {"cuda": "none"}),
        "torch is built for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "mps": "yes" if torch.backends.mps.is_available() else "none",
    }


def _kernels() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "timm uses the fused kernel": bool(use_fused_attn()),
        "flash": torch.backends.cuda.flash_sdp_enabled() if cuda else "CPU: torch's own fused kernel",
        "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled() if cuda else "CPU: not used",
    }


def _where(precision: str) -> str:
    """The devices that have a precision."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return ", ".join(device for device in devices if _has(precision, device)) or "none"


def _has(precision: Any, device: str) -> bool:
    try:
        Running(precision).check(torch.nn.Linear(1, 1).to(device))
    except ModelError:
        return False
    return True


def _downloads() -> dict[str, Any]:
    """Where weights come from, and where they are kept."""
    from huggingface_hub import constants  # timm's own dependency

    return {
        "Hugging Face's cache": f"{constants.HF_HUB_CACHE} ({_models_in(Path(constants.HF_HUB_CACHE))})",
        "Hugging Face's hub": "off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "asked where the cache has not",
        "torch.hub's cache": torch.hub.get_dir(),
    }


def _models_in(cache: Path) -> str:
    count = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    return f"{count} models"


def _self_check() -> dict[str, Any]:
    """The bundled model on a drawn scene.

    Raises:
        VitscopeError: it is read otherwise than described, or does not know its scene.
    """
    begun = time.perf_counter()
    explainer = Explainer("scenes")
    explanation = explainer([SCENE.image], METHODS)
    predicted = int(explanation.logits[0].argmax())
    if predicted != SCENE.labels[0]:
        raise VitscopeError(f"it takes a {CLASSES[SCENE.labels[0]]} for a {CLASSES[predicted]}")
    return {
        "bundled model": f"knows its scene ({CLASSES[predicted]})",
        "its description": f"holds to {explainer.description_error:.0e}",
        METHODS: f"explained; {time.perf_counter() - begun:.1f} s with loading",
    }


def _ill_fitting() -> list[str]:
    """Packages that are not as vitscope needs them."""
    found = {name: _version(name) for name in _needs()}
    return [
        f"{name} {'is' if found[name] == NOT_INSTALLED else 'of version'} {found[name]}, and vitscope needs "
        f"{need.specifier}; pip install '{name}{need.specifier}'"
        for name, need in _needs().items()
        if found[name] == NOT_INSTALLED or not need.specifier.contains(found[name], prereleases=True)
    ]


def _little_room() -> list[str]:
    found = []
    shared, disk = _free(SHARED), _free(tempfile.gettempdir())
    if shared is not None and shared < LITTLE_SHARED:
        found.append(
            f"little shared memory ({_size(shared)} free): processes that read pictures may fail; give --workers 0, or "
            "start the container with --shm-size=1g"
        )
    if disk is not None and disk < LITTLE_DISK:
        found.append(f"little room for temporary files ({_size(disk)} free); set TMPDIR to another disk")
    return found


def _needs() -> dict[str, Requirement]:
    """The packages of a plain installation."""
    every = [Requirement(one) for one in requires("vitscope") or []]
    return {one.name: one for one in every if one.marker is None}


def _extra(extra: str) -> str:
    """Whether an extra's packages are installed, or what would install them."""
    every = [Requirement(one) for one in requires("vitscope") or []]
    wanted = [one.name for one in every if one.marker is not None and one.marker.evaluate({"extra": extra})]
    missing = [name for name in wanted if _version(name) == NOT_INSTALLED]
    return f"missing {', '.join(missing)}: pip install 'vitscope[{extra}]'" if missing else "installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def _memory() -> int | None:
    """Bytes of the machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _free(folder: str) -> int | None:
    """Bytes that are free where a folder lies."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
