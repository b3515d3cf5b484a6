"""What stands behind a target tells it from others, however both are called."""

from __future__ import annotations

import dataclasses
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from vitscope.bench.digests import target_of
from vitscope.targets import (
    Class,
    ClassNames,
    Concept,
    Contrast,
    Custom,
    MemoryBank,
    Neighbours,
    Output,
    Predicted,
    Probability,
)

NAMES = ClassNames(("crane", "crane", "ant"))  # two of ImageNet's are called so


def shaped(output, power=1):
    return output[:, 0] ** power


class Weighed:
    """A target of no dataclass."""

    of_features, linear = True, True

    def __init__(self, weights):
        self.weights = weights

    def score(self, output):
        return output @ self.weights

    def classes(self, output):
        return

    def describe(self, names=()):
        return "weighed"


def made(generator):
    """One of each kind, all of them different."""
    features, other = torch.randn(2, 6, 4, generator=generator)
    labels = torch.arange(6) % 3
    bank = MemoryBank.of(features, labels, NAMES)
    weights, array = torch.randn(4, generator=generator), np.arange(4.0)

    def closing(over):
        return lambda output: (output * over).sum(dim=1)

    def ring(output):
        return output[:, 0] if output.ndim == 2 else ring(output[None])

    return [
        Predicted(),
        *(kind(index) for kind in (Class, Probability, Output) for index in (0, 1)),
        Class((0, 1)),
        Contrast(0, 2),
        Contrast(1, 2),
        Concept(features),
        Concept(other),
        Concept(features.double()),
        Concept(features, "cosine"),
        Neighbours(bank, 3),
        Neighbours(bank, 4),
        Neighbours(bank, 3, weighting="equation"),
        Neighbours(bank, 3, label=0),
        Neighbours(bank, 3, label=1),
        Neighbours(MemoryBank.of(other, labels, NAMES), 3),
        Neighbours(MemoryBank.of(features, labels.flip(0), NAMES), 3),
        Custom(shaped),
        Custom(shaped, of_features=True),
        Custom(partial(shaped, power=2)),
        Custom(partial(shaped, power=3)),
        Custom(lambda output: output[:, 0]),
        Custom(lambda output: output[:, 1]),
        *(Custom(closing(over)) for over in (1.0, 2.0, weights, weights + 1, array, array + 1)),
        Custom(ring),
        Custom(Weighed(weights).score),
        Custom(torch.nn.Linear(4, 1, bias=False)),
        Custom(torch.nn.Linear(4, 1, bias=False)),
        Weighed(weights),
        Weighed(weights + 1),
    ]


def test_every_target_has_its_own_and_keeps_it():
    seed = int(torch.randint(2**31, ()))
    torch.manual_seed(seed)
    first = made(torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    again = made(torch.Generator().manual_seed(seed))
    found = [target_of(target) for target in first]
    assert len(set(found)) == len(found)
    assert [target_of(target) for target in again] == found


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bank_is_known_by_what_it_holds_wherever_it_was_built(dtype, tmp_path):
    bank = MemoryBank.of(torch.randn(9, 5), torch.arange(9) % 3, NAMES, dtype)
    bank.save(tmp_path / "bank.safetensors")
    elsewhere = dataclasses.replace(bank, facts={"dataset": "elsewhere"})
    digests = {
        target_of(Neighbours(one, 3))
        for one in (bank, MemoryBank.load(tmp_path / "bank.safetensors"), elsewhere, pickle.loads(pickle.dumps(bank)))
    }
    assert len(digests) == 1
