"""A memory bank: the features of labelled pictures, through which a model without a classifier can name a class."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitscope.errors import TargetError
from vitscope.models.bundled import FOLDER
from vitscope.targets.names import ClassNames


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """Features of pictures whose classes are known.

    Attributes:
        features: (n d), of length 1, float16 or float32.
        labels: (n) int64.
        names: of the classes.
    """

    features: Tensor
    labels: Tensor
    names: ClassNames

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
        if not file.is_file():
            raise TargetError(f"{file}: no such memory bank; give the file that MemoryBank.save wrote, or scenes-ssl")
        try:
            with safe_open(file, framework="pt") as content:
                names = json.loads((content.metadata() or {})["names"])
                return cls(content.get_tensor("features"), content.get_tensor("labels"), ClassNames(tuple(names)))
        except (SafetensorError, KeyError, ValueError) as error:
            raise TargetError(
                f"{file}: not a memory bank ({str(error).splitlines()[0]}); write it with MemoryBank.save"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank as one .safetensors file."""
        tensors = {"features": self.features.contiguous(), "labels": self.labels.contiguous()}
        save_file(tensors, Path(path), metadata={"names": json.dumps(self.names.names, ensure_ascii=False)})

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
        similar, index = (queries @ self.features.to(queries).T).topk(k, dim=1)
        return similar, index

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
