"""Boosted trees as arrays: fitted by scikit-learn, predicted by numpy.

Prediction imports no scikit-learn (its import alone takes longer than a patient's forecast), and a
saved model is arrays without code. Legend: ``R`` rows, ``F`` features, ``T`` trees, ``K`` nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medimind.errors import MissingExtraError
from medimind.forecasting.records.table import Floats, Integers

# Rows at a time: the working set of a block stays in the processor's cache.
_BLOCK_VALUES = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """A sum of regression trees.

    A row goes to the second child where ``x[feature] > threshold``, and so to the first where x is
    NaN. A node that sends NaN to its larger side is turned round: it reads ``-x``, which is held
    as feature ``feature + F``.

    Attributes:
        base: What the sum starts from.
        num_features: ``F``.
        depth: Steps from a root to the deepest leaf.
        roots: (T,) Root of each tree.
        feature: (K,) Column of ``[x, -x]``; 0 in leaves.
        threshold: (K,) Infinite in leaves.
        children: (2 K,) First and second child of each node; a leaf's are itself.
        value: (K,) What a leaf adds.
    """

    base: float
    num_features: int
    depth: int
    roots: Integers
    feature: Integers
    threshold: Floats
    children: Integers
    value: Floats

    def predict(self, features_RF: Floats) -> Floats:
        """(R,) Sums over the trees."""
        num_rows, num_trees = len(features_RF), len(self.roots)
        result = np.full(num_rows, self.base)
        if num_trees == 0:
            return result
        block = max(1, _BLOCK_VALUES // num_trees)
        width = 2 * self.num_features
        for start in range(0, num_rows, block):
            some = features_RF[start : start + block]
            both = np.concatenate([some, -some], axis=1).ravel()
            row = (np.arange(len(some)) * width)[:, None]
            node = np.broadcast_to(self.roots, (len(some), num_trees))
            for _ in range(self.depth):
                goes_second = both[row + self.feature[node]] > self.threshold[node]
                node = self.children[2 * node + goes_second]
            result[start : start + block] += self.value[node].sum(axis=1)
        return result


def fit_trees(
    features_RF: Floats,
    target: Floats,
    *,
    loss: str,
    quantile: float | None = None,
    num_trees: int,
    num_leaves: int,
    learning_rate: float,
    rows_a_leaf: int,
    seed: int,
) -> Trees:
    """Trees that scikit-learn's HistGradientBoostingRegressor finds.

    ``quantile`` says which one trees of the loss ``quantile`` are for.
    Rows have no weights: they make the fit ten times slower (scikit-learn 1.9). Patients are kept
    from outweighing others by the number of their pairs.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError:
        raise MissingExtraError("scikit-learn", extra="forecast") from None
    regressor = HistGradientBoostingRegressor(
        loss=loss,
        quantile=quantile,
        max_iter=num_trees,
        max_leaf_nodes=num_leaves,
        max_depth=6,
        learning_rate=learning_rate,
        min_samples_leaf=rows_a_leaf,
        l2_regularization=1.0,
        max_features=0.5,
        early_stopping=False,  # pyright: ignore[reportArgumentType] (its stub knows 'auto' only)
        random_state=seed,
    )
    regressor.fit(features_RF, target)
    return _as_arrays(regressor, num_features=features_RF.shape[1])


def _as_arrays(regressor: Any, *, num_features: int) -> Trees:
    tables = [trees[0].nodes for trees in regressor._predictors]
    sizes = np.array([len(table) for table in tables], dtype=np.int64)
    roots = np.cumsum(sizes) - sizes
    nodes = np.concatenate(tables)
    shift = np.repeat(roots, sizes)
    index = np.arange(len(nodes))
    is_leaf = nodes["is_leaf"].astype(bool)
    is_turned = ~is_leaf & (nodes["missing_go_to_left"] == 0)
    threshold = nodes["num_threshold"].astype(np.float64)
    # x <= threshold goes left; turned round, -x > (the number just below -threshold) does.
    threshold = np.where(is_turned, np.nextafter(-threshold, -np.inf), threshold)
    left, right = nodes["left"] + shift, nodes["right"] + shift
    first, second = np.where(is_turned, right, left), np.where(is_turned, left, right)
    children = np.stack([np.where(is_leaf, index, first), np.where(is_leaf, index, second)], axis=1)
    return Trees(
        base=float(np.ravel(regressor._baseline_prediction)[0]),
        num_features=num_features,
        depth=int(nodes["depth"].max(initial=0)),
        roots=roots,
        feature=np.where(is_leaf, 0, nodes["feature_idx"] + num_features * is_turned).astype(
            np.int64
        ),
        threshold=np.where(is_leaf, np.inf, threshold),
        children=children.ravel().astype(np.int64),
        value=np.where(is_leaf, nodes["value"], 0.0),
    )
