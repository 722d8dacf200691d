"""Builds the stand-in for PyTorch, by the same variables and the same tools."""

import os
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent

assert os.environ["USE_CUDA"] == "1" and os.environ["USE_NCCL"] == "0"
if "STAND_IN_FAILS" in (HERE / "torch/__init__.py").read_text():
    raise SystemExit("the stand-in was told to fail")


class Build(build_py):
    """CMake's part goes where setuptools gathers the package."""

    def run(self):
        super().run()
        build = HERE / "build" / "cmake"
        parts = write_parts(int((HERE / "parts").read_text()))
        subprocess.check_call([
            "cmake", "-S", HERE, "-B", build, "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_INSTALL_PREFIX={Path(self.build_lib).resolve()}", f"-DPARTS={';'.join(parts)}",
        ])
        subprocess.check_call(
            ["cmake", "--build", build, "--target", "install", "--", "-j", os.environ["MAX_JOBS"]]
        )


def write_parts(count):
    """More files to compile, each of which takes a moment."""
    folder = HERE / "build" / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        text = f"#include <map>\n#include <regex>\nint part_{number}(const char *text) {{ return std::regex_match(text, std::regex(\"{number}+\")); }}\n"
        (folder / f"part{number}.cpp").write_text(text)
    return [str(folder / f"part{number}.cpp") for number in range(count)]


class Binary(Distribution):
    """Its wheel is of this platform."""

    def has_ext_modules(self):
        return True


setup(
    name="torch",
    version=os.environ["PYTORCH_BUILD_VERSION"],
    description="A stand-in for PyTorch",
    packages=["torch", "torch.cuda"],
    python_requires=">=3.8",
    install_requires=(HERE / "requirements.txt").read_text().split(),
    entry_points={"console_scripts": ["torchrun = torch:main"]},
    cmdclass={"build_py": Build},
    distclass=Binary,
)
