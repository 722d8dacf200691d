"""A stand-in for PyTorch: as much of it as the application asks for."""

import ctypes
from importlib.metadata import version
from pathlib import Path

import filelock  # what the real one requires at run time too

from . import cuda

__version__ = version("torch")
library = ctypes.CDLL(str(Path(__file__).parent / "lib" / "libtorch_cuda.so"))
library.stand_in_file.restype = ctypes.c_char_p
library.stand_in_asum.restype = ctypes.c_double


def asum(*values: float) -> float:
    return library.stand_in_asum((ctypes.c_double * len(values))(*values), len(values))


def scale(*values: float) -> int:
    return library.stand_in_scale((ctypes.c_float * len(values))(*values), len(values))


def main() -> None:
    print(filelock.__name__, library.stand_in_file().decode(), library.stand_in_cudnn())
