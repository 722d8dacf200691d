"""The command line: price one option both ways, and say on what."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from collections.abc import Sequence

from pydantic import BaseModel

from spectralmc.backend import select
from spectralmc.model import European
from spectralmc.montecarlo import simulate
from spectralmc.spectral import cos_price

LIBRARIES = ("numpy", "scipy", "torch", "cupy")
TOLERANCE = 4.0  # standard errors; a sound run fails once in 16,000 seeds


class Report(BaseModel):
    """All that a run has to say."""

    versions: dict[str, str | None]
    device: str
    unusable: dict[str, str]
    option: European
    paths: int
    seed: int
    monte_carlo: float
    standard_error: float
    spectral: float
    agree: bool


def _version(library: str) -> str | None:
    """The version of `library`, or None where it cannot be imported."""
    try:
        return str(importlib.import_module(library).__version__)
    except Exception:  # CuPy's import raises errors of many kinds where CUDA is missing
        return None


def run(option: European, paths: int, seed: int) -> Report:
    """Price `option` by simulation and by its characteristic function."""
    backend, unusable = select()
    estimate = simulate(option, backend, paths, seed)
    spectral = cos_price(option)
    versions: dict[str, str | None] = {"python": platform.python_version()}
    return Report(
        versions=versions | {library: _version(library) for library in LIBRARIES},
        device=f"{backend.library} on {backend.device}",
        unusable={entry.library: entry.reason for entry in unusable},
        option=option,
        paths=paths,
        seed=seed,
        monte_carlo=estimate.price,
        standard_error=estimate.standard_error,
        spectral=spectral,
        agree=abs(estimate.price - spectral) <= TOLERANCE * estimate.standard_error,
    )


def _text(report: Report) -> str:
    lines = [f"{name:<12}{version or 'not there'}" for name, version in report.versions.items()]
    lines.append(f"{'device':<12}{report.device}")
    lines += [f"{'':<12}not {library}: {why}" for library, why in report.unusable.items()]
    lines.append(
        f"{'monte carlo':<12}{report.monte_carlo:.6f} ± {report.standard_error:.6f}"
        f"  ({report.paths} paths, seed {report.seed})"
    )
    verdict = "agrees" if report.agree else "DISAGREES"
    lines.append(f"{'spectral':<12}{report.spectral:.6f}  {verdict}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if both prices agree, 1 if not."""
    parser = argparse.ArgumentParser(prog="spectralmc", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--paths", type=int, default=1 << 20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=2024, help="default: %(default)s")
    for name, field in European.model_fields.items():
        parser.add_argument(f"--{name}", type=float, default=field.default, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))

    option = European(**{name: options[name] for name in European.model_fields})
    report = run(option, options["paths"], options["seed"])
    print(report.model_dump_json(indent=2) if options["json"] else _text(report))
    return 0 if report.agree else 1


if __name__ == "__main__":
    sys.exit(main())
