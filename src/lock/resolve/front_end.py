"""Front ends: what turns a project's manifest into distributions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from common import Entry, Failure, Request

if TYPE_CHECKING:
    from index import Index

MAIN = "main"
"""What the project needs whatever its groups and extras."""


@dataclass
class Locked:
    """What a front end decided, with the one file of each distribution that fits here."""

    packages: list[Entry]
    """Each with what wants it: groups (of Poetry's), and selections of the request, by name."""
    groups: dict[str, Entry]
    extras: dict[str, list[str]]
    sources: list[Entry]
    root: Entry | None
    """What an editable install writes of the project itself; None where it is not installed."""
    notes: list[str] = field(default_factory=list)
    """What a person should know with each build."""
    about: dict[str, str] = field(default_factory=dict)
    """What only this front end says."""


class FrontEnd(Protocol):
    """A project, as one front end reads it."""

    def python(self) -> tuple[str, Callable[[str], bool]]:
        """Which Pythons the project wants, in its words, and whether a version is one of them."""

    def locked(self, index: Index) -> Locked:
        """Resolve the project, or take what it has resolved."""


def front_end(request: Request) -> FrontEnd:
    """The project of the request."""
    if request["front_end"] == "poetry":
        from poetry_project import PoetryProject

        return PoetryProject(request)
    from pylock_project import PylockProject, UvProject

    return {"pylock": PylockProject, "uv": UvProject}[request["front_end"]](request)


def check_python(project: FrontEnd, bases: list[tuple[str, str]]) -> None:
    """Refuse a Python that the project does not want."""
    version = platform.python_version()
    wanted, allows = project.python()
    if not allows(version):
        fitting = [f"`{name}` has {python}" for name, python in bases if allows(python)]
        raise Failure(
            "python",
            f"the project wants Python {wanted}, this image has {version}",
            subject=version,
            detail=f"of the bases: {', '.join(fitting)}" if fitting else "none of the recipes' bases has such a one",
        )


def check_known(file: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names of groups or extras that a file has not."""
    known = set(map(str, known))
    if unknown := sorted(set(names) - known):
        there = ", ".join(f"`{name}`" for name in sorted(known)) or "none"
        raise Failure("request", f"`{file}` has no {what} `{unknown[0]}`; it has {there}", subject=unknown[0])
