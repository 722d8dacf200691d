"""The price from the characteristic function alone: the COS method.

F. Fang and C. W. Oosterlee, "A novel pricing method for European options based on
Fourier-cosine series expansions", SIAM J. Sci. Comput. 31 (2008). The density of
x = log(S_T / K) is expanded in cosines over [a, b]; its coefficients are values of the
characteristic function. The put's payoff is bounded, so the put is what is expanded, and
the call follows by put-call parity.
"""

from __future__ import annotations

import numpy as np

from spectralmc.model import European

TERMS = 256
HALF_WIDTH = 10.0  # of the expansion interval, in standard deviations


def cos_price(option: European) -> float:
    """The call's price by the COS method; its error is near machine precision."""
    mean = np.log(option.spot / option.strike) + option.drift
    # The payoff's integral runs over [a, 0], so the interval must reach across 0.
    a = min(mean - HALF_WIDTH * option.deviation, -option.deviation)
    b = max(mean + HALF_WIDTH * option.deviation, option.deviation)
    u = np.arange(TERMS) * np.pi / (b - a)

    phi = np.exp(1j * u * mean - 0.5 * (u * option.deviation) ** 2)
    density = (phi * np.exp(-1j * u * a)).real
    density[0] *= 0.5

    # Cosine coefficients of the payoff K (1 - e^x) on [a, 0].
    sine, cosine = np.sin(-u * a), np.cos(-u * a)
    flat = np.append(-a, sine[1:] / u[1:])
    exponential = (cosine + u * sine - np.exp(a)) / (1.0 + u**2)
    payoff = 2.0 / (b - a) * option.strike * (flat - exponential)

    discount = np.exp(-option.rate * option.expiry)
    put = discount * np.dot(density, payoff)
    return float(put + option.spot - option.strike * discount)
