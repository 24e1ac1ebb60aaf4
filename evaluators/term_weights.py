"""A Bayesian correction of the closed form: how measured losses rise with the sum of its weighted terms.

The model is log z = a + p log(sum over terms of w_t x_t), log w_t = one number for the term's kind + one for the term, all normal
beforehand around "the closed form is right up to its scale". Fitted by Gauss-Newton steps; the posterior is Laplace's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray

# Means and deviations before anything is measured, chosen on ResNet-20: a few measurements outweigh them on any network.
SCALE, SCALE_DEVIATION = -4.4, 1.0  # a
POWER, POWER_DEVIATION = 1.3, 0.15  # p: large errors do more than add up
KIND_DEVIATION, TERM_DEVIATION = 0.25, 0.5  # of log-weights
NOISE = 0.1  # of log z: what the terms cannot tell
MEASURED_NOISE = 0.01  # of z: measured on a finite number of images
BROKEN, BROKEN_NOISE = 0.25, 0.7  # above this z a network need not be predicted: more noise, times log(z / BROKEN)
LEAST = 0.01  # added to z and (in its unit) to the sum, so that a lossless network has a logarithm
STEPS = 4


@dataclass(frozen=True)
class TermWeights:
    """The posterior of (a, p, log-weights of kinds, log-weights of terms), each (D,); `member` (T, kinds) is 0 or 1."""

    member: Array
    mean: Array
    precision: Array

    def predict(self, terms: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of log(z + LEAST) for terms (N, T), each (N,), without the noise of measuring."""
        mean, jacobian = _linear(self.member, self.mean, terms)
        spread = np.linalg.solve(self._root, jacobian.T)
        return mean, np.sqrt((spread**2).sum(axis=0) + NOISE**2)

    def weights(self, draws: Array) -> Array:
        """Weights (N, T) of the terms, drawn from the posterior by standard normal numbers (N, D); zeros give the mode."""
        drawn = self.mean + np.linalg.solve(self._root.T, draws.T).T
        return np.asarray(np.exp(_log_weights(self.member, drawn)))

    @cached_property
    def _root(self) -> Array:
        return np.linalg.cholesky(self.precision)


def fit_weights(terms: Array, z: Array, kinds: Sequence[str]) -> TermWeights:
    """Posterior given K >= 0 measurements: terms (K, T), losses z (K,) above the uncompressed network's, kinds of the terms."""
    names = sorted(set(kinds))
    member = np.array([[kind == name for name in names] for kind in kinds], dtype=float).reshape(len(kinds), len(names))
    deviations = np.array(
        [SCALE_DEVIATION, POWER_DEVIATION] + [KIND_DEVIATION] * len(names) + [TERM_DEVIATION] * len(kinds)
    )
    prior = np.array([SCALE, POWER] + [0.0] * (len(deviations) - 2))
    target = np.log(np.maximum(z, 0.0) + LEAST)
    theta, precision = prior, np.diag(deviations**-2.0)
    for _ in range(STEPS):
        predicted, jacobian = _linear(member, theta, terms)
        rows = jacobian / _noise(target, predicted)[:, None] ** 2
        precision = np.diag(deviations**-2.0) + jacobian.T @ rows
        gradient = rows.T @ (target - predicted) - (theta - prior) / deviations**2
        theta = theta + np.linalg.solve(precision, gradient)
    return TermWeights(member, theta, precision)


def _noise(target: Array, predicted: Array) -> Array:
    """Standard deviation (K,) of measured logarithms. A broken network only counts for less if it is predicted to be one."""
    broken = BROKEN_NOISE * np.maximum(0.0, np.minimum(target, predicted) - np.log(BROKEN))
    return np.sqrt(NOISE**2 + (MEASURED_NOISE / np.exp(target)) ** 2 + broken**2)


def _log_weights(member: Array, theta: Array) -> Array:
    """Log-weights (..., T) of parameters (..., D)."""
    split = 2 + member.shape[1]
    return np.asarray(theta[..., 2:split] @ member.T + theta[..., split:])


def _linear(member: Array, theta: Array, terms: Array) -> tuple[Array, Array]:
    """log(z + LEAST) as the parameters predict it (N,), and its derivatives by them (N, D)."""
    parts = terms * np.exp(_log_weights(member, theta))
    total = parts.sum(axis=1) + (LEAST / np.exp(SCALE)) ** (1 / POWER)
    logarithm = np.log(total)
    shares = theta[1] * parts / total[:, None]
    ones = np.ones((len(terms), 1))
    return theta[0] + theta[1] * logarithm, np.hstack([ones, logarithm[:, None], shares @ member, shares])
