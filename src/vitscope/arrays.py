"""Tensors as NumPy arrays: what is drawn and written is computed in NumPy, whose operations start no threads.

torch splits even small operations over its thread pool. Beside a model's pass that costs nothing; between thousands of
them, on a machine that does something else as well, each waits for the slowest of its threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def as_array(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    """The values on the CPU, detached: float64 stays float64, everything else becomes float32.

    Shares its memory with `values` where nothing is converted.
    """
    if isinstance(values, Tensor):
        plain = values.detach().cpu()
        values = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()  # NumPy has no bfloat16
    array = np.asarray(values)
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
