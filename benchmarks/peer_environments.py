"""An environment for each peer of `benchmarks/peers.py`: the package by pip, torch and the rest as they are here.

The environment sees the packages of the running Python through a .pth file, so that torch is not installed again;
where a peer pins another version of one of them, pip puts that version into the peer's environment, and only it has it.
"""

from __future__ import annotations

import site
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {
    "pytorch-grad-cam": "grad-cam",
    "Captum": "captum",
    "torch-cam": "torchcam",
    "daam-timm-vit": "daam-timm-vit",
    "obzai": "obzai",
}
"""The peers, by their name on PyPI."""

OURS = ("vitscope", "literal")
"""Those that run in this very environment."""


class NotInstalledError(Exception):
    """A peer cannot be installed, with pip's reason."""


def python_of(who: str, folder: Path) -> tuple[str, str]:
    """The interpreter of a peer, and its version; installed first where it is not.

    Raises:
        NotInstalledError: with pip's own last line.
    """
    if who in OURS:
        return sys.executable, ""
    package, home = PACKAGES[who], folder / PACKAGES[who]
    python = home / "bin" / "python"
    done = home / "installed"
    if not done.exists():
        venv.create(home, with_pip=True, clear=True)
        (own,) = home.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        told = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", package], capture_output=True, text=True, check=False
        )
        if told.returncode:
            lines = [line for line in told.stderr.splitlines() if line.startswith("ERROR")]
            raise NotInstalledError((lines or told.stderr.splitlines() or ["pip failed"])[-1])
        done.touch()
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    return str(python), subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
