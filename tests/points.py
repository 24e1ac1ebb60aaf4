"""Random point sets, and what DEAP needs to select from them, as an oracle."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def point_sets(draw, max_rows=25, levels=6):
    """Points on a coarse grid, so that ties and duplicates are the rule."""
    rows, objectives = draw(st.integers(1, max_rows)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, levels, size=(rows, objectives)).astype(float)


class Individual:
    def __init__(self, index, row):
        self.index = index
        self.fitness = Fitness(tuple(row))


class Fitness:
    def __init__(self, values):
        self.values, self.wvalues = values, tuple(-v for v in values)

    def dominates(self, other):
        return all(a >= b for a, b in zip(self.wvalues, other.wvalues, strict=True)) and self.wvalues != other.wvalues
