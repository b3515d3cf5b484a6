"""A memory bank: the features of labelled pictures, through which a model without a classifier can name a class."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitscope.errors import TargetError
from vitscope.models.bundled import FOLDER
from vitscope.once import once
from vitscope.parse import parse_json
from vitscope.targets.names import ClassNames

FAISS_ABOVE = 1_000_000
"""Banks of more pictures are searched by faiss where the extra `faiss` is installed; exactly, either way."""

_SLICE = 2**18
_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """Features of pictures whose classes are known.

    Example:
        >>> bank = MemoryBank.load("scenes-ssl")
        >>> len(bank), len(bank.names)
        (6000, 12)

    Attributes:
        features: (n d), of length 1, float16 or float32.
        labels: (n) int64.
        names: of the classes.
        facts: how it was built: model, preprocessing, dataset; empty where it is unknown.
    """

    features: Tensor
    labels: Tensor
    names: ClassNames
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, names: ClassNames, dtype: torch.dtype = torch.float32) -> MemoryBank:
        """A bank of raw features (n d), which are brought to length 1 and kept in `dtype`.

        Raises:
            TargetError: features and labels differ in number, or a label has no name.
        """
        if features.ndim != 2 or len(features) == 0 or labels.shape != features.shape[:1]:
            raise TargetError(
                f"a bank of features {tuple(features.shape)} and labels {tuple(labels.shape)}; give (n, d) and (n)"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(names):
            raise TargetError(
                f"the bank's labels run from {int(labels.min())} to {int(labels.max())} and {len(names)} classes are "
                "named; give a name for each"
            )
        unit = torch.nn.functional.normalize(features.detach().float(), dim=1)
        return cls(unit.to("cpu", dtype), labels.long().cpu(), names)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MemoryBank:
        """Read a bank from a .safetensors file; "scenes-ssl" is the one that ships in the package.

        Raises:
            TargetError: no such file, or none that `save` wrote.
        """
        file = FOLDER / "scenes-ssl-bank.safetensors" if str(path) == "scenes-ssl" else Path(path)
        try:
            if not file.is_file():
                raise TargetError(
                    f"{file}: no such memory bank; give the file that MemoryBank.save wrote, or scenes-ssl"
                )
            with safe_open(file, framework="pt") as content:
                known = content.metadata() or {}
                names, facts = parse_json(known["names"]), parse_json(known.get("facts", "{}"))
                features, labels = content.get_tensor("features"), content.get_tensor("labels")
            check_bank(features, labels, names, facts)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TargetError(f"{file}: not a memory bank ({error}); write it with MemoryBank.save") from error
        return cls(features, labels.long(), ClassNames(tuple(names)), facts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank as one .safetensors file, whole or not at all.

        Raises:
            TargetError: it cannot be written.
        """
        file = Path(path)
        known = {"names": json.dumps(self.names.names, ensure_ascii=False), "facts": json.dumps(dict(self.facts))}
        tensors = {"features": self.features.contiguous(), "labels": self.labels.contiguous()}
        passing = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            save_file(tensors, passing, metadata=known)
            passing.chmod(0o644)  # safetensors writes for the owner alone
            passing.replace(file)
        except (OSError, SafetensorError) as error:
            raise TargetError(f"{file}: cannot be written ({error}); choose another place") from error
        finally:
            passing.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self.features)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process is given: not what can be found again."""
        return {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}

    @once
    def _kept(self) -> dict[Any, Any]:
        """What is found once: the index of a search, and `typical` by its arguments."""
        return {}

    def nearest(self, features: Tensor, k: int = 20) -> tuple[Tensor, Tensor]:
        """The k most similar pictures of the bank.

        Args:
            features: (b d), of any length.
            k: how many; no more than the bank holds.

        Returns:
            Cosine similarities (b k), falling, and indices into the bank (b k).

        Raises:
            TargetError: features of another width, or a k that the bank cannot give.
        """
        if features.ndim != 2 or features.shape[1] != self.features.shape[1]:
            raise TargetError(
                f"features {tuple(features.shape)} for a bank of width {self.features.shape[1]}; "
                "use the model that the bank was built with"
            )
        if not 1 <= k <= len(self):
            raise TargetError(f"k={k} neighbours of a bank of {len(self)}; give 1 to {len(self)}")
        queries = torch.nn.functional.normalize(features.float(), dim=1)
        if len(self) > FAISS_ABOVE and (library := _faiss()) is not None:
            if "faiss" not in self._kept:
                self._kept["faiss"] = _faiss_index(library, self)
            _, rows = self._kept["faiss"].search(queries.detach().cpu().numpy(), k)
            index = torch.from_numpy(rows).to(queries.device)
            return (queries[:, None] * self.of_found(self.features, index).to(queries)).sum(dim=-1), index
        best: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(self), _SLICE):  # the bank is never whole in float32
            part = self.features[start : start + _SLICE].to(queries)
            similar, index = (queries @ part.T).topk(min(k, len(part)), dim=1)
            best.append((similar, index + start))
        similar, order = torch.cat([similar for similar, _ in best], dim=1).topk(k, dim=1)
        return similar, torch.cat([index for _, index in best], dim=1).gather(1, order)

    def typical(self, k: int = 20, sample: int = 1000) -> tuple[float, float]:
        """How close a bank's own pictures are to their k nearest others, and how often these vote rightly; found once.

        Args:
            k: how many neighbours; no more than the bank holds less one.
            sample: at most so many pictures are asked, evenly spread.

        Returns:
            The mean cosine to the k nearest that 99 % of the pictures have at least; the share whose class is voted.

        Raises:
            TargetError: the bank holds a single picture.
        """
        if len(self) < 2:
            raise TargetError("a bank of one picture has no neighbours; build it from more")
        k = min(k, len(self) - 1)
        known: tuple[float, float] | None = self._kept.get((k, sample))
        if known is not None:
            return known
        asked = torch.linspace(0, len(self) - 1, min(sample, len(self))).long()
        similar, index = self.nearest(self.features[asked].float(), k + 1)
        other = index != asked[:, None]
        other[other.all(dim=1), -1] = False  # a twin came first: leave out the last instead
        similar, index = similar[other].view(-1, k), index[other].view(-1, k)
        right = (self.votes_of(similar, index).argmax(dim=1) == self.labels[asked]).float().mean()
        found = float(similar.mean(dim=1).quantile(0.01)), float(right)
        self._kept[k, sample] = found
        return found

    def vote(self, features: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
        """What the neighbours say, weighted by exp(similarity / temperature): the kNN classifier's probabilities.

        Args:
            features: (b d).
            k: how many neighbours vote.
            temperature: the smaller, the more the nearest ones count.

        Returns:
            (b classes), rows sum to 1.

        Source: Wu et al. 2018 (1805.01978), section 3.4; k and temperature as in DINO (2104.14294).
        """
        return self.votes_of(*self.nearest(features, k), temperature)

    def votes_of(self, similar: Tensor, index: Tensor, temperature: float = 0.07) -> Tensor:
        """As `vote`, of neighbours that `nearest` has found: their cosines (b k) and indices (b k)."""
        weight = (similar / temperature).softmax(dim=1)
        votes = weight.new_zeros(len(weight), len(self.names))
        return votes.scatter_add_(1, self.of_found(self.labels, index), weight)

    @staticmethod
    def of_found(rows: Tensor, index: Tensor) -> Tensor:
        """The features (b k d) or labels (b k) of neighbours (b k), on their device; no other row leaves the bank."""
        return rows[index.to(rows.device)].to(index.device)


def check_bank(features: Tensor, labels: Tensor, names: Any, facts: Any) -> None:
    """Raise ValueError where these, read from a file, are no memory bank's."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(facts, dict):
        raise ValueError("its class names are no list, or its facts no object")
    if features.ndim != 2 or 0 in features.shape or labels.shape != features.shape[:1]:
        raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)}")
    if features.dtype not in _KINDS or labels.dtype not in _WHOLE:
        raise ValueError(f"features of {features.dtype} and labels of {labels.dtype}")
    if not features.sum(dtype=torch.float32).isfinite():
        raise ValueError("features that are not finite")
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}, and {len(names)} class names")


def _faiss() -> Any:
    """The faiss library, or None where the extra is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _faiss_index(library: Any, bank: MemoryBank) -> Any:
    """The index of an exact search by inner product."""
    index = library.IndexFlatIP(bank.features.shape[1])
    for start in range(0, len(bank), _SLICE):
        index.add(bank.features[start : start + _SLICE].float().numpy())
    return index
