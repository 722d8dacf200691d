"""Builds an sdist's wheel by its own backend (PEP 517): build_wheel.py SDIST WHEELS.

The sandbox has what the lock names and no network, so nothing is isolated or installed here. The
source stands in one place always, for compilers write paths down.
"""

import importlib
import os
import shutil
import sys
import tomllib
from pathlib import Path

sdist, wheels = sys.argv[1:]
source = Path("/usr/src/sdist")
shutil.unpack_archive(sdist, source)
[source] = source.iterdir()
os.chdir(source)
manifest = Path("pyproject.toml")
system = tomllib.loads(manifest.read_text(encoding="utf-8")).get("build-system", {}) if manifest.exists() else {}
name = system.get("build-backend", "setuptools.build_meta:__legacy__")
sys.path[:0] = [str(source / folder) for folder in system.get("backend-path", [])]
module, _, attributes = name.partition(":")
backend = importlib.import_module(module)
for attribute in filter(None, attributes.split(".")):
    backend = getattr(backend, attribute)
os.makedirs(wheels)
print(backend.build_wheel(wheels))
