"""What is priced: a European call on an asset that follows geometric Brownian motion."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat


class European(BaseModel):
    """A European call, and the market it lives in."""

    model_config = ConfigDict(frozen=True)

    spot: PositiveFloat = 100.0
    strike: PositiveFloat = 105.0
    rate: float = 0.03
    volatility: PositiveFloat = 0.25
    expiry: PositiveFloat = 1.0

    @property
    def drift(self) -> float:
        """Mean of log(S_T / S_0) under the risk-neutral measure."""
        return (self.rate - 0.5 * self.volatility**2) * self.expiry

    @property
    def deviation(self) -> float:
        """Standard deviation of log(S_T / S_0)."""
        return float(self.volatility * self.expiry**0.5)
