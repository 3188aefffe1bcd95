"""Ensembles of small perceptrons, all members trained side by side: a few rows, a few hundred steps, milliseconds.

Shapes: K members, N rows, D inputs, M outputs, H units of a hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layers = list[tuple[Array, Array]]
"""Weights (K, inputs, units) and biases (K, 1, units) of each layer."""


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are used and what the last layer's sums become.

    Attributes:
        weight, weight_slope: of the raw weight w: what is multiplied with, and its derivative.
        out, out_slope: of the last sum s: the answer, and its derivative as a function of the answer.
        decay: of the raw weights, per row that is fitted.
    """

    weight: Callable[[Array], Array]
    weight_slope: Callable[[Array], Array]
    out: Callable[[Array], Array]
    out_slope: Callable[[Array], Array]
    decay: float


FREE = Form(lambda w: w, np.ones_like, lambda s: s, np.ones_like, 1e-3)
"""A perceptron as usual."""

RISING = Form(np.abs, np.sign, lambda s: np.exp(-np.maximum(s, -5.0)), lambda y: -y, 1e-5)
"""exp(-g(z)) with g rising and convex in every input, as its weights are not negative and ReLU is rising and convex:
accuracy falls with what is removed, slowly at first, and losses of several layers multiply."""


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Trained members.

    Attributes:
        form: of all members.
        layers: of all members.
    """

    form: Form
    layers: Layers

    def __call__(self, inputs: Array) -> Array:
        """What each member answers: inputs (N, D) -> (K, N, M)."""
        return _forward(self.form, self.layers, inputs)[-1]


def _forward(form: Form, layers: Layers, inputs: Array) -> list[Array]:
    """What enters each layer, and the answer last."""
    held = [np.broadcast_to(inputs, (len(layers[0][0]), *inputs.shape))]
    for place, (weights, biases) in enumerate(layers):
        sums = held[-1] @ form.weight(weights) + biases
        held.append(np.maximum(sums, 0) if place < len(layers) - 1 else form.out(sums))
    return held


def _gradients(form: Form, layers: Layers, held: list[Array], error: Array) -> list[Array]:
    """Of half the weighted squared error, in the order weights, biases of the first layer, then of the next."""
    found: list[Array] = []
    slope = error * form.out_slope(held[-1])
    for place in reversed(range(len(layers))):
        weights, _ = layers[place]
        into = held[place].transpose(0, 2, 1) @ slope * form.weight_slope(weights) + form.decay * weights
        found = [into, slope.sum(1, keepdims=True), *found]
        if place:
            slope = (slope @ form.weight(weights).transpose(0, 2, 1)) * (held[place] > 0)
    return found


def fit(form: Form, inputs: Array, targets: Array, *, members: int, seed: list[int], steps: int = 300) -> Ensemble:
    """Train K members of hidden layers 16 and 8 by Adam on the squared error.

    Members differ in where they begin and in how much each row counts for them: weights drawn from an exponential
    distribution (the Bayesian bootstrap), so that no member lacks a row altogether.

    Args:
        form: `FREE` or `RISING`.
        inputs: (N, D).
        targets: (N, M).
        members: K.
        seed: of what is drawn.
        steps: of Adam.

    Returns:
        The ensemble.
    """
    draws = np.random.default_rng(seed)
    sizes = (inputs.shape[1], 16, 8, targets.shape[1])
    layers = [
        (draws.normal(0, np.sqrt(2 / n), (members, n, m)), draws.normal(0, 0.1, (members, 1, m)))
        for n, m in pairwise(sizes)
    ]
    counts = draws.exponential(1.0, (members, len(inputs), 1))
    counts /= counts.sum(1, keepdims=True)
    flat = [array for layer in layers for array in layer]
    first, second = [np.zeros_like(a) for a in flat], [np.zeros_like(a) for a in flat]
    for step in range(1, steps + 1):
        held = _forward(form, layers, inputs)
        rate = 0.03 * (1 - (step - 1) / steps) + 1e-3
        for place, slope in enumerate(_gradients(form, layers, held, counts * (held[-1] - targets))):
            first[place] += 0.1 * (slope - first[place])
            second[place] += 0.01 * (slope**2 - second[place])
            size = np.sqrt(second[place] / (1 - 0.99**step)) + 1e-8
            flat[place] -= rate * first[place] / (1 - 0.9**step) / size  # in place: layers hold the same arrays
    return Ensemble(form, layers)
