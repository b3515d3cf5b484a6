"""`vitscope doctor`: versions, devices, attention kernels, optional extras."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
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
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
