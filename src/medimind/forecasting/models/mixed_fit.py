"""Parameters of the mixed models: statsmodels' MixedLM, or GPBoost with the process."""

from __future__ import annotations

import logging
import warnings

import numpy as np

from medimind.errors import MissingExtraError
from medimind.forecasting.models.mixed import MixedModel
from medimind.forecasting.records.table import Floats, Integers
from medimind.forecasting.windows import Windows

MAX_FIT_PATIENTS = 1000
"""More add minutes and no accuracy: the models have about ten parameters."""

_SMALLEST_NOISE = 1e-6
_QUIET = logging.getLogger(f"{__name__}.gpboost")
# Its warnings are about single starts of the search; that none converges is reported by the caller.
_QUIET.setLevel(logging.CRITICAL)
# Variances of noise, intercept, slope and process, and the range of the process; on a scale where
# values and clock have spread 1.
_STARTS = ((0.2, 0.7, 0.1, 0.1, 0.3), (0.1, 0.1, 0.05, 0.8, 2.0))


def fit_linear_mixed(windows: Windows, patients: Integers, *, seed: int) -> MixedModel:
    """Random intercept and slope by restricted maximum likelihood, with statsmodels."""
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ImportError:
        raise MissingExtraError("statsmodels", extra="forecast") from None
    empty, rows = _start(windows, patients, seed=seed)
    clock = empty.clock(windows.years[rows])
    design = empty.design(clock, windows.static_MS[rows])
    with warnings.catch_warnings():
        # Variances at the border of their range are a result here, not a fault.
        warnings.simplefilter("ignore")
        fitted = MixedLM(
            windows.value[rows],
            design,
            groups=windows.patient_index[rows],
            exog_re=np.column_stack([np.ones_like(clock), clock]),
        ).fit(method=["lbfgs"], maxiter=100)
    random = np.asarray(fitted.cov_re, dtype=np.float64)
    return _filled(
        empty,
        beta=np.asarray(fitted.fe_params, dtype=np.float64),
        random=np.array([random[0, 0], random[0, 1], random[1, 1]]),
        noise=float(fitted.scale),
    )


def fit_mixed_process(windows: Windows, patients: Integers, *, seed: int) -> MixedModel | None:
    """Random intercept, random slope and an Ornstein-Uhlenbeck process, with GPBoost.

    The likelihood often has one maximum where the intercept explains most and one where the process
    does, so both are tried. ``None`` if neither fit converges.
    """
    try:
        import gpboost
    except (ImportError, OSError) as error:  # OSError where a library that it loads is not there
        raise MissingExtraError("gpboost", extra="forecast", error=error) from None
    gpboost.register_logger(_QUIET)
    empty, rows = _start(windows, patients, seed=seed)
    clock = empty.clock(windows.years[rows])
    owner = windows.patient_index[rows]
    design = empty.design(clock, windows.static_MS[rows])
    best, least = None, np.inf
    for start in _STARTS:
        model = gpboost.GPModel(
            gp_coords=clock[:, None],
            cov_function="exponential",
            cluster_ids=owner,
            group_data=owner,
            group_rand_coef_data=clock[:, None],
            ind_effect_group_rand_coef=[1],
            likelihood="gaussian",
        )
        try:
            model.fit(y=windows.value[rows], X=design, params={"init_cov_pars": np.array(start)})
        except gpboost.basic.GPBoostError:
            continue  # this start led outside the parameters' range; the other may not
        loss = float(model.get_current_neg_log_likelihood() or np.inf)
        if loss < least:
            best, least = model, loss
    if best is None:
        return None
    noise, intercept, slope, variance, reach = np.asarray(
        best.get_cov_pars(format_pandas=False), dtype=np.float64
    ).ravel()[:5]
    return _filled(
        empty,
        beta=np.asarray(best.get_coef(format_pandas=False), dtype=np.float64).ravel(),
        random=np.array([intercept, 0.0, slope]),
        noise=float(noise),
        ou_variance=float(variance),
        ou_range=float(reach),
    )


def _start(windows: Windows, patients: Integers, *, seed: int) -> tuple[MixedModel, Integers]:
    """How clock and covariates are standardised, and the rows that are fitted to."""
    counts = np.diff(windows.offsets)
    chosen = patients[counts[patients] > 0]
    if len(chosen) > MAX_FIT_PATIENTS:
        chosen = np.random.default_rng(seed).choice(chosen, MAX_FIT_PATIENTS, replace=False)
    rows = np.flatnonzero(np.isin(windows.patient_index, chosen))
    years = windows.years[rows]
    static = windows.static_MS[rows]
    known = ~np.isnan(static)
    count = np.maximum(known.sum(axis=0), 1)
    fill = np.where(known, static, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, static - fill, 0.0) ** 2).sum(axis=0) / count)
    empty = MixedModel(
        centre=float(np.mean(years)),
        unit=float(np.std(years)) or 1.0,
        static_fill=fill,
        # A covariate that is the same in all these patients says nothing; infinity makes it 0.
        static_unit=np.where(spread > 1e-9, spread, np.inf),
        beta=np.zeros(3 + static.shape[1]),
        random=np.zeros(3),
        ou_variance=0.0,
        ou_range=1.0,
        noise=1.0,
    )
    return empty, rows


def _filled(
    empty: MixedModel,
    *,
    beta: Floats,
    random: Floats,
    noise: float,
    ou_variance: float = 0.0,
    ou_range: float = 1.0,
) -> MixedModel:
    return MixedModel(
        centre=empty.centre,
        unit=empty.unit,
        static_fill=empty.static_fill,
        static_unit=empty.static_unit,
        beta=beta,
        random=random,
        ou_variance=ou_variance,
        ou_range=max(ou_range, 1e-6),
        noise=max(noise, _SMALLEST_NOISE),
    )
