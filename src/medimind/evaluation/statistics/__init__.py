"""Paired statistics with which two models are compared on the same cases.

All of it is numpy and the standard library; the tests hold it to scipy and statsmodels, and
``benchmarks/null_runs.py`` measures how often each test calls a difference where there is none.
Every random draw comes from a seed.
"""

from medimind.evaluation.statistics.agreement import cohens_kappa
from medimind.evaluation.statistics.clustered import (
    clustered_interval,
    clustered_share_interval,
    clustered_standard_error,
)
from medimind.evaluation.statistics.interval import Interval, wilson_interval
from medimind.evaluation.statistics.paired import (
    mcnemar_exact,
    mcnemar_mid_p,
    paired_bootstrap,
    sign_flip_test,
)
from medimind.evaluation.statistics.power import (
    fewest_changed_cases,
    minimal_detectable_difference,
)
from medimind.evaluation.statistics.several import holm
from medimind.evaluation.statistics.special import incomplete_beta, student_quantile

__all__ = [
    "Interval",
    "clustered_interval",
    "clustered_share_interval",
    "clustered_standard_error",
    "cohens_kappa",
    "fewest_changed_cases",
    "holm",
    "incomplete_beta",
    "mcnemar_exact",
    "mcnemar_mid_p",
    "minimal_detectable_difference",
    "paired_bootstrap",
    "sign_flip_test",
    "student_quantile",
    "wilson_interval",
]
