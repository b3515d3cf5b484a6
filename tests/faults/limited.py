"""Work within a limit of the process's memory: `python -m tests.faults.limited MIB PICTURES SIZE`; prints JSON.

The limit is set beyond what the process holds once the model is loaded; the system refuses more (RLIMIT_DATA).
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from pathlib import Path

import torch

from vitscope import Explainer, VitscopeError
from vitscope.images import prepare


def main(mebibytes: int, pictures: int, size: int) -> None:
    """See the module."""
    said: list[str] = []
    log = logging.getLogger("vitscope.passes")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    explainer = Explainer("scenes", preprocessing={"size": (size, size)})
    images = torch.randn(pictures, 3, size, size, generator=torch.Generator().manual_seed(0))
    explainer(images[:2], "cdam,daam")
    batch = prepare(images, explainer.preprocessing)
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    limit = int(held.split()[1]) * 1024 + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    found = {"said": said, "error": "", "same": False}
    try:
        explanation = explainer(batch, "cdam,daam")
    except VitscopeError as error:
        found["error"] = str(error)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        whole = explainer(images[-8:], "cdam,daam")
        found["same"] = all(
            torch.allclose(explanation[name].values[-8:], whole[name].values, atol=1e-4) for name in ("cdam", "daam")
        )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
