"""A photograph and smooth maps, drawn here: no file is needed."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def photo(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0:height, 0:width]
    base = np.stack([90 + 120 * rows / height, 60 + 150 * cols / width, np.full((height, width), 140.0)], -1)
    return Image.fromarray(np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8))


def smooth(width: int = 120, height: int = 90, signed: bool = False) -> Tensor:
    rows, cols = np.mgrid[0:height, 0:width]
    x, y = cols / width, rows / height
    hill = np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 0.03)
    dip = np.exp(-((x - 0.25) ** 2 + (y - 0.6) ** 2) / 0.02)
    return torch.tensor(hill - 0.5 * dip if signed else hill + 0.3 * dip, dtype=torch.float32)


def cropped(values: Tensor, left: int = 20, right: int = 20) -> Tensor:
    result = values.clone()
    result[..., :left] = torch.nan
    result[..., result.shape[-1] - right :] = torch.nan
    return result


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)
