"""What every part of the resolution uses: failures, commands, pip."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

Entry = dict[str, Any]

DEFAULT = "default-index"
"""The default index's name in the working copy; in requests it is called `pypi`."""


Selection = TypedDict(
    "Selection", {"name": str, "with": list[str], "without": list[str], "only": list[str], "extras": list[str]}
)
"""Groups and extras that an image takes together, and what `wanted_by` calls them."""


class Request(TypedDict):
    """The request: see `__main__`."""

    project: str
    front_end: str
    workdir: str
    index: str
    sources: dict[str, str]
    served_by: dict[str, str]
    tools: list[str]
    tools_apart: bool
    selections: list[Selection]
    collections: dict[str, list[str]]
    previous: dict[str, Any] | None
    update: list[str]
    bases: list[tuple[str, str]]


class Failure(Exception):
    """An end that a user can do something about."""

    def __init__(self, kind: str, message: str, *, subject: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.report = {
            "kind": kind,
            "message": message,
            "subject": subject,
            "detail": detail.strip(),
        }


class CommandFailed(Exception):
    """A command ended badly; the text is what it printed, from its first error on."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*command: str | Path, show: bool = False) -> str:
    """Run a command; its output is the reason if it fails, and progress if worth showing."""
    printed = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout
        for line in process.stdout:
            printed.append(line)
            if show and line.strip():
                say("  " + line.rstrip())
    if process.returncode:
        first = next((at for at, line in enumerate(printed) if line.startswith("ERROR:")), 0)
        raise CommandFailed("".join(printed[first:]))
    return "".join(printed)


def toml_reader() -> Any:
    """Python's own, or before 3.11 the one that Poetry brings."""
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib
    return tomllib


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def kept(entries: Iterable[Entry], update: Iterable[str]) -> list[str]:
    """Constraints that hold `entries` at their versions.

    What is in `update` may move, and so may what it requires: else it could not.
    """
    by_name = {entry["name"]: entry for entry in entries}
    moving, queue = set(), [canonical(name) for name in update]
    while queue:
        name = queue.pop()
        if name in by_name and name not in moving:
            moving.add(name)
            queue += by_name[name]["requires"]
    return [f"{name}=={entry['version']}" for name, entry in by_name.items() if name not in moving]


def earlier_tools(request: Request) -> list[Entry]:
    """The tools of an earlier answer, at versions of their own: those that the project displaced are the project's."""
    previous = request["previous"] or {"tools": []}
    displaced = {entry["name"] for entry in previous.get("displaced", [])}
    return [tool for tool in previous["tools"] if tool["name"] not in displaced]


def pip(*arguments: str | Path, constraints: list[str], preferences: list[str]) -> None:
    """`pip install`; the preferences are constraints that give way to a conflict.

    A conflict is explained at the level of plain messages, so pip is not told to be quiet.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join([*constraints, *preferences]))
        file.flush()
        try:
            run(sys.executable, "-m", "pip", "install", "--constraint", file.name, *arguments)
        except CommandFailed:
            if not preferences:
                raise
            say("the earlier versions no longer go together; resolving without them")
            pip(*arguments, constraints=constraints, preferences=[])
