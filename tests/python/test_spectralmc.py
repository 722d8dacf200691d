"""Run with `python3 -m unittest discover -s tests/python` from the checkout's root."""

from __future__ import annotations

import json
import math
import unittest
from contextlib import redirect_stdout
from io import StringIO

from scipy.special import ndtr

from spectralmc.__main__ import main
from spectralmc.model import European
from spectralmc.spectral import cos_price


def black_scholes(option: European) -> float:
    d2 = (math.log(option.spot / option.strike) + option.drift) / option.deviation
    d1 = d2 + option.deviation
    discounted = option.strike * math.exp(-option.rate * option.expiry)
    return float(option.spot * ndtr(d1) - discounted * ndtr(d2))


class Prices(unittest.TestCase):
    def test_the_spectral_price_is_the_closed_form(self) -> None:
        for strike in (20.0, 80.0, 100.0, 130.0, 400.0):
            for volatility in (0.05, 0.25, 0.8):
                for expiry in (0.1, 1.0, 5.0):
                    option = European(strike=strike, volatility=volatility, expiry=expiry)
                    with self.subTest(option=option):
                        self.assertAlmostEqual(cos_price(option), black_scholes(option), places=8)

    def test_a_run_agrees_and_repeats(self) -> None:
        outputs = []
        for _ in range(2):
            with redirect_stdout(StringIO()) as out:
                self.assertEqual(main(["--json", "--paths", "100000"]), 0)
            outputs.append(json.loads(out.getvalue()))
        self.assertTrue(outputs[0]["agree"])
        self.assertEqual(outputs[0], outputs[1])


if __name__ == "__main__":
    unittest.main()
