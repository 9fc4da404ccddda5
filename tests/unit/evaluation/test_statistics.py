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
from statsmodels.stats.inter_rater import cohens_kappa as their_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from medimind.evaluation.statistics import (
    Interval,
    clustered_interval,
    clustered_share_interval,
    clustered_standard_error,
    cohens_kappa,
    fewest_changed_cases,
    holm,
    incomplete_beta,
    mcnemar_exact,
    mcnemar_mid_p,
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
        assert p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=EXACT)


@pytest.mark.parametrize("test", [mcnemar_exact, mcnemar_mid_p])
def test_mcnemar_refuses_negative_counts(test) -> None:
    with pytest.raises(ValueError, match="negative"):
        test(-1, 3)


@given(st.integers(0, 300), st.integers(0, 300))
@settings(deadline=None, max_examples=100)
def test_mid_p_is_the_binomials(gained: int, lost: int) -> None:
    """Fagerland et al., 2013, equation 7: the exact p-value less the observed outcome's own."""
    fewer, changed = min(gained, lost), gained + lost
    exact = 2 * stats.binom.cdf(fewer, changed, 0.5)
    expected = min(1.0, exact - stats.binom.pmf(fewer, changed, 0.5))
    assert mcnemar_mid_p(gained, lost) == pytest.approx(expected, rel=EXACT, abs=EXACT)
    assert mcnemar_mid_p(gained, lost) == mcnemar_mid_p(lost, gained)
    assert mcnemar_mid_p(gained, lost) <= mcnemar_exact(gained, lost)


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
    monkeypatch.setattr("medimind.evaluation.statistics.paired._CHUNK_VALUES", 30 * 64)
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


@pytest.mark.parametrize("signs", [[1, 1, 1, -1, 1, 1], [1, 1, -1, -1, 1, 1, 1, 1, 1], [1] * 12])
def test_mid_p_of_the_sign_flip_test_is_mcnemars(signs: list[int]) -> None:
    """With differences of one each, both tests swap the same coins."""
    gained, lost = signs.count(1), signs.count(-1)
    ours = sign_flip_test(signs, mid_p=True)
    assert ours == pytest.approx(mcnemar_mid_p(gained, lost), abs=EXACT)
    assert sign_flip_test(signs) == pytest.approx(mcnemar_exact(gained, lost), abs=EXACT)


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


def test_interval_of_clusters_is_the_t_interval_of_their_means() -> None:
    values = np.random.default_rng(6).normal(size=(20, 3)) + 0.4
    ours = clustered_interval(values.ravel(), [index // 3 for index in range(60)], confidence=0.9)
    theirs = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=EXACT)
    assert clustered_interval([1.0, 2.0], ["a", "a"]) == Interval(-math.inf, math.inf)


def test_interval_of_a_clustered_share_has_width_where_all_outputs_are_alike() -> None:
    clusters = [index // 3 for index in range(30)]
    for value in (0.0, 1.0):
        found = clustered_share_interval([value] * 30, clusters)
        # No narrower than of one output a cluster: ten questions said the same thing.
        alone = wilson_interval(10 * value, 10)
        assert found.low <= alone.low
        assert found.high >= alone.high
        assert value in (found.low, found.high)
    assert clustered_share_interval([0, 1, 1], ["a", "b", "c"]) == wilson_interval(2, 3)
    assert clustered_share_interval([1, 0], ["a", "a"]) == wilson_interval(0.5, 1)


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_interval_of_a_clustered_share_holds_it_as_often_as_it_says(share: float) -> None:
    rng = np.random.default_rng(11)
    clusters = [index // 3 for index in range(90)]
    held = 0
    for _ in range(300):
        # Half of the clusters' spread is their own: samples of one question resemble each other.
        chances = rng.beta(share, 1 - share, 30)
        outputs = rng.random((30, 3)) < chances[:, None]
        found = clustered_share_interval(outputs.ravel(), clusters)
        held += found.low <= share <= found.high
    assert held / 300 > 0.91


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    other[:30] = one[:30]
    table = np.zeros((3, 3))
    np.add.at(table, (one, other), 1)
    expected = their_kappa(table).kappa
    assert cohens_kappa(one.tolist(), other.tolist()) == pytest.approx(expected, abs=EXACT)


def test_kappa_edges() -> None:
    assert cohens_kappa("aabb", "aabb") == 1
    assert cohens_kappa("ab", "ba") == -1
    assert math.isnan(cohens_kappa("aa", "aa"))
    with pytest.raises(ValueError, match="same items"):
        cohens_kappa("a", "")


def test_minimal_detectable_difference_has_the_power_it_claims() -> None:
    num, deviation = 200, 2.0
    effect = minimal_detectable_difference(deviation, num)
    z = effect / (deviation / math.sqrt(num))
    assert stats.norm.sf(stats.norm.ppf(0.975) - z) == pytest.approx(0.8, abs=EXACT)
    assert minimal_detectable_difference(1.0, 0) == math.inf


@pytest.mark.parametrize(("confidence", "expected"), [(0.9, 4), (0.95, 5), (0.99, 7)])
def test_fewest_changed_cases(confidence: float, expected: int) -> None:
    assert fewest_changed_cases(confidence=confidence) == expected
    assert mcnemar_mid_p(expected, 0) < 1 - confidence <= mcnemar_mid_p(expected - 1, 0)


@pytest.mark.parametrize("num", [1, 2, 5, 30])
def test_holm_is_statsmodels(num: int) -> None:
    p_values = list(np.random.default_rng(num).random(num) ** 4)
    p_values[-1] = p_values[0]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=EXACT)


@pytest.mark.parametrize("degrees", [1, 2, 5, 19, 29, 99, 1272, 4182, 20_000, 100_000])
@pytest.mark.parametrize("probability", [0.01, 0.5, 0.6, 0.95, 0.975, 0.9995, 1 - 1e-6])
def test_student_quantile_is_scipys(probability: float, degrees: int) -> None:
    assert student_quantile(probability, degrees=degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), rel=EXACT, abs=EXACT
    )


def test_student_quantile_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="probability"):
        student_quantile(1.0, degrees=3)


@pytest.mark.parametrize("x", [0.0, 0.01, 0.3, 0.7, 0.999, 1.0])
def test_incomplete_beta_is_scipys(x: float) -> None:
    for a, b in [(0.5, 0.5), (2, 0.5), (15, 0.5), (3, 9), (9.9, 40), (0.5, 636), (5e4, 0.5)]:
        assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), abs=EXACT)


def test_simulated_nulls_reject_about_one_in_twenty() -> None:
    """A verdict wants the interval and the randomisation test to agree."""
    rng = np.random.default_rng(2026)
    intervals = flips = verdicts = 0
    num_runs = 2000
    for run in range(num_runs):
        differences = rng.normal(size=40) * rng.gamma(2, size=40)
        interval = paired_bootstrap(differences, num_samples=1000, seed=run).excludes_zero
        flip = sign_flip_test(differences, num_samples=1000, seed=run) < 0.05
        intervals, flips = intervals + interval, flips + flip
        verdicts += interval and flip
    assert 0.04 <= flips / num_runs <= 0.06
    # Both must agree, which such heavy tails at 40 cases make a little rarer than either.
    assert 0.03 <= verdicts / num_runs <= 0.06
    # The interval alone, with 1,000 resamples, runs slightly wide of its level.
    assert 0.04 <= intervals / num_runs <= 0.065


@pytest.mark.parametrize(("num", "changes"), [(100, 0.3), (200, 0.2), (500, 0.1), (1273, 0.2)])
def test_mid_p_calls_one_true_null_in_twenty_and_the_exact_test_fewer(
    num: int, changes: float
) -> None:
    """Sizes from the binomial distribution: no luck of a simulation in them."""
    changed = np.arange(1, num + 1)
    weights = stats.binom.pmf(changed, num, changes)
    sizes = {mcnemar_exact: 0.0, mcnemar_mid_p: 0.0}
    for m, weight in zip(changed.tolist(), weights, strict=True):
        if weight > 1e-9:
            for test in sizes:
                lowest = next((k for k in range(m // 2, -1, -1) if test(k, m - k) < 0.05), None)
                tail = 0.0 if lowest is None else 2 * stats.binom.cdf(lowest, m, 0.5)
                sizes[test] += weight * tail
    assert 0.04 <= sizes[mcnemar_mid_p] <= 0.055
    assert sizes[mcnemar_exact] < sizes[mcnemar_mid_p]
    assert sizes[mcnemar_exact] < 0.05
