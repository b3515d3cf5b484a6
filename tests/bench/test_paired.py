"""Paired tests against scipy's, Holm by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from vitscope.bench.paired import EXACT, RANDOM, holm, pairs_of, sign_flip


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, never falling: .02 .03 .06 .06.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize("n", [1, 2, 5, 11])
def test_all_flips_are_all_flips(n):
    differences = np.random.default_rng().normal(0.4, 1, n)
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=n)]
    truth = np.mean([one >= abs(differences.sum()) - 1e-12 for one in sums])
    (p,), (test,) = sign_flip(differences[None])
    assert p == pytest.approx(truth)
    assert test == "sign flips, all"


@pytest.mark.parametrize("n", [8, 40])
def test_against_scipys_permutation_test(n):
    rng = np.random.default_rng()
    a, b = rng.normal(0, 1, (2, n)) + np.array([[0.25], [0.0]])
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=9999,
        vectorized=True, rng=rng,
    ).pvalue  # fmt: skip
    (pair,) = pairs_of("x/p", ["a", "b"], np.stack([a, b]))
    assert pair.p == pytest.approx(theirs, abs=1e-9 if n == 8 else 0.03)
    assert pair.difference == pytest.approx((a - b).mean())


def test_the_tail_and_the_limit_are_students():
    rng = np.random.default_rng()
    for n, name in ((60, "sign flips, tail by Student's t"), (RANDOM + 500, "Student's paired t")):
        differences = rng.normal(1.0, 1, n)
        (p,), (test,) = sign_flip(differences[None])
        assert test == name
        assert p == pytest.approx(max(stats.ttest_1samp(differences, 0).pvalue, 2.0 ** (1 - n)), rel=1e-6)


def test_the_tail_is_never_less_than_the_flips_that_are_always_there():
    n = EXACT + 3
    (p,), _ = sign_flip(np.full((1, n), 0.5) + np.linspace(0, 1e-9, n))
    assert p == 2.0 ** (1 - n)


def test_false_alarms_are_as_many_as_they_may_be():
    p, _ = sign_flip(np.random.default_rng(1).standard_t(4, (600, 30)))
    assert 0.02 < (p < 0.05).mean() < 0.085


def test_pairs_stand_on_the_images_that_both_have():
    values = np.array([[1.0, 2.0, np.nan, 4.0], [0.0, np.nan, 5.0, 1.0], [np.nan, np.nan, 1.0, np.nan]])
    found = {(pair.first, pair.second): pair for pair in pairs_of("x/p", ["a", "b", "c"], values)}
    assert set(found) == {("a", "b"), ("b", "c")}
    assert (found["a", "b"].n, found["a", "b"].difference) == (2, 2.0)
    assert found["a", "b"].p == 0.5  # of four flips, ++ and --
    assert found["b", "c"].p == 1.0


def test_no_difference_is_no_evidence():
    (pair,) = pairs_of("x/p", ["a", "b"], np.ones((2, 50)))
    assert (pair.p, pair.test) == (1.0, "no image differs")
