"""Where the paths are drawn: CuPy or torch on a usable GPU, else NumPy.

A GPU counts as usable only once it has computed something. That it is listed proves little:
a library without code for its architecture fails at the first kernel ("no kernel image is
available for execution on the device"), and without a driver even the import may raise.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Normals = Callable[[int, int], Any]
"""(count, seed) -> that many standard normal doubles, as the library's own array."""


@dataclass(frozen=True)
class Backend:
    """An array library on one device; `xp` is its NumPy-like namespace."""

    library: str
    device: str
    xp: Any
    normals: Normals


@dataclass(frozen=True)
class Unusable:
    """A library that cannot compute on a GPU here, and why."""

    library: str
    reason: str


def _numpy() -> Backend:
    def normals(count: int, seed: int) -> Any:
        return np.random.default_rng(seed).standard_normal(count)

    return Backend("numpy", "cpu", np, normals)


def _cupy() -> Backend:
    cupy = importlib.import_module("cupy")
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()

    def normals(count: int, seed: int) -> Any:
        return cupy.random.default_rng(seed).standard_normal(count)

    return Backend("cupy", name, cupy, normals)


def _torch() -> Backend:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")

    def normals(count: int, seed: int) -> Any:
        generator = torch.Generator(device="cuda").manual_seed(seed)
        return torch.randn(count, generator=generator, device="cuda", dtype=torch.float64)

    return Backend("torch", torch.cuda.get_device_name(0), torch, normals)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.strip("=")), type(error).__name__)


def select() -> tuple[Backend, list[Unusable]]:
    """The best backend that works here, and what stood in the way of better ones."""
    unusable: list[Unusable] = []
    for library, open_backend in (("cupy", _cupy), ("torch", _torch)):
        try:
            backend = open_backend()
            float(backend.xp.exp(backend.normals(8, 0)).mean())
        except Exception as error:  # every library and driver has errors of its own
            unusable.append(Unusable(library, _first_line(error)))
        else:
            return backend, unusable
    return _numpy(), unusable
