"""How many pictures are run at once: what they take is measured, limits hold, lack of memory is survived."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import build, pictures
from vitscope.errors import MethodError, VitscopeError
from vitscope.trace.budget import as_bytes, cut_down, limit_of_pass, within
from vitscope.trace.chunks import Chunks
from vitscope.trace.kernel import row_chunks
from vitscope.trace.live import LivePeak
from vitscope.trace.rerun import samples_at_once

CPU = torch.device("cpu")
KB = 256  # float32 numbers


def test_the_live_peak_is_that_of_tensors_alive_at_once():
    before = torch.zeros(100 * KB)
    with LivePeak(CPU) as meter:
        first = torch.zeros(3 * KB)
        view = first.view(3, KB)[1:]  # counts once
        second = first + 1
        assert (meter.live, meter.peak) == (6 * 1024, 6 * 1024)
        del first, second
        assert meter.live == 3 * 1024  # held by the view
        del view
        assert meter.live == 0
        before += 1  # was there before
        before.view(-1)
        third = torch.zeros(4 * KB)
    assert (meter.live, meter.peak) == (4 * 1024, 6 * 1024)
    del third
    assert meter.live == 0


def test_what_a_graph_keeps_is_live_until_the_backward_pass():
    x = torch.randn(KB, requires_grad=True)
    with LivePeak(CPU) as meter:
        y = x.exp()
        for _ in range(5):
            y = y.sin()  # each keeps its input
        assert meter.live == 6 * 1024
        torch.autograd.grad(y.sum(), x)
        del y
        gc.collect()
        assert meter.live == 0
    assert 6 * 1024 < meter.peak < 10 * 1024


def test_a_models_weights_do_not_count():
    model = build("vit", embed_dim=96, num_heads=3)
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    with LivePeak(CPU) as meter, torch.no_grad():
        model(pictures(model, 1))
    assert 0 < meter.peak < weights / 4


def fake(monkeypatch, each, fixed=0):
    """A meter that sees `each` bytes a picture of the chunks that `job` runs, and `fixed` beside them; and that job."""
    sizes = []

    class Fake:
        def __init__(self, device):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        @property
        def peak(self):
            return sizes[-1] * each + fixed

    monkeypatch.setattr("vitscope.trace.chunks.LivePeak", Fake)

    def job(start, stop):
        sizes.append(stop - start)
        return torch.arange(start, stop)

    return sizes, job


def test_a_limit_is_kept_from_the_first_picture_on(monkeypatch):
    sizes, job = fake(monkeypatch, each=100)
    chunks = Chunks(CPU, 2**62, limit=1000)
    assert chunks.over(30, job, lambda done: None).tolist() == list(range(30))
    assert sizes == [1, 9, 9, 9, 2]  # nine tenths of the limit
    sizes.clear()
    assert torch.cat(chunks.parts(10, job)).tolist() == list(range(10))
    assert sizes == [9, 1]  # what is known stays known


def test_where_one_picture_is_too_much_they_go_one_by_one_and_it_is_said(monkeypatch):
    sizes, job = fake(monkeypatch, each=3_000_000)
    said = []
    assert len(Chunks(CPU, limit=2_000_000, say=said.append).parts(3, job)) == 3
    assert sizes == [1, 1, 1]
    assert said == ["one picture takes 3 MB, more than the limit of 2 MB; going on one at a time"]


def test_a_part_of_a_limited_pass_takes_half(monkeypatch):
    sizes, job = fake(monkeypatch, each=100)
    with within(2000):
        chunks = Chunks(CPU)
    chunks.parts(20, job)
    assert sizes == [1, 9, 9, 1]


def test_lack_of_memory_halves_and_says_so():
    sizes, said = [], []

    def job(start, stop):
        sizes.append(stop - start)
        if stop - start > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return torch.arange(start, stop)

    chunks = Chunks.whole(CPU, said.append)
    assert torch.cat(chunks.parts(16, job)).tolist() == list(range(16))
    assert sizes == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert said[-1] == "out of memory with 4 pictures at once; going on with 2"
    assert len(said) == 3

    def never(start, stop):
        raise MemoryError

    with pytest.raises(MethodError, match="one picture by itself does not fit"):
        Chunks.whole(CPU, said.append).parts(2, never)


@pytest.mark.parametrize(
    ("words", "size"),
    [("4GB", 4e9), ("512 mb", 512e6), ("1.5GiB", 1.5 * 2**30), ("700", 700), (12345, 12345), ("2KiB", 2048)],
)
def test_amounts_of_memory(words, size):
    assert as_bytes(words) == size


@pytest.mark.parametrize("words", ["", "much", "4 G B", "-3GB", "0", 0, "GB", "4iB"])
def test_other_words_are_refused(words):
    with pytest.raises(VitscopeError, match="give a number of bytes"):
        as_bytes(words)


def test_rows_and_samples_are_fewer_within_a_small_limit():
    query, key = torch.zeros(2, 3, 500, 8), torch.zeros(2, 3, 500, 8)

    def rows():
        return [chunk.stop - chunk.start for chunk in row_chunks(query, key, 2 * 3 * 500 * 100)]

    tokens = torch.zeros(1, 2**18)  # 1 MiB a sample
    usual = rows(), samples_at_once(tokens)
    assert usual == ([100] * 5, 64)
    with within(2**30):
        assert (rows(), samples_at_once(tokens)) == usual
    with within(2**26):  # an eighth of what is ample
        assert (rows()[0], samples_at_once(tokens)) == (12, 8)
        assert sum(rows()) == 500
    with within(1):
        assert (set(rows()), samples_at_once(tokens), cut_down(7)) == ({1}, 1, 1)
    assert limit_of_pass() is None


def test_the_rows_of_a_relevance_pass_are_those_of_its_forward_pass():
    from vitscope.trace.relevance_rules import attention_shares

    query, key, value = (torch.randn(1, 2, 33, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    found = []
    for limit in (None, 2**15):
        with within(limit):
            output = attention_shares(query, key, value, None, 0.5)
        found.append(torch.autograd.grad(output.sum(), (query, key, value)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(output, F.scaled_dot_product_attention(query, key, value, scale=0.5))
