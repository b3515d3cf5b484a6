"""A process that may not take more memory: smaller batches are tried, it is said, and the maps are the same."""

from __future__ import annotations

import sys

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA"),
]


def test_a_batch_that_the_process_may_not_hold_is_halved_and_said(apart):
    found = apart("tests.faults.limited", 400, 96, 96)
    assert found["error"] == ""
    assert found["same"]
    assert found["said"][0] == "out of memory with 96 pictures at once; going on with 48"


@pytest.mark.slow
def test_a_process_that_holds_not_even_one_picture_says_so(apart):
    # Tensors are given back when they are freed, so that what the first passes held is not there for the last.
    found = apart("tests.faults.limited", 24, 4, 384, MALLOC_MMAP_THRESHOLD_="65536")
    assert found["said"] == [
        "out of memory with 4 pictures at once; going on with 2",
        "out of memory with 2 pictures at once; going on with 1",
    ]
    assert found["error"].startswith("one picture by itself does not fit into the memory of cpu; use smaller pictures")
