"""Pictures read ahead in processes are those that are read here, in order, whatever happens to a process."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.errors import ImageError, VitscopeError
from vitscope.images import Batch, Geometry, Preprocessing, ReadAhead, Unread, prepare
from vitscope.images.ahead import usual_workers

HOW = Preprocessing((32, 48), "bicubic", 0.9, "center", (0.5,) * 3, (0.2,) * 3)


@pytest.fixture
def files(tmp_path):
    """Pictures of random sizes, one of them no picture."""
    rng = np.random.default_rng()
    for index in range(11):
        height, width = rng.integers(30, 90, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:02d}.{'jpg' if index % 2 else 'png'}")
    (tmp_path / "05.jpg").write_text("no picture")
    return sorted(map(str, tmp_path.iterdir()))


def reading(**options):
    return ReadAhead(partial(prepare, preprocessing=HOW), **options)


def same(one, other):
    if isinstance(other, Unread):
        assert one == other
        return
    torch.testing.assert_close(one.tensor, other.tensor, rtol=0, atol=0)
    assert (one.geometries, one.names) == (other.geometries, other.names)
    for first, second in zip(one.originals, other.originals, strict=True):
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_read_ahead_is_what_is_read_here(files, workers):
    here = reading(workers=0).take(files)
    assert here[5].reason == f"{files[5]}: not a picture in a format that Pillow reads; save it as PNG or JPEG"
    with reading(workers=workers, ahead=4) as reader:
        reader.expect(files)
        found = [one for start in range(0, 11, 3) for one in reader.take(files[start : start + 3])]
        assert reader.waited > 0
    for one, other in zip(found, here, strict=True):
        same(one, other)


def pid_of(name):
    """A read that tells which process made it."""
    if name == "bad":
        raise KeyError("bad")
    return os.getpid()


def test_batches_can_be_taken_again_in_parts_and_what_was_not_expected_is_read_here():
    names = list(map(str, range(9)))
    with ReadAhead(pid_of, workers=2, ahead=2) as reader:
        reader.expect(names)
        first = reader.take(names[:6])
        assert os.getpid() not in first
        assert reader.take(names[:3]) == first[:3]
        assert reader.take(names[3:6]) == first[3:]
        assert reader.take(["other"]) == [os.getpid()]
        assert os.getpid() not in reader.take(names[6:])
        assert reader.take(names[:1]) == [os.getpid()]  # no longer held
        assert reader.take(["bad", "1"]) == [Unread("KeyError: 'bad'"), os.getpid()]
        assert reader.take([]) == []


def test_the_processes_end_with_the_reader():
    before = set(multiprocessing.active_children())
    reader = ReadAhead(pid_of, workers=2)
    reader.expect(["a", "bad", "a", "b", "c"])
    assert len(set(multiprocessing.active_children()) - before) == 2
    assert reader.take(["a", "bad"])[1] == Unread("KeyError: 'bad'")
    reader.close()
    end = time.monotonic() + 20
    while set(multiprocessing.active_children()) - before and time.monotonic() < end:
        time.sleep(0.05)
    assert not set(multiprocessing.active_children()) - before


def slow(name):
    time.sleep(0.02)
    return name


@pytest.mark.integration
def test_a_process_that_is_killed_is_said_and_the_rest_is_read_here():
    names, said = [str(index) for index in range(60)], []
    before = set(multiprocessing.active_children())
    with ReadAhead(slow, workers=2, ahead=4, say=said.append) as reader:
        reader.expect(names)
        assert reader.take(names[:4]) == names[:4]
        mine = sorted(set(multiprocessing.active_children()) - before, key=lambda one: one.pid)
        os.kill(random.choice(mine).pid, signal.SIGKILL)
        time.sleep(0.2)  # nothing is raised meanwhile, wherever the program is
        assert reader.take(names[4:]) == names[4:]
    assert said == ["a process that reads pictures died; the rest are read in this one"]


def large(name):
    """More than a pipe holds, so that a process is often killed while it sends."""
    time.sleep(random.random() * 0.004)
    return np.random.default_rng(int(name)).integers(0, 255, 700_000, dtype=np.uint8)


@pytest.mark.integration
@pytest.mark.parametrize("times", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_process_may_be_killed_at_any_moment(times):
    names = [str(index) for index in range(40)]
    for _ in range(times):
        before = set(multiprocessing.active_children())
        with ReadAhead(large, workers=2, ahead=8) as reader:
            reader.expect(names)
            reader.take(names[:4])
            time.sleep(random.random() * 0.05)
            random.choice(list(set(multiprocessing.active_children()) - before)).kill()
            for name, found in zip(names, [*reader.take(names[:4]), *reader.take(names[4:])], strict=True):
                np.testing.assert_array_equal(found, large(name))


def test_how_many_processes():
    with pytest.raises(VitscopeError, match="--workers -1: give 0 or more"):
        reading(workers=-1)
    assert usual_workers(3) == 0
    assert 0 <= usual_workers(10**6) <= 4
    with reading() as reader:
        reader.expect(["a", "b"])
        assert not multiprocessing.active_children()


def test_a_batch_without_its_originals():
    picture = Image.new("RGB", (50, 40), "red")
    batch = prepare([picture, picture], HOW)
    assert batch.light().originals == ()
    assert len(batch.light().part(slice(1, 2))) == 1
    with pytest.raises(ImageError):
        prepare([], HOW)
    joined = Batch.join([batch.light(), batch.light()], torch.device("cpu"))
    assert (len(joined), joined.tensor.is_pinned()) == (4, False)
    assert isinstance(joined.geometries[3], Geometry)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_batch_for_a_gpu_is_pinned():
    batch = prepare([Image.new("RGB", (50, 40), "red")], HOW)
    joined = Batch.join([batch, batch], torch.device("cuda"))
    assert joined.tensor.is_pinned()
    torch.testing.assert_close(joined.tensor.cuda(non_blocking=True).cpu(), torch.cat([batch.tensor] * 2))
