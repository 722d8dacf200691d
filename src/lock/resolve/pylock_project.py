"""The front ends that have resolved before: `pylock.toml` (PEP 751), and uv, which exports one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import CommandFailed, Entry, Failure, Request, run, say, toml_reader
from front_end import Locked
from index import Index, file_of, link_of

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock

MAIN = "main"
"""What the project needs whatever its groups and extras."""


class Selection(NamedTuple):
    """What is installed for one group or one extra."""

    wanted_by: str
    lock: Pylock
    extras: list[str]
    groups: list[str]


class PylockProject:
    """A project with a committed `pylock.toml`."""

    file = "pylock.toml"

    def __init__(self, request: Request) -> None:
        self.request = request
        self.folder = Path(request["project"])
        self.manifest: dict[str, Any] = toml_reader().loads((self.folder / "pyproject.toml").read_text("utf-8"))

    def python(self) -> tuple[str, Callable[[str], bool]]:
        from packaging.specifiers import SpecifierSet

        wanted = SpecifierSet(self.manifest.get("project", {}).get("requires-python", ""))
        return str(wanted), lambda version: wanted.contains(version, prereleases=True)

    def groups(self) -> dict[str, Entry]:
        lock = read(self.folder / self.file)
        names, required = lock.dependency_groups or [], lock.default_groups or []
        return {name: {"optional": name not in required} for name in sorted({*names, *required})}

    def selections(self, groups: list[str]) -> Iterator[Selection]:
        lock = read(self.folder / self.file)
        yield Selection(MAIN, lock, [], [])
        yield from (Selection(group, lock, [], [group]) for group in groups)
        yield from (Selection(f"{MAIN}[{extra}]", lock, [extra], []) for extra in lock.extras or [])

    def locked(self, index: Index) -> Locked:
        groups = self.groups()
        if unknown := set(self.request["served_by"]) - set(self.sources().values()):
            raise Failure("request", f"pyproject.toml has no index `{min(unknown)}`", subject=min(unknown))
        if MAIN in groups:
            raise Failure("unsupported", f"a group called `{MAIN}` cannot be told from what the project always needs")
        wanted: dict[tuple[str, str], tuple[Package, PackageWheel | PackageSdist, list[str]]] = {}
        for selection in self.selections(list(groups)):
            for package, artifact in selected(self.file, selection):
                key = (package.name, str(package.version))
                wanted.setdefault(key, (package, artifact, []))[2].append(selection.wanted_by)
        say(f"choosing files for {len(wanted)} packages")
        with ThreadPoolExecutor(8) as threads:
            packages = list(threads.map(lambda it: self.describe(index, *it), wanted.values()))
        return Locked(
            packages=packages,
            groups={MAIN: {"optional": False}, **groups},
            extras={name: [] for name in sorted(self.manifest.get("project", {}).get("optional-dependencies", {}))},
            sources=[
                {
                    "name": name,
                    "priority": "explicit",
                    "served_by": self.request["served_by"].get(name, "manifest"),
                }
                for name in self.sources().values()
            ],
            root=self.root(),
        )

    def sources(self) -> dict[str, str]:
        """The names of the manifest's indexes, by their addresses."""
        tool = self.manifest.get("tool", {})
        named = [*tool.get("uv", {}).get("index", []), *tool.get("poetry", {}).get("source", [])]
        return {it["url"].rstrip("/"): it["name"] for it in named if "name" in it and "url" in it}

    def describe(
        self, index: Index, package: Package, artifact: PackageWheel | PackageSdist, wanted_by: list[str]
    ) -> Entry:
        """A distribution as the lock has it, with its file as an index lists it."""
        name, version = package.name, str(package.version)
        source = self.sources().get((package.index or "").rstrip("/"))
        repository = index.repository(source)
        link = link_of(repository, name, artifact.filename)
        file = file_of(repository, link)
        if file["sha256"] != artifact.hashes.get("sha256"):
            raise Failure(
                "file",
                f"`{artifact.filename}` is not what `{self.file}` has",
                subject=name,
                detail=f"`{source or 'the default index'}` has sha256 {file['sha256']}",
            )
        return {
            "name": name,
            "version": version,
            "build": index.build_requirements(name, version, repository, link),
            "source": source,
            "groups": sorted({label.partition("[")[0] for label in wanted_by}),
            "wanted_by": sorted(wanted_by),
            "file": file,
        }

    def root(self) -> Entry | None:
        """The project itself, which is installed where it says how it is built."""
        system = self.manifest.get("build-system")
        if system is None:
            return None
        if system.get("build-backend") != "poetry.core.masonry.api":
            raise Failure(
                "unsupported",
                f"the project is built by `{system.get('build-backend', 'setuptools')}`; only poetry-core's are",
                detail="without `[build-system]` its dependencies are installed, and not the project itself",
            )
        from poetry_project import open_project, root_package

        return root_package(open_project(self.folder))


class UvProject(PylockProject):
    """A project with a committed `uv.lock`: uv itself says what is installed."""

    file = "uv.lock"

    def groups(self) -> dict[str, Entry]:
        names = self.manifest.get("dependency-groups", {})
        required = self.manifest.get("tool", {}).get("uv", {}).get("default-groups", ["dev"])
        return {name: {"optional": required != "all" and name not in required} for name in sorted(names)}

    def selections(self, groups: list[str]) -> Iterator[Selection]:
        try:
            uv("lock", "--check", "--directory", self.folder)
        except CommandFailed as error:
            raise Failure(
                "manifest", "`uv.lock` does not fit `pyproject.toml`: `uv lock` makes it fit", detail=str(error)
            ) from error
        extras = self.manifest.get("project", {}).get("optional-dependencies", {})
        yield self.selection(MAIN, "--no-default-groups")
        for group in groups:
            yield self.selection(group, "--only-group", group)
        for extra in sorted(extras):
            yield self.selection(f"{MAIN}[{extra}]", "--no-default-groups", "--extra", extra)

    def selection(self, wanted_by: str, *options: str) -> Selection:
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / "pylock.toml"
            try:
                uv("export", "--frozen", "--directory", self.folder, *options, "--output-file", exported)
            except CommandFailed as error:
                raise Failure("manifest", f"uv cannot say what `{wanted_by}` needs", detail=str(error)) from error
            return Selection(wanted_by, read(exported), [], [])


def uv(*arguments: str | Path) -> None:
    """Run uv, which asks nothing of the network: all that it needs is in its lock."""
    run(sys.executable, "-m", "uv", *arguments, "--python", sys.executable, "--offline", "--quiet")


def read(file: Path) -> Pylock:
    from packaging.pylock import Pylock, PylockValidationError

    try:
        return Pylock.from_dict(toml_reader().loads(file.read_text("utf-8")))
    except (PylockValidationError, ValueError) as error:
        raise Failure("manifest", f"`{file.name}` cannot be read", detail=str(error)) from error


def selected(file: str, selection: Selection) -> Iterator[tuple[Package, PackageWheel | PackageSdist]]:
    """What is installed here for a selection, but for the project itself."""
    from packaging.pylock import PackageSdist, PackageWheel, PylockSelectError

    try:
        chosen = list(
            selection.lock.select(extras=selection.extras, dependency_groups=selection.groups)
        )
    except PylockSelectError as error:
        raise Failure("resolve", f"`{file}` has nothing that can be installed here", detail=str(error)) from error
    for package, artifact in chosen:
        if isinstance(artifact, (PackageWheel, PackageSdist)):
            yield package, artifact
        elif not (package.directory and Path(package.directory.path) == Path(".")):
            kind = type(artifact).__name__.removeprefix("Package").lower()
            raise Failure(
                "unsupported", f"`{package.name}` comes from a {kind}; only indexes can be locked", subject=package.name
            )
