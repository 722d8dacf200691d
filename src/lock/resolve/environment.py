"""The private environment that the resolution runs in, made on the bare interpreter."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

from common import CommandFailed, Failure, Request, earlier_tools, kept, run, say

PATIENCE = 24 * 60 * 60
"""How long pip and Poetry wait for a byte, in seconds."""

FRONT_ENDS = {"poetry": [], "uv": ["uv", "packaging>=26.1"], "pylock": ["packaging>=26.1"]}
"""What front ends are read with, beside Poetry: `packaging` selects from a lock since that version."""


def bootstrap(request: Request, home: Path) -> Path:
    """Make an environment with pip and Poetry; its interpreter."""
    say("installing Poetry")
    python = home / "bin" / "python"
    try:
        venv.create(home, clear=True, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise Failure(
            "bootstrap", "this Python cannot make environments (Debian: python3-venv)", detail=str(error)
        ) from error
    wanted = ["pip", "poetry", *FRONT_ENDS[request["front_end"]]]
    arguments = ["-m", "pip", "install", "--no-compile", "--upgrade", *wanted]
    limits = home / "constraints.txt"
    preferences = kept(earlier_tools(request), request["update"])
    while True:
        limits.write_text("\n".join(preferences))
        try:
            run(python, *arguments, "--constraint", limits)
            return python
        except CommandFailed as error:
            if not preferences:
                raise Failure("bootstrap", "Poetry could not be installed", detail=str(error)) from error
            say("the earlier Poetry can no longer be had; taking a newer one")
            preferences = []


def prepare_environment(request: Request) -> None:
    """Settings for pip and Poetry, here and in every child."""
    cache = Path(request["workdir"]) / "cache"
    os.environ |= {
        "PIP_CACHE_DIR": str(cache / "pip"),
        "PIP_DEFAULT_TIMEOUT": str(PATIENCE),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_INDEX_URL": request["index"],
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_ROOT_USER_ACTION": "ignore",
        "POETRY_CACHE_DIR": str(cache / "poetry"),
        "POETRY_KEYRING_ENABLED": "false",
        "POETRY_REQUESTS_TIMEOUT": str(PATIENCE),
        "POETRY_SOLVER_LAZY_WHEEL": "true",
        "PYTHONNOUSERSITE": "1",
        "UV_CACHE_DIR": str(cache / "uv"),
    }
