"""A disease's course as leaspy models it, read off and personalised by numpy.

Every code ``c`` goes along a logistic curve of one clock, which each patient runs through earlier
or later, faster or slower (Schiratti et al., 2017; a logistic model of leaspy's):

    share_c(t) = sigmoid(slope_c * exp(xi) * (t - tau) + sum_j source_j * mixing_jc + offset_c)
    xi ~ N(0, xi_std), tau ~ N(tau_mean, tau_std), source_j ~ N(0, 1), noise of c ~ N(0, noise_c)

leaspy finds the population's parameters, in a process of its own (`leaspy_fit`); a patient's are
the most probable ones given the visits so far, by Levenberg-Marquardt for all histories at once.

Legend: ``V`` visits, ``C`` codes, ``U`` histories, ``T`` visits of a history, ``J`` sources,
``D = 2 + J`` parameters of a patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medimind.forecasting.records.table import Flags, Floats, Integers
from medimind.forecasting.visits import CodeVisits

_STEPS = 40
_MOST_VISITS = 40
_BLOCK_VALUES = 1 << 19


@dataclass(frozen=True, slots=True, eq=False)
class DiseaseCourse:
    """The population's course.

    Attributes:
        codes: The codes, in the order of all arrays.
        low: (C,) Value of the code where its share is 0, or 1 if it falls.
        high: (C,) The other end.
        falls: (C,) Whether the disease takes values down.
        slope: (C,) Of the curve on the logit scale, a year.
        offset: (C,) Logit of the share at ``tau_mean``.
        mixing_JC: What each source adds to each code's logit.
        tau_mean: Years on the clock.
        tau_std: Years.
        xi_std: Of the logarithm of the pace.
        noise: (C,) Of shares.
        version: Of leaspy.
    """

    codes: tuple[str, ...]
    low: Floats
    high: Floats
    falls: Flags
    slope: Floats
    offset: Floats
    mixing_JC: Floats
    tau_mean: float
    tau_std: float
    xi_std: float
    noise: Floats
    version: str

    def shares(self, value_VC: Floats) -> Floats:
        """Values as shares of the way from health to the worst; unknown ones stay NaN."""
        share = np.clip((value_VC - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.where(self.falls, 1.0 - share, share)

    def value(self, share: Floats, column: int) -> Floats:
        """Shares of one code as its values."""
        way = 1.0 - share if self.falls[column] else share
        return self.low[column] + (self.high[column] - self.low[column]) * way

    def share(self, own_UD: Floats, years: Floats) -> Floats:
        """(U, T, C) Shares at each history's times (U, T)."""
        return _sigmoid(self.logit(own_UD, years))

    def logit(self, own_UD: Floats, years: Floats) -> Floats:
        """(U, T, C) Logits at each history's times (U, T)."""
        pace = np.exp(own_UD[:, 0] * self.xi_std)
        since = years - (self.tau_mean + own_UD[:, 1] * self.tau_std)[:, None]
        shift_UC = own_UD[:, 2:] @ self.mixing_JC + self.offset
        return (pace[:, None] * since)[:, :, None] * self.slope + shift_UC[:, None, :]


def forecast_course(
    course: DiseaseCourse,
    visits: CodeVisits,
    code: str,
    origin: Integers,
    horizon_years: Floats,
) -> Floats:
    """(R,) Values of the code so long after each origin, from all visits up to it.

    ``origin`` are rows of the code's windows; a patient's parameters are found once a visit.
    """
    asked, place = np.unique(visits.row[origin], return_inverse=True)
    own_UD = personalise(course, visits, asked)
    years = visits.years[asked][place] + horizon_years
    column = course.codes.index(code)
    return course.value(course.share(own_UD[place], years[:, None])[:, 0, column], column)


def personalise(course: DiseaseCourse, visits: CodeVisits, ends: Integers) -> Floats:
    """(U, D) Each patient's most probable parameters given the visits up to each of ``ends`` (U,).

    In units of their standard deviations: ``xi, tau - tau_mean, sources``.
    """
    share_VC = course.shares(visits.value_VC)
    length = np.minimum(ends - visits.offsets[visits.patient_index[ends]] + 1, _MOST_VISITS)
    result = np.zeros((len(ends), 2 + len(course.mixing_JC)))
    order = np.argsort(length, kind="stable")
    start = 0
    while start < len(order):
        longest = int(length[order[start]]) + 4
        rows = max(1, _BLOCK_VALUES // (longest * len(course.codes) * result.shape[1]))
        some = order[start : start + rows]
        some = some[length[some] <= longest]
        back = np.arange(longest)
        at = ends[some, None] - np.minimum(back, length[some, None] - 1)
        value_UTC = np.where((back < length[some, None])[:, :, None], share_VC[at], np.nan)
        result[some] = _most_probable(course, visits.years[at], value_UTC)
        start += len(some)
    return result


def _most_probable(course: DiseaseCourse, years_UT: Floats, share_UTC: Floats) -> Floats:
    known = ~np.isnan(share_UTC)
    weight_UTC = known / course.noise
    truth = np.where(known, share_UTC, 0.0)
    own = np.zeros((len(years_UT), 2 + len(course.mixing_JC)))
    damping = np.full(len(own), 1e-2)
    loss = _loss(course, own, years_UT, truth, weight_UTC)
    for _ in range(_STEPS):
        gradient, curvature = _normal_equations(course, own, years_UT, truth, weight_UTC)
        damped = curvature + damping[:, None, None] * np.eye(own.shape[1])
        step = np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        tried = np.asarray(own + step, dtype=np.float64)
        tried_loss = _loss(course, tried, years_UT, truth, weight_UTC)
        is_better = tried_loss < loss
        moved = np.abs(tried - own).max(axis=1)
        own = np.where(is_better[:, None], tried, own)
        loss = np.where(is_better, tried_loss, loss)
        damping = np.where(is_better, damping * 0.2, damping * 8.0)
        if np.all(moved < 1e-4):
            break
    return own


def _loss(
    course: DiseaseCourse, own: Floats, years_UT: Floats, truth: Floats, weight_UTC: Floats
) -> Floats:
    error = (truth - _sigmoid(course.logit(own, years_UT))) * weight_UTC
    return np.einsum("utc,utc->u", error, error) + np.einsum("ud,ud->u", own, own)


def _normal_equations(
    course: DiseaseCourse, own: Floats, years_UT: Floats, truth: Floats, weight_UTC: Floats
) -> tuple[Floats, Floats]:
    """(U, D) Gradient and (U, D, D) Gauss-Newton curvature of half the loss."""
    share = _sigmoid(course.logit(own, years_UT))
    error = (truth - share) * weight_UTC
    steep = share * (1 - share) * weight_UTC
    pace = np.exp(own[:, 0] * course.xi_std)
    since = years_UT - (course.tau_mean + own[:, 1] * course.tau_std)[:, None]
    by_xi = course.xi_std * (pace[:, None] * since)[:, :, None] * course.slope
    by_tau = np.broadcast_to(-course.tau_std * pace[:, None, None] * course.slope, by_xi.shape)
    by_source = [np.broadcast_to(row, by_xi.shape) for row in course.mixing_JC]
    jacobian_UTCD = np.stack([by_xi, by_tau, *by_source], axis=-1) * steep[..., None]
    flat = jacobian_UTCD.reshape(len(own), -1, own.shape[1])
    gradient = np.einsum("und,un->ud", flat, error.reshape(len(own), -1)) - own
    curvature = np.matmul(flat.transpose(0, 2, 1), flat) + np.eye(own.shape[1])
    return gradient, curvature


def _sigmoid(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -40.0, 40.0)))
