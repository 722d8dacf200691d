"""The price as a mean over simulated terminal values."""

from __future__ import annotations

import math
from typing import NamedTuple

from spectralmc.backend import Backend
from spectralmc.model import European


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error."""

    price: float
    standard_error: float


def simulate(option: European, backend: Backend, paths: int, seed: int) -> Estimate:
    """Price the call with `paths` exact draws of S_T; the same seed gives the same price."""
    if paths < 2:
        raise ValueError("a standard error needs at least two paths")
    z = backend.normals(paths, seed)
    terminal = option.spot * backend.xp.exp(option.drift + option.deviation * z)
    payoff = (terminal - option.strike).clip(min=0.0)
    mean = float(payoff.mean())
    variance = float(((payoff - mean) ** 2).sum()) / (paths - 1)
    discount = math.exp(-option.rate * option.expiry)
    return Estimate(discount * mean, discount * math.sqrt(variance / paths))
