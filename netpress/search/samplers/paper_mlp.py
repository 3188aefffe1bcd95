"""The paper's predictor: a small perceptron that says from accuracy, time and size how much to remove.

Source: "filter pruning with an MLP" (see docs), section IV; its listing is illegible, so that rows, layers and query
are an interpretation: rows of past trials (accuracy after a short retraining, testing time, parameters), standardised;
hidden layers 16 and 8, ReLU, squared error, Adam; asked for the wanted accuracy at the least time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netpress.search.goal import Row
from netpress.search.sampler import Question
from netpress.search.samplers.repair import load, measured, repaired
from netpress.search.samplers.uniform import Uniform
from netpress.search.space import Policy

Array = NDArray[np.float64]
LACKED = ("batch", "ratio", "filters")
"""What the paper says it did not consider and should have: batch size, pruning ratio, number of filters."""
SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class PaperMlp:
    """One inverse network, asked once per trial; it does not explore.

    The first trials have the amounts of `uniform`: what the paper did by hand.

    Attributes:
        name: of the sampler.
        columns: `paper`: accuracy, testing time, parameters; `all`: also those of `LACKED` that all rows have.
        manual: trials before the network is asked.
    """

    name: str = "paper-mlp"
    columns: Literal["paper", "all"] = "paper"
    manual: int = 3

    def propose(self, question: Question) -> Policy:
        """Amounts for the wanted accuracy at the least time, clipped, and lowered where they exceed the limits."""
        rows = measured(question)
        if question.number < self.manual or len(rows) < 2:
            return Uniform().propose(question)
        table = np.array([self._columns(question, row, rows) for row in rows])
        amounts = np.array([question.space.point(row.policy) for row in rows])
        answer = _answer(table, amounts, wanted(question, table), seed=(question.seed, question.number))
        return repaired(question, answer)

    def _columns(self, question: Question, row: Row, rows: Sequence[Row]) -> list[float]:
        """A row of the table: accuracy and time first."""
        time = next((name for name in ("latency_ms", "macs") if all(name in r.costs for r in rows)), None)
        found = [row.top1, row.costs[time] if time else load(question.goal, row.costs)]
        names = ("params", *(LACKED if self.columns == "all" else ()))
        return found + [row.costs[name] for name in names if all(name in r.costs for r in rows)]


def wanted(question: Question, table: Array) -> Array:
    """The row that is asked for: the wanted accuracy, and the other columns as the fastest trials show them for it.

    Time and accuracy cannot be chosen freely: a query far from all rows is answered by chance. So the columns are read
    off, linearly between the trials that no other surpasses in both accuracy and time.

    Args:
        question: its goal's least accuracy is wanted, without one the baseline's.
        table: rows of (accuracy, time, ...).

    Returns:
        One such row.
    """
    goal = question.goal
    accuracy = goal.least if goal.least is not None else goal.baseline.get("top1", float(table[:, 0].max()))
    front: list[Array] = []
    for row in sorted(table, key=lambda r: (r[1], -r[0])):
        if not front or row[0] > front[-1][0]:
            front.append(row)
    reached = np.array(front)
    return np.array([accuracy, *(np.interp(accuracy, reached[:, 0], column) for column in reached[:, 1:].T)])


def _answer(table: Array, amounts: Array, query: Array, *, seed: tuple[int, int]) -> Array:
    """What the network says to a query, after training on the table."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    scaler: Any = StandardScaler().fit(table)
    network: Any = MLPRegressor(
        hidden_layer_sizes=(16, 8),
        activation="relu",
        solver="adam",
        learning_rate_init=0.01,
        max_iter=500,
        n_iter_no_change=50,
        random_state=int(np.random.default_rng(seed).integers(SEEDS)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(scaler.transform(table), amounts if amounts.shape[1] > 1 else amounts[:, 0])
    return np.asarray(network.predict(scaler.transform(query[None])), np.float64).reshape(-1)
