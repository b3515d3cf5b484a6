"""The memory bank: exact search, the kNN vote, and its file."""

import numpy as np
import pytest
import torch

from vitscope.errors import TargetError
from vitscope.targets import ClassNames, MemoryBank

NAMES = ClassNames(("a", "b", "c"))


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(int(np.random.default_rng().integers(2**31)))
    features = 5 * torch.randn(40, 6, generator=generator)
    return MemoryBank.of(features, torch.randint(3, (40,), generator=generator), NAMES)


def test_the_vote_is_that_of_a_loop(bank):
    queries = torch.randn(4, 6)
    votes = bank.vote(queries, k=7, temperature=0.2)
    unit = bank.features.double().numpy()
    for query, vote in zip(queries.double().numpy(), votes, strict=True):
        similar = unit @ (query / np.linalg.norm(query))
        nearest = np.argsort(-similar)[:7]
        weight = np.exp(similar[nearest] / 0.2)
        expected = [weight[bank.labels.numpy()[nearest] == label].sum() / weight.sum() for label in range(3)]
        np.testing.assert_allclose(vote, expected, atol=1e-5)


def test_a_picture_of_the_bank_is_its_own_nearest_neighbour(bank):
    similar, index = bank.nearest(bank.features * 3, k=2)
    assert index[:, 0].tolist() == list(range(40))
    torch.testing.assert_close(similar[:, 0], torch.ones(40), atol=2e-3, rtol=0)
    assert (similar[:, 0] >= similar[:, 1]).all()


def test_gradients_reach_the_features(bank):
    queries = torch.randn(2, 6, requires_grad=True)
    bank.nearest(queries, k=5)[0].sum().backward()
    assert queries.grad.abs().sum() > 0


def test_what_is_saved_is_what_is_loaded(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    again = MemoryBank.load(tmp_path / "bank.safetensors")
    assert torch.equal(again.features, bank.features)
    assert torch.equal(again.labels, bank.labels)
    assert again.names == NAMES
    assert len(again) == 40


def test_wrong_use_is_one_clear_line(bank, tmp_path):
    (tmp_path / "x.safetensors").write_text("no bank")
    for call, words in (
        (lambda: bank.nearest(torch.randn(2, 5)), "width 6"),
        (lambda: bank.vote(torch.randn(2, 6), k=41), "give 1 to 40"),
        (lambda: bank.vote(torch.randn(2, 6), k=0), "give 1 to 40"),
        (lambda: MemoryBank.of(torch.randn(3, 2), torch.zeros(4, dtype=torch.long), NAMES), "give \\(n, d\\)"),
        (lambda: MemoryBank.of(torch.randn(3, 2), torch.tensor([0, 1, 3]), NAMES), "give a name for each"),
        (lambda: MemoryBank.load(tmp_path / "none.safetensors"), "no such memory bank"),
        (lambda: MemoryBank.load(tmp_path / "x.safetensors"), "not a memory bank"),
    ):
        with pytest.raises(TargetError, match=words):
            call()
