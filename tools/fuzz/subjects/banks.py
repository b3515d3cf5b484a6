"""Memory banks: their files, the parts that an interrupted build left, and features that do not fit."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from tools.fuzz.judge import Case
from tools.fuzz.mutate import json_text, some_bytes, some_json
from tools.fuzz.subjects.checkpoints import other_header

from vitscope.bank import _join, _open_parts
from vitscope.targets import ClassNames, MemoryBank, Neighbours

FACTS = {"model": {"name": "scenes", "weights": None}, "dataset": {"count": 6}, "pictures": 2000}


class Banks:
    """`MemoryBank.load`, its search, and the parts of `build_bank`."""

    def prepare(self, folder: Path) -> None:
        """Room for one bank and its parts."""
        (folder / "b.parts").mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def case(self, chance: Random) -> Case:
        """A bank or its parts, with faults in bytes, header, metadata or tensors."""
        kind = chance.choice(("bank", "bank", "bank", "parts", "plan"))
        if kind == "plan":
            text = json_text(some_json(FACTS, chance), chance)
            return Case(kind, {"plan.json": text.encode("utf-8", "surrogatepass")})
        valid = valid_bank() if kind == "bank" else valid_part()
        how = chance.randrange(4)
        if how == 0:
            content = some_bytes(valid, chance, [valid_bank(), valid_part()])
        elif how == 1:
            content = other_header(valid, chance)
        else:
            content = other_bank(chance, part=kind == "parts")
        return Case(kind, {"b.safetensors": content})

    def call(self, case: Case) -> None:
        """Read it, and ask for neighbours of some features."""
        ((name, content),) = case.files.items()
        parts = self._folder / "b.parts"
        for left in parts.iterdir():
            left.unlink()
        if case.kind == "bank":
            file = self._folder / name
            file.write_bytes(content)
            use(MemoryBank.load(file))
        elif case.kind == "plan":
            (parts / name).write_bytes(content)
            _open_parts(parts, FACTS)
        else:
            (parts / "000000000.safetensors").write_bytes(content)
            (parts / "000001024.safetensors").write_bytes(valid_part())
            parts_file = self._folder / "joined.safetensors"
            try:
                bank = _join(parts, parts_file, ClassNames(("cat", "dog", "cow")), FACTS).bank
            finally:
                parts.mkdir(exist_ok=True)
            use(bank)


def use(bank: MemoryBank) -> None:
    """All that is asked of a bank."""
    assert len(bank) > 0
    closeness, right = bank.typical()
    assert 0 <= right <= 1
    query = torch.ones(2, bank.features.shape[1])
    votes = bank.vote(query, k=min(2, len(bank)))
    assert votes.shape == (2, len(bank.names))
    assert votes.isfinite().all()
    assert closeness == closeness
    Neighbours(bank, k=min(2, len(bank))).score(query)
    json.dumps(dict(bank.facts))


def tensors_of(count: int = 6) -> dict[str, torch.Tensor]:
    """A bank's."""
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return {"features": torch.nn.functional.normalize(drawn, dim=1).half(), "labels": torch.arange(count) % 3}


@cache
def valid_bank() -> bytes:
    """As `MemoryBank.save` writes it."""
    return save(tensors_of(), {"names": '["cat", "dog", "cow"]', "facts": json.dumps(FACTS)})


@cache
def valid_part() -> bytes:
    """As `build_bank` leaves it."""
    return save(tensors_of(), {"failed": '{"x.png": "x.png: no such file"}'})


def other_bank(chance: Random, part: bool) -> bytes:
    """A whole file of safetensors with other tensors or metadata than a bank has."""
    tensors: dict[str, torch.Tensor] = tensors_of()
    known: dict[str, Any] = {"failed": {}} if part else {"names": ["cat", "dog", "cow"], "facts": FACTS}
    if chance.random() < 0.7:
        name = chance.choice(("features", "labels"))
        tensors[name] = chance.choice(
            (
                torch.zeros(6),
                torch.zeros(0, 4),
                torch.zeros(6, 0),
                torch.zeros(5, 4),
                torch.full((6, 4), float("nan")).half(),
                torch.full((6, 4), float("inf")),
                torch.zeros(6, 4, dtype=torch.int64),
                torch.zeros(6, 4, dtype=torch.bool),
                torch.zeros(6, 4, dtype=torch.float8_e4m3fn),
                torch.zeros(6, 4, dtype=torch.complex64),
                torch.zeros(6, 2, 2),
                torch.tensor(1),
                torch.full((6,), -1),
                torch.full((6,), 3),
                torch.full((6,), 2**62),
                torch.arange(6).float(),
                torch.zeros(6, dtype=torch.bool),
                torch.zeros(0, dtype=torch.int64),
            )
        )
    if chance.random() < 0.2:
        del tensors[chance.choice(list(tensors))]
    if chance.random() < 0.5:
        known = {key: some_json({"at": value}, chance) for key, value in known.items()}
        known = {key: value.get("at") if isinstance(value, dict) else value for key, value in known.items()}
    if chance.random() < 0.1:
        del known[chance.choice(list(known))]
    texts = {key: json_text(value, chance) for key, value in known.items()}
    try:
        return save(tensors, texts)
    except Exception:  # a text that no header holds: written by hand
        header = json.dumps({"__metadata__": texts}).encode()
        return struct.pack("<Q", len(header)) + header
