"""Numbers survive the way into a page: floats to the bit, levels to half a level."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vitscope.report.packing import LEVELS, exact, rounded, size_of, unpacked

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=9)


@given(arrays.arrays(np.float32, SHAPES, elements=FLOATS))
def test_floats_are_kept_to_the_bit(values):
    packed = json.loads(json.dumps(exact(torch.from_numpy(values))))
    assert np.array_equal(unpacked(packed), values)


@given(arrays.arrays(np.float32, SHAPES, elements=FLOATS))
def test_levels_are_within_half_a_level_of_their_own_row(values):
    found = unpacked(json.loads(json.dumps(rounded(torch.from_numpy(values)))))
    most = np.abs(values).reshape(len(values), -1).max(axis=1).reshape(-1, *[1] * (values.ndim - 1))
    assert (np.abs(found - values) <= most.astype(np.float64) * (0.5001 / LEVELS + 1e-6)).all()


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1000, 196), (7, 2, 4)])
def test_sizes_are_foretold(shape):
    packed = rounded(torch.randn(shape))
    assert len(packed["data"]) + len(packed["scale"]) == size_of(shape)


def test_a_row_of_zeros_stays_zero():
    values = torch.randn(3, 4)
    values[1] = 0
    assert not unpacked(rounded(values))[1].any()
