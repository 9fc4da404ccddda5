"""The statistics against scipy and statsmodels, and under simulated nulls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from medimind.evaluation.statistics import (
    Interval,
    clustered_standard_error,
    fewest_changed_cases,
    holm,
    incomplete_beta,
    mcnemar_exact,
    minimal_detectable_difference,
    paired_bootstrap,
    sign_flip_test,
    student_quantile,
    wilson_interval,
)

EXACT = 1e-12


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (0, 6), (5, 5), (3, 12), (40, 17), (400, 520), (1, 2000)]
)
def test_mcnemar_is_statsmodels(gained: int, lost: int) -> None:
    expected = mcnemar([[50, lost], [gained, 50]], exact=True).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(expected, rel=EXACT, abs=EXACT)


@given(st.integers(0, 300), st.integers(0, 300))
@settings(deadline=None, max_examples=100)
def test_mcnemar_is_the_binomial_test_and_symmetric(gained: int, lost: int) -> None:
    p = mcnemar_exact(gained, lost)
    assert p == mcnemar_exact(lost, gained)
    if gained + lost:
        assert p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=1e-11)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 3)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_plain_percentile_bootstrap_is_scipys(confidence: float) -> None:
    differences = np.random.default_rng(1).normal(0.3, 1, 37)
    ours = paired_bootstrap(
        differences, num_samples=2000, confidence=confidence, seed=5, expanded=False
    )
    theirs = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=2000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=EXACT)
    assert ours.high == pytest.approx(theirs.high, abs=EXACT)


def test_bootstrap_in_chunks_is_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(2).normal(size=30)
    whole = paired_bootstrap(differences, num_samples=500, seed=3)
    monkeypatch.setattr("medimind.evaluation.statistics._CHUNK_VALUES", 30 * 64)
    assert paired_bootstrap(differences, num_samples=500, seed=3) == whole


def test_expanded_interval_is_wider_and_near_students() -> None:
    differences = np.random.default_rng(3).normal(size=12)
    plain = paired_bootstrap(differences, expanded=False)
    expanded = paired_bootstrap(differences)
    half = stats.t.ppf(0.975, 11) * differences.std(ddof=1) / math.sqrt(12)
    assert expanded.high - expanded.low > plain.high - plain.low
    assert (expanded.high - expanded.low) / 2 == pytest.approx(half, rel=0.1)


def test_bootstrap_of_one_or_equal_values() -> None:
    assert paired_bootstrap([0.5]) == Interval(-math.inf, math.inf)
    assert paired_bootstrap([0.5, 0.5]) == Interval(0.5, 0.5)
    assert not paired_bootstrap([0.0, 0.0]).excludes_zero


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_bootstrap_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"flat list|finite"):
        paired_bootstrap(values)


@pytest.mark.parametrize("num", [3, 8, 12])
def test_sign_flip_is_scipys_exact_permutation_test(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.5, 1, num)
    theirs = stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=10_000,  # all of them, as there are at most 2^12
        vectorized=True,
    ).pvalue
    assert sign_flip_test(differences) == pytest.approx(theirs, abs=EXACT)


def test_sampled_sign_flip_is_near_the_t_test_and_never_zero() -> None:
    differences = np.random.default_rng(9).normal(0.25, 1, 60)
    _, expected = stats.ttest_1samp(differences, 0)
    assert sign_flip_test(differences, num_samples=20_000) == pytest.approx(expected, abs=0.01)
    assert sign_flip_test(np.ones(50), num_samples=999) == 1 / 1000


@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=60)
def test_wilson_is_statsmodels(successes: int, num: int, confidence: float) -> None:
    successes = min(successes, num)
    ours = wilson_interval(successes, num, confidence=confidence)
    low, high = proportion_confint(successes, num, alpha=1 - confidence, method="wilson")
    assert ours.low == pytest.approx(max(0.0, low), abs=EXACT)
    assert ours.high == pytest.approx(min(1.0, high), abs=EXACT)


def test_wilson_edges() -> None:
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    with pytest.raises(ValueError, match="between"):
        wilson_interval(3, 2)


def test_clustered_standard_error_is_statsmodels() -> None:
    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 15, 80)
    values = rng.normal(size=80) + rng.normal(size=15)[clusters]
    fit = OLS(values, np.ones(80)).fit(
        cov_type="cluster",
        cov_kwds={"groups": clusters, "use_correction": False},
    )
    assert clustered_standard_error(values, list(clusters)) == pytest.approx(fit.bse[0], abs=EXACT)


def test_clusters_of_one_give_the_plain_standard_error() -> None:
    values = np.random.default_rng(5).normal(size=40)
    assert clustered_standard_error(values, range(40)) == pytest.approx(
        values.std() / math.sqrt(40), abs=EXACT
    )
    with pytest.raises(ValueError, match="length"):
        clustered_standard_error(values, [1])


def test_minimal_detectable_difference_has_the_power_it_claims() -> None:
    num, deviation = 200, 2.0
    effect = minimal_detectable_difference(deviation, num)
    z = effect / (deviation / math.sqrt(num))
    assert stats.norm.sf(stats.norm.ppf(0.975) - z) == pytest.approx(0.8, abs=EXACT)
    assert minimal_detectable_difference(1.0, 0) == math.inf


@pytest.mark.parametrize(("confidence", "expected"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_fewest_changed_cases(confidence: float, expected: int) -> None:
    assert fewest_changed_cases(confidence=confidence) == expected
    assert mcnemar_exact(expected, 0) < 1 - confidence <= mcnemar_exact(expected - 1, 0)


@pytest.mark.parametrize("num", [1, 2, 5, 30])
def test_holm_is_statsmodels(num: int) -> None:
    p_values = list(np.random.default_rng(num).random(num) ** 4)
    p_values[-1] = p_values[0]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=EXACT)


@pytest.mark.parametrize("degrees", [1, 2, 5, 29, 99, 1000, 20_000])
@pytest.mark.parametrize("probability", [0.01, 0.5, 0.6, 0.95, 0.975, 0.9995])
def test_student_quantile_is_scipys(probability: float, degrees: int) -> None:
    # x = v / (v + t^2) carries rounding of 1e-16 into t^2 / v: relative to a t near 2 that is
    # v * 1e-16, which is what large v lose.
    assert student_quantile(probability, degrees=degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), rel=max(EXACT, degrees * 1e-14), abs=1e-6
    )


def test_student_quantile_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="probability"):
        student_quantile(1.0, degrees=3)


@pytest.mark.parametrize("x", [0.0, 0.01, 0.3, 0.7, 0.999, 1.0])
def test_incomplete_beta_is_scipys(x: float) -> None:
    for a, b in [(0.5, 0.5), (2, 0.5), (15, 0.5), (3, 9)]:
        assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), abs=EXACT)


def test_simulated_nulls_reject_about_one_in_twenty() -> None:
    """A verdict wants the interval and the randomisation test to agree (or exact McNemar)."""
    rng = np.random.default_rng(2026)
    intervals = flips = verdicts = mcnemars = 0
    num_runs = 2000
    for run in range(num_runs):
        differences = rng.normal(size=40) * rng.gamma(2, size=40)
        interval = paired_bootstrap(differences, num_samples=1000, seed=run).excludes_zero
        flip = sign_flip_test(differences, num_samples=1000, seed=run) < 0.05
        intervals, flips = intervals + interval, flips + flip
        verdicts += interval and flip
        gained = rng.binomial(60, 0.5)
        mcnemars += mcnemar_exact(gained, 60 - gained) < 0.05
    assert 0.04 <= verdicts / num_runs <= 0.06
    assert 0.04 <= flips / num_runs <= 0.06
    # The interval alone, with 1,000 resamples, runs slightly wide of its level.
    assert 0.04 <= intervals / num_runs <= 0.065
    # The exact test is discrete, so it keeps below its level.
    assert 0.01 <= mcnemars / num_runs <= 0.05
