"""SpectralMC: Monte Carlo option pricing, checked against a spectral method."""
