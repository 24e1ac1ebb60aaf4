"""Correct the closed-form score while a search runs: a weight for every term, learned from what step 2 measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluators.loss_tables import LossTables
from evaluators.term_weights import LEAST, TermWeights, fit_weights
from evo.selection.calibration import NODES

Array = np.ndarray

CHANCE = 0.9  # error of a network that learned nothing, where the loss has no upper bound


@dataclass(frozen=True)
class TermCalibration:
    """A `Calibration` and a `Weigher` for one measure, whose value for the uncompressed network is `baseline`.

    `bounded`: an error in 0..1, measured by -log(1 - error / chance) as a loss in nats; otherwise a loss itself.
    """

    tables: LossTables
    baseline: float
    bounded: bool = True
    fewest: int = 0

    def __call__(self, codes: Array, surrogate: Array, value: Array, query_codes: Array, query: Array) -> Array:
        mean, deviation = self._fitted(codes, value).predict(self.tables.contributions(query_codes))
        z = np.exp(mean[:, None] + deviation[:, None] * np.array(NODES)) - LEAST
        return self._measured(np.maximum(z, 0.0))

    def weights(self, codes: Array, value: Array, draws: int, rng: np.random.Generator) -> Array:
        fitted = self._fitted(codes, value)
        normal = rng.standard_normal((1 + draws, len(fitted.mean)))
        normal[0] = 0.0
        return fitted.weights(normal)

    def _fitted(self, codes: Array, value: Array) -> TermWeights:
        z = self._loss(value) - self._loss(np.array(self.baseline))
        kinds = [term.kind for term in self.tables.terms]
        return fit_weights(self.tables.contributions(codes.reshape(len(z), len(self.tables.space.genes))), z, kinds)

    def _loss(self, value: Array) -> Array:
        return np.asarray(-np.log1p(-np.minimum(value, CHANCE - 0.02) / CHANCE) if self.bounded else value)

    def _measured(self, z: Array) -> Array:
        """Values of losses above the uncompressed network's."""
        loss = z + self._loss(np.array(self.baseline))
        return np.asarray(CHANCE * -np.expm1(-loss) if self.bounded else loss)
