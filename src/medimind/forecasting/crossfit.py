"""Models of one code, each fold's patients forecast by models that have not seen them.

```
pairs (origin, later measurement) ─► experts, fitted on other folds ─► stack ─► boosting ─► gate
                                                                                   └─► spread
```

Legend: ``R`` pairs, ``E`` experts, ``P`` patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medimind.config.forecast_models import ForecastConfig
from medimind.forecasting.forecaster import PointModel, pair_features, point_and_spread
from medimind.forecasting.models.experts import Experts, ask_experts, expert_names, fit_experts
from medimind.forecasting.models.trees import Trees, fit_trees
from medimind.forecasting.records.table import Flags, Floats, Integers
from medimind.forecasting.scale import Scale
from medimind.forecasting.stack import Stack, fit_stack
from medimind.forecasting.windows import Windows, make_pairs

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_STACK_HORIZONS = 3
_HAIR = 1.01
# On a scale with spread 1; below it errors are taken to be alike.
_SMALLEST_ERROR = 0.02
# leaspy's fits take minutes: it is cross-fitted over so many groups of the folds.
_LEASPY_GROUPS = 2
_SPREAD_TREES = {"num_trees": 60, "num_leaves": 6}
# The size of an error is the one that so many stay below: intervals end at rare errors, not at the
# middle ones.
_SPREAD_QUANTILE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Models that have not seen a fold's patients, and what they say of them.

    Attributes:
        windows: Histories of all patients.
        fold_of_patient: (P,) Fold of each patient.
        models: For each fold, a model fitted to the others.
        origin: (R,) Rows of the windows.
        target: (R,) Rows of the windows.
        horizon: (R,) Years.
        point: (R,) Forecast of what passed the gate, on the models' scale.
        spread: (R,) Expected size of its error.
    """

    windows: Windows
    fold_of_patient: Integers
    models: tuple[PointModel, ...]
    origin: Integers
    target: Integers
    horizon: Floats
    point: Floats
    spread: Floats

    @property
    def owner(self) -> Integers:
        """(R,) The patient of each pair."""
        return self.windows.patient_index[self.origin]

    def ask(self, origin: Integers, horizon_years: Floats) -> tuple[Floats, Floats]:
        """Forecast and spread from any origin, by the model that has not seen its patient."""
        fold = self.fold_of_patient[self.windows.patient_index[origin]]
        point, spread = np.empty(len(origin)), np.empty(len(origin))
        for index, model in enumerate(self.models):
            mine = fold == index
            if mine.any():
                point[mine], spread[mine] = point_and_spread(
                    model, self.windows, origin[mine], horizon_years[mine]
                )
        return point, spread


@dataclass(frozen=True, slots=True)
class Choice:
    """What passed the gate, and the mean absolute errors on unseen patients in the code's unit."""

    method: str
    share: float
    expert: int | None
    errors: dict[str, float]

    def alone(self, num_experts: int) -> Stack | None:
        """The stack that is one expert; ``None`` where it is a real one."""
        if self.expert is None:
            return None
        return Stack(log_horizon=np.zeros(1), weight_BE=np.eye(num_experts)[[self.expert]])


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    windows: Windows
    origin: Integers
    target: Integers
    horizon: Floats
    truth: Floats
    weight: Floats
    fold: Integers

    def forecast_folds(self, ask: list[Floats]) -> Floats:
        """One array out of each fold's part."""
        result = np.empty((len(self.fold), *ask[0].shape[1:]))
        for index, part in enumerate(ask):
            result[self.fold == index] = part
        return result


def cross_fit(
    windows: Windows, scale: Scale, config: ForecastConfig, *, code: str = ""
) -> tuple[PointModel, Choice, OutOfFold]:
    """The model fitted to all patients, what it is, and the folds' models that chose it."""
    num_patients = len(windows.offsets) - 1
    fold_of_patient = _folds(num_patients, config)
    pairs = _pairs(windows, fold_of_patient, config)
    folds = [pairs.fold == index for index in range(config.num_folds)]

    experts = [
        _experts(
            pairs,
            np.flatnonzero(fold_of_patient != index),
            scale,
            config,
            code=code,
            # Patients of this fold's group of folds are strangers to leaspy too.
            course_patients=np.flatnonzero(
                fold_of_patient % _LEASPY_GROUPS != index % _LEASPY_GROUPS
            ),
        )
        for index in range(config.num_folds)
    ]
    expert_RE = pairs.forecast_folds(
        [
            ask_experts(expert, windows, pairs.origin[rows], pairs.horizon[rows])
            for expert, rows in zip(experts, folds)
        ]
    )
    stacks = [_stack(pairs, expert_RE, ~rows) for rows in folds]
    stacked = pairs.forecast_folds(
        [stack.combine(expert_RE[rows], pairs.horizon[rows]) for stack, rows in zip(stacks, folds)]
    )
    features = pair_features(windows, pairs.origin, pairs.horizon, expert_RE, stacked)
    trees = [_boosting(pairs, features, stacked, ~rows, config) for rows in folds]
    boosted = pairs.forecast_folds(
        [_ask_trees(tree, features[rows], 0.0) for tree, rows in zip(trees, folds)]
    )

    choice = _gate(expert_names(config.all_experts), expert_RE, stacked, boosted, pairs, scale)
    alone = choice.alone(expert_RE.shape[1])
    point = stacked + choice.share * boosted
    if alone is not None:
        point = alone.combine(expert_RE, pairs.horizon)
        # What is asked later sees the one expert where the stack's forecast stood.
        features = pair_features(windows, pairs.origin, pairs.horizon, expert_RE, point)
    sizes = [_spread(pairs, features, point, ~rows, config) for rows in folds]
    spread = np.exp(
        pairs.forecast_folds(
            [_ask_trees(tree, features[rows], 0.0) for tree, rows in zip(sizes, folds)]
        )
    )

    everyone = np.ones(len(pairs.fold), dtype=bool)
    has_trees = choice.share > 0
    model = PointModel(
        experts=_experts(pairs, np.arange(num_patients), scale, config, code=code),
        stack=alone or _stack(pairs, expert_RE, everyone),
        trees=_boosting(pairs, features, stacked, everyone, config) if has_trees else None,
        trees_share=choice.share,
        spread=_spread(pairs, features, point, everyone, config),
    )
    models = tuple(
        PointModel(expert, alone or stack, tree if has_trees else None, choice.share, size)
        for expert, stack, tree, size in zip(experts, stacks, trees, sizes)
    )
    found = OutOfFold(
        windows, fold_of_patient, models, pairs.origin, pairs.target, pairs.horizon, point, spread
    )
    return model, choice, found


def _folds(num_patients: int, config: ForecastConfig) -> Integers:
    """(P,) Fold of each patient; folds differ by one patient at most."""
    order = np.random.default_rng(config.seed).permutation(num_patients)
    fold = np.empty(num_patients, dtype=np.int64)
    fold[order] = np.arange(num_patients) % config.num_folds
    return fold


def _pairs(windows: Windows, fold_of_patient: Integers, config: ForecastConfig) -> _Pairs:
    origin, target = make_pairs(
        windows.offsets,
        config.steps,
        most_per_patient=config.pairs_per_patient,
        seed=config.seed,
    )
    owner = windows.patient_index[origin]
    return _Pairs(
        windows=windows,
        origin=origin,
        target=target,
        horizon=windows.years[target] - windows.years[origin],
        truth=windows.value[target],
        # Between one vote a patient and one vote a pair.
        weight=1.0 / np.sqrt(np.bincount(owner, minlength=len(fold_of_patient))[owner]),
        fold=fold_of_patient[owner],
    )


def _experts(
    pairs: _Pairs,
    patients: Integers,
    scale: Scale,
    config: ForecastConfig,
    *,
    code: str,
    course_patients: Integers | None = None,
) -> Experts:
    return fit_experts(
        pairs.windows,
        patients,
        pairs.origin,
        pairs.target,
        wanted=config.all_experts,
        scale=scale,
        seed=config.seed,
        code=code,
        leaspy=config.leaspy,
        course_patients=course_patients,
    )


def _stack(pairs: _Pairs, expert_RE: Floats, rows: Flags) -> Stack:
    return fit_stack(
        expert_RE[rows],
        pairs.truth[rows],
        pairs.horizon[rows],
        pairs.weight[rows],
        num_horizons=_STACK_HORIZONS,
    )


def _boosting(
    pairs: _Pairs, features: Floats, stacked: Floats, rows: Flags, config: ForecastConfig
) -> Trees | None:
    """Trees for what the stack leaves over."""
    if config.trees is None:
        return None
    return fit_trees(
        features[rows],
        (pairs.truth - stacked)[rows],
        loss="absolute_error",
        seed=config.seed,
        **config.trees.model_dump(),
    )


def _spread(
    pairs: _Pairs, features: Floats, point: Floats, rows: Flags, config: ForecastConfig
) -> Trees | None:
    """Trees for the logarithm of the size that most errors stay below."""
    if config.trees is None:
        return None
    return fit_trees(
        features[rows],
        np.log(np.abs(pairs.truth - point)[rows] + _SMALLEST_ERROR),
        loss="quantile",
        quantile=_SPREAD_QUANTILE,
        seed=config.seed,
        **{**config.trees.model_dump(), **_SPREAD_TREES},
    )


def _ask_trees(trees: Trees | None, features: Floats, otherwise: float) -> Floats:
    return np.full(len(features), otherwise) if trees is None else trees.predict(features)


def _gate(
    names: tuple[str, ...],
    expert_RE: Floats,
    stacked: Floats,
    boosted: Floats,
    pairs: _Pairs,
    scale: Scale,
) -> Choice:
    """What has the least error on unseen patients, never more than last value and patient's mean.

    A single expert must be better than the stack by more than a hair: where they are alike, several
    experts together err less on patients that neither was chosen by.
    """
    value, weight = scale.inverse(pairs.truth), pairs.weight / pairs.weight.sum()

    def error(column: Floats) -> float:
        return float(weight @ np.abs(scale.inverse(column) - value))

    by_share = {share: error(stacked + share * boosted) for share in _SHARES}
    by_expert = [error(column) for column in expert_RE.T]
    share = min(by_share, key=lambda one: by_share[one])
    expert = int(np.argmin(by_expert))
    errors = {**dict(zip(names, by_expert)), "stack": by_share[0.0]}
    baselines = min(by_expert[names.index(name)] for name in ("last_value", "patient_mean"))
    if by_share[share] > min(baselines, _HAIR * by_expert[expert]):
        return Choice(names[expert], 0.0, expert, {**errors, "chosen": by_expert[expert]})
    method = "stack and boosting" if share else "stack"
    return Choice(method, share, None, {**errors, "chosen": by_share[share]})
