"""`vitscope doctor`: versions, devices, attention kernels, optional extras."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

import torch
from timm.layers import use_fused_attn

from vitscope.cli import common

PACKAGES = ("vitscope", "torch", "torchvision", "timm", "numpy", "pillow", "matplotlib", "safetensors")


def doctor(json: common.Json = False) -> None:
    """Say what vitscope finds on this machine."""
    findings = _findings()
    if json:
        common.tell_json(findings)
        return
    for subject, facts in findings.items():
        common.tell(f"{subject}:")
        for key, value in facts.items():
            common.tell(f"  {key:<26} {value}")


def _findings() -> dict[str, dict[str, Any]]:
    cuda = torch.cuda.is_available()
    extras = metadata("vitscope").get_all("Provides-Extra") or []
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "devices": {
            "cpu threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if cuda else "none",
            "mps": "yes" if torch.backends.mps.is_available() else "none",
        },
        "attention kernels": {
            "timm uses the fused kernel": bool(use_fused_attn()),
            "flash": torch.backends.cuda.flash_sdp_enabled() if cuda else "CPU: torch's own fused kernel",
            "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled() if cuda else "CPU: not used",
        },
        "optional extras": {extra: _extra(extra) for extra in extras},
    }


def _extra(extra: str) -> str:
    """Whether an extra's packages are installed, or what would install them."""
    wanted = [need for need in requires("vitscope") or [] if f"extra == '{extra}'" in need.replace('"', "'")]
    names = [re.split(r"[ ;<>=!~\[(]", need, maxsplit=1)[0] for need in wanted]
    missing = [name for name in names if _version(name) == "not installed"]
    return f"missing {', '.join(missing)}: pip install 'vitscope[{extra}]'" if missing else "installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
