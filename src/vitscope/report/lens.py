"""The class lens: the evidence of every class, in whichever form takes less room on a page.

- "factors": S_c[n] = <W_c, U[n]>, the effects U of each picture's patches on the features and the classifier W, which
  all pictures share (`Evidence`).
- "maps": the maps themselves, of all classes, or of those with the highest logits where all would take too much.

Both in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import as_array
from vitscope.evidence import Evidence
from vitscope.report.packing import rounded, size_of

MOST = 1_500_000
"""Characters that one picture's lens may take."""


@dataclass(frozen=True, eq=False)
class Lens:
    """The evidence of a batch, for pages.

    Attributes:
        evidence: of every class, where it has a closed form.
        classes: (b k), and
        maps: (b k rows cols), of the classes with the highest logits, where it has not.
        reason: why there is none of either.
    """

    evidence: Evidence | None = None
    classes: Tensor | None = None
    maps: Tensor | None = None
    reason: str = ""

    def record(self, image: int, pictures: int = 1) -> dict[str, Any]:
        """One picture's, ready for JSON: `form` "factors", "maps" or "none", and what belongs to it.

        Args:
            image: which of the batch.
            pictures: how many share one page, and so one classifier.
        """
        if self.evidence is None:
            return self._asked_for(image)
        grid, form = list(self.evidence.effects.shape[1:3]), self._form(pictures)
        effects = as_array(self.evidence.effects[image])
        effects = effects.reshape(-1, effects.shape[-1])  # n F
        if form == "factors":
            return {"form": form, "grid": grid, "effects": rounded(effects)}
        weight = np.eye(effects.shape[1]) if self.evidence.weight is None else as_array(self.evidence.weight)
        if form == "every map":
            return {"form": "maps", "grid": grid, "classes": None, "maps": rounded(weight @ effects.T)}
        count = max(1, MOST // (size_of((1, len(effects))) + 6))
        chosen = np.argsort(-as_array(self.evidence.subject.logits[image]), kind="stable")[:count]
        return _maps(chosen, weight[chosen] @ effects.T, grid)

    def weight(self, pictures: int = 1) -> dict[str, Any] | None:
        """The classifier, (c F), for a page whose pictures are in the form "factors"; None where none is."""
        if self.evidence is None or self.evidence.weight is None or self._form(pictures) != "factors":
            return None
        return rounded(self.evidence.weight)

    def _form(self, pictures: int) -> Literal["factors", "every map", "some maps"]:
        """The smallest that holds every class; maps of some where none of them has room."""
        assert self.evidence is not None
        _, rows, cols, width = self.evidence.effects.shape
        weight = self.evidence.weight
        shared = 0 if weight is None else size_of(tuple(weight.shape))
        factors, every = (
            size_of((rows * cols, width)) + -(-shared // pictures),
            size_of((self.evidence.classes, rows * cols)),
        )
        if min(factors, every) > MOST:
            return "some maps"
        return "factors" if factors < every else "every map"

    def _asked_for(self, image: int) -> dict[str, Any]:
        if self.classes is None or self.maps is None:
            return {"form": "none", "reason": self.reason}
        maps = as_array(self.maps[image])
        return _maps(self.classes[image].numpy(), maps.reshape(len(maps), -1), list(maps.shape[1:]))


def _maps(classes: NDArray[Any], maps: NDArray[Any], grid: list[int]) -> dict[str, Any]:
    return {"form": "maps", "grid": grid, "classes": classes.tolist(), "maps": rounded(maps)}
