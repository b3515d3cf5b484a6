"""A memory bank: the features of labelled pictures, through which a model without a classifier can name a class."""

from __future__ import annotations

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
from vitscope.targets.names import ClassNames

FAISS_ABOVE = 1_000_000
"""Banks of more pictures are searched by faiss where the extra `faiss` is installed; exactly, either way."""

_SLICE = 2**18


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """Features of pictures whose classes are known.

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
        _check(features, labels, names)
        unit = torch.nn.functional.normalize(features.detach().float(), dim=1)
        return cls(unit.to("cpu", dtype), labels.long().cpu(), names)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MemoryBank:
        """Read a bank from a .safetensors file; "scenes-ssl" is the one that ships in the package.

        Raises:
            TargetError: no such file, or none that `save` wrote.
        """
        file = FOLDER / "scenes-ssl-bank.safetensors" if str(path) == "scenes-ssl" else Path(path)
        if not file.is_file():
            raise TargetError(f"{file}: no such memory bank; give the file that MemoryBank.save wrote, or scenes-ssl")
        try:
            with safe_open(file, framework="pt") as content:
                known = content.metadata() or {}
                names, facts = json.loads(known["names"]), json.loads(known.get("facts", "{}"))
                tensors = content.get_tensor("features"), content.get_tensor("labels")
                if not isinstance(names, list) or not isinstance(facts, dict):
                    raise ValueError("its names are no list, or its facts no table")
                bank = cls(*tensors, ClassNames(tuple(map(str, names))), facts)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TargetError(
                f"{file}: not a memory bank ({str(error).splitlines()[0]}); write it with MemoryBank.save"
            ) from error
        try:
            _check(bank.features, bank.labels, bank.names)
        except TargetError as error:
            raise TargetError(f"{file}: {error}") from error
        return bank

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
            index = _search_with_faiss(library, self, queries, k)
            return (queries[:, None] * self.features[index.cpu()].to(queries)).sum(dim=-1), index
        best: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(self), _SLICE):  # the bank is never whole in float32
            part = self.features[start : start + _SLICE].to(queries)
            similar, index = (queries @ part.T).topk(min(k, len(part)), dim=1)
            best.append((similar, index + start))
        similar, order = torch.cat([similar for similar, _ in best], dim=1).topk(k, dim=1)
        return similar, torch.cat([index for _, index in best], dim=1).gather(1, order)

    def typical(self, k: int = 20, sample: int = 1000) -> tuple[float, float]:
        """How close a bank's own pictures are to their k nearest others, and how often these vote rightly.

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
        asked = torch.linspace(0, len(self) - 1, min(sample, len(self))).long()
        similar, index = self.nearest(self.features[asked].float(), k + 1)
        other = index != asked[:, None]
        other[other.all(dim=1), -1] = False  # a twin came first: leave out the last instead
        similar, index = similar[other].view(-1, k), index[other].view(-1, k)
        votes = torch.zeros(len(asked), len(self.names))
        votes.scatter_add_(1, self.labels[index], (similar / 0.07).softmax(dim=1))
        right = (votes.argmax(dim=1) == self.labels[asked]).float().mean()
        return float(similar.mean(dim=1).quantile(0.01)), float(right)

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
        similar, index = self.nearest(features, k)
        weight = (similar / temperature).softmax(dim=1)
        votes = weight.new_zeros(len(weight), len(self.names))
        return votes.scatter_add_(1, self.labels.to(index.device)[index], weight)


def _check(features: Tensor, labels: Tensor, names: ClassNames) -> None:
    """Raise TargetError where they are no bank's."""
    if features.ndim != 2 or len(features) == 0 or labels.shape != features.shape[:1]:
        raise TargetError(
            f"a bank of features {tuple(features.shape)} and labels {tuple(labels.shape)}; give (n, d) and (n)"
        )
    if labels.is_floating_point() or not features.is_floating_point():
        raise TargetError(
            f"a bank of {features.dtype} features and {labels.dtype} labels; give floats and whole numbers"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise TargetError(
            f"the bank's labels run from {int(labels.min())} to {int(labels.max())} and {len(names)} classes are "
            "named; give a name for each"
        )


def _faiss() -> Any:
    """The faiss library, or None where the extra is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _search_with_faiss(library: Any, bank: MemoryBank, queries: Tensor, k: int) -> Tensor:
    """Exact search by inner product, (b k)."""
    index = library.IndexFlatIP(bank.features.shape[1])
    for start in range(0, len(bank), _SLICE):
        index.add(bank.features[start : start + _SLICE].float().numpy())
    _, found = index.search(queries.detach().cpu().numpy(), k)
    return torch.from_numpy(found).to(queries.device)
