"""Files of weights, of safetensors and torch, and the folders of transformers and timm."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
from collections import OrderedDict
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from tools.fuzz.judge import Case
from tools.fuzz.mutate import VALUES, json_text, some_bytes, some_json
from torch import nn

from vitscope.models.weights import outputs_in, put_weights, read_weights


class Checkpoints:
    """`read_weights`, `outputs_in` and `put_weights`."""

    def prepare(self, folder: Path) -> None:
        """A small model, of which nothing is written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._model = folder, small()

    def case(self, chance: Random) -> Case:
        """A file with faults in its bytes, in its header, or in what it holds."""
        kind = chance.choice(("bytes", "header", "content", "content"))
        ending = chance.choice((".safetensors", ".pth"))
        files = valid_files()
        if kind == "header":
            return Case(kind, {"w.safetensors": other_header(files["plain.safetensors"], chance)})
        if kind == "content":
            return Case(kind, {f"w{ending}": other_content(ending, chance)})
        name = chance.choice([name for name in files if name.endswith(ending)])
        return Case(kind, {f"w{ending}": some_bytes(files[name], chance, list(files.values()))})

    def call(self, case: Case) -> None:
        """Read the weights, and put them into the model."""
        ((name, content),) = case.files.items()
        file = self._folder / name
        file.write_bytes(content)
        tensors = read_weights(file).tensors
        outputs = outputs_in(tensors)
        assert outputs is None or outputs >= 0
        put_weights(self._model, tensors, str(file), "the model")


def small() -> nn.Module:
    """A vision transformer whose weights are some kilobytes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(img_size=8, patch_size=4, embed_dim=4, depth=1, num_heads=2, num_classes=3)


@cache
def valid_files() -> dict[str, bytes]:
    """The model's weights as people save them."""
    weights = small().state_dict()

    def torch_file(content: Any, **options: Any) -> bytes:
        out = io.BytesIO()
        torch.save(content, out, **options)
        return out.getvalue()

    return {
        "plain.safetensors": save(weights, {"format": "pt"}),
        "plain.pth": torch_file(weights),
        "old.pth": torch_file(weights, _use_new_zipfile_serialization=False),
        "training.pth": torch_file({"model": weights, "epoch": 3, "args": {"lr": 0.1}, "best": None}),
        "wrapped.pth": torch_file({"state_dict": {f"module.{name}": one for name, one in weights.items()}}),
        "code.pth": torch_file({"model": weights, "args": argparse.Namespace(lr=0.1)}),
        "pickle.pth": pickle.dumps({"model": [1, 2, 3]}),
    }


def other_header(content: bytes, chance: Random) -> bytes:
    """A file of safetensors whose header, of the right length, tells other names, types, shapes or places."""
    (length,) = struct.unpack_from("<Q", content)
    header = some_json(json.loads(content[8 : 8 + length]), chance)
    if isinstance(header, dict) and header and chance.random() < 0.5:
        name = chance.choice(list(header))
        header[name] = {
            "dtype": chance.choice(("F32", "F16", "I64", "BOOL", "F8_E4M3", "U64", "C64", "?")),
            "shape": chance.choice(([], [0], [1], [4], [2, 2], [2**40, 2**40], [-1], [2**63], [1] * 70)),
            "data_offsets": chance.choice(([0, 0], [0, 16], [16, 0], [0, 2**60], [8, 12])),
        }
    text = json_text(header, chance).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def other_content(ending: str, chance: Random) -> bytes:
    """A whole file of what is not the model's weights."""
    weights: dict[str, Any] = dict(small().state_dict())
    for _ in range(chance.randrange(4)):
        name = chance.choice(list(weights))
        kind = chance.randrange(7)
        if kind == 0:
            weights[name] = chance.choice(odd_tensors(ending))
        elif kind == 1:
            del weights[name]
        elif kind == 2:
            weights[chance.choice(("head.weight", "head.fc.weight", "", "a" * 300, "ü\n", "blocks.7.x"))] = weights[
                name
            ]
        elif kind == 3 and is_plain(weights[name]):
            weights[name] = weights[name].float().repeat([2] * max(1, weights[name].ndim))
        elif kind == 4:
            prefix = chance.choice(("module.", "model.", "x"))
            weights = {f"{prefix}{key}": one for key, one in weights.items()}
        elif kind == 5 and is_plain(weights[name]):
            weights[name] = torch.full_like(weights[name], chance.choice((float("nan"), float("inf"), 0)))
        elif kind == 6 and ending == ".pth":
            weights[chance.choice((name, 7, None, ("a", 1), "model", "state_dict"))] = chance.choice(VALUES)()
        if not weights:
            break
    if ending == ".safetensors":
        kept = {name: one.contiguous().clone() for name, one in weights.items()}
        return save(kept, chance.choice((None, {"a": "b"})))
    content = chance.choice(
        (
            lambda: weights,
            lambda: OrderedDict(weights),
            lambda: {chance.choice(("state_dict", "model", "teacher", 3)): weights},
            lambda: {"model": {"model": {"model": weights}}},
            lambda: list(weights.items()),
            lambda: next(iter(weights.values()), None),
            lambda: chance.choice(VALUES)(),
            lambda: {"model": chance.choice(VALUES)()},
            lambda: small() if chance.random() < 0.5 else {1, 2},
        )
    )()
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def is_plain(value: Any) -> bool:
    """Whether it is a tensor of numbers that arithmetic takes."""
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and not value.is_sparse


def odd_tensors(ending: str) -> list[torch.Tensor]:
    """Tensors that no weight is."""
    plain = [
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(3, 4, dtype=torch.int64),
        torch.zeros(3, 4, dtype=torch.bool),
        torch.zeros(3, 4, dtype=torch.float8_e4m3fn),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros([1] * 9),
    ]
    if ending == ".safetensors":
        return plain
    sparse = torch.eye(4).to_sparse()
    quantized = torch.quantize_per_tensor(torch.zeros(3, 4), 0.1, 0, torch.qint8)
    return [*plain, sparse, quantized, torch.zeros(3, 4, device="meta"), nn.Parameter(torch.zeros(3, 4))]
