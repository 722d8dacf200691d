"""The front ends that have resolved before: `pylock.toml` (PEP 751), and uv, which exports one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import CommandFailed, Entry, Failure, Request, Selection, canonical, run, say, toml_reader
from front_end import MAIN, Locked, check_known
from index import Index, file_of, link_of

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock

    Artifact = PackageWheel | PackageSdist


class PylockProject:
    """A project with a committed `pylock.toml`."""

    file = "pylock.toml"

    def __init__(self, request: Request) -> None:
        self.request = request
        self.folder = Path(request["project"])
        self.manifest: dict[str, Any] = toml_reader().loads((self.folder / "pyproject.toml").read_text("utf-8"))
        self.project: dict[str, Any] = self.manifest.get("project", {})

    def python(self) -> tuple[str, Callable[[str], bool]]:
        from packaging.specifiers import SpecifierSet

        wanted = SpecifierSet(self.project.get("requires-python", ""))
        return str(wanted), lambda version: wanted.contains(version, prereleases=True)

    def locked(self, index: Index) -> Locked:
        if unknown := set(self.request["served_by"]) - set(self.sources().values()):
            raise Failure("request", f"pyproject.toml has no index `{min(unknown)}`", subject=min(unknown))
        self.check()
        wanted: dict[tuple[str, str], tuple[Package, Artifact, list[str]]] = {}
        installs_itself = False
        for selection in self.request["selections"]:
            for package, artifact in self.chosen(selection):
                if artifact is None:
                    installs_itself = True
                    continue
                key = (package.name, version_of(package, artifact))
                wanted.setdefault(key, (package, artifact, []))[2].append(selection["name"])
        say(f"choosing files for {len(wanted)} packages")
        with ThreadPoolExecutor(8) as threads:
            packages = list(threads.map(lambda it: self.describe(index, *it), wanted.values()))
        return Locked(
            packages=packages,
            groups={MAIN: {"optional": False}},
            extras={},
            sources=[
                {
                    "name": name,
                    "priority": "explicit",
                    "served_by": self.request["served_by"].get(name, "manifest"),
                }
                for name in self.sources().values()
            ],
            root=self.root() if installs_itself else None,
            notes=[] if installs_itself else self.not_installed(),
        )

    def check(self) -> None:
        """Refuse a lock of another manifest, as far as that can be seen: PEP 751 has no digest of it."""
        from packaging.requirements import Requirement

        chosen = {package.name: package for package, _ in self.select(self.lock(), [], [])}
        for requirement in map(Requirement, self.project.get("dependencies", [])):
            if requirement.marker and not requirement.marker.evaluate():
                continue
            package = chosen.get(canonical(requirement.name))
            if package is None:
                reason = f"it has no `{requirement.name}`"
            elif package.version and not requirement.specifier.contains(package.version, prereleases=True):
                reason = f"it has `{package.name} {package.version}`, and wanted is {requirement.specifier}"
            else:
                continue
            raise Failure("manifest", f"`{self.file}` does not fit `pyproject.toml`: {reason}")

    def lock(self) -> Pylock:
        return read((self.folder / self.file).read_text("utf-8"), self.file)

    def chosen(self, selection: Selection) -> Iterator[tuple[Package, Artifact | None]]:
        """What is installed for a selection; no file is the project itself."""
        if selection["only"] and MAIN not in selection["only"]:
            said = f"`{self.file}` does not tell what a group needs from what the project needs"
            raise Failure("request", said, detail=f"`only` is to name `{MAIN}` as well")
        lock = self.lock()
        known = {canonical(group) for group in [*(lock.dependency_groups or []), *(lock.default_groups or [])]}
        default = [] if selection["only"] else map(canonical, lock.default_groups or [])
        without = set(map(canonical, selection["without"]))
        named = {canonical(group) for group in [*selection["with"], *selection["only"]]} - {MAIN}
        check_known(self.file, "group", named | without, known)
        check_known(self.file, "extra", map(canonical, selection["extras"]), map(canonical, lock.extras or []))
        yield from self.select(lock, selection["extras"], [*({*default, *named} - without)])

    def select(
        self, lock: Pylock, extras: list[str], groups: list[str]
    ) -> Iterator[tuple[Package, Artifact | None]]:
        from packaging.pylock import PackageDirectory, PackageSdist, PackageWheel, PylockSelectError

        try:
            chosen = list(lock.select(extras=extras, dependency_groups=groups))
        except PylockSelectError as error:
            raise Failure("resolve", f"`{self.file}` cannot be installed here", detail=str(error)) from error
        for package, artifact in chosen:
            if isinstance(artifact, (PackageWheel, PackageSdist)):
                yield package, artifact
            elif isinstance(artifact, PackageDirectory) and Path(artifact.path) == Path("."):
                yield package, None
            else:
                kind = type(artifact).__name__.removeprefix("Package").lower()
                said = f"`{package.name}` comes from a {kind}; only indexes can be locked"
                raise Failure("unsupported", said, subject=package.name)

    def sources(self) -> dict[str, str]:
        """The names of the manifest's indexes, by their addresses; the default one has none."""
        tool = self.manifest.get("tool", {})
        named = [*tool.get("uv", {}).get("index", []), *tool.get("poetry", {}).get("source", [])]
        return {
            it["url"].rstrip("/"): it["name"]
            for it in named
            if "name" in it and "url" in it and it["name"].lower() != "pypi"
        }

    def describe(self, index: Index, package: Package, artifact: Artifact, wanted_by: list[str]) -> Entry:
        """A distribution as the lock has it, with its file as an index lists it."""
        name, version = package.name, version_of(package, artifact)
        # An index without a name in the manifest is a mirror of the default one: the file's digest says so.
        source = self.sources().get((package.index or "").rstrip("/"))
        sha256 = artifact.hashes.get("sha256")
        if sha256 is None:
            raise Failure("manifest", f"`{self.file}` has no sha256 of `{artifact.filename}`", subject=name)
        repository = index.repository(source)
        link = link_of(repository, name, artifact.filename)
        file = file_of(repository, link)
        if file["sha256"] != sha256.lower():
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
            "wanted_by": wanted_by,
            "file": file,
        }

    def root(self) -> Entry | None:
        """What is installed of the project itself."""
        system = self.manifest.get("build-system", {})
        if system.get("build-backend") != "poetry.core.masonry.api":
            raise Failure(
                "unsupported",
                f"the project is built by `{system.get('build-backend', 'setuptools')}`; only poetry-core's are",
                detail="`[tool.uv] package = false` installs what it needs, and not the project itself",
            )
        from poetry_project import open_project, root_package

        return root_package(open_project(self.folder))

    def not_installed(self) -> list[str]:
        if scripts := sorted(self.project.get("scripts", {})):
            return [f"the project itself is not installed, so there is no `{'`, `'.join(scripts)}`"]
        return []


class UvProject(PylockProject):
    """A project with a committed `uv.lock`: uv itself says what is installed."""

    file = "uv.lock"

    def check(self) -> None:
        try:
            uv("lock", "--check", "--directory", self.folder)
        except CommandFailed as error:
            raise Failure(
                "manifest",
                "uv does not take `uv.lock` as it stands: if it does not fit `pyproject.toml`, `uv lock` makes it fit",
                detail=f"{error}\n(it runs without network here)",
            ) from error

    def chosen(self, selection: Selection) -> Iterator[tuple[Package, Artifact | None]]:
        self.check_groups(selection)
        words = {"with": "group", "without": "no-group", "only": "only-group", "extras": "extra"}
        options = [option for word, flag in words.items() for it in selection[word] for option in (f"--{flag}", it)]
        try:
            exported = uv("export", "--frozen", "--format", "pylock.toml", "--directory", self.folder, *options)
        except CommandFailed as error:
            raise Failure("request", f"uv has no `{selection['name']}` of the project", detail=str(error)) from error
        yield from self.select(read(exported, self.file), [], [])

    def check_groups(self, selection: Selection) -> None:
        """A group may want another Python than the project, which an export does not say."""
        import platform

        from packaging.specifiers import SpecifierSet

        tool = self.manifest.get("tool", {}).get("uv", {})
        settings = {canonical(name): it for name, it in tool.get("dependency-groups", {}).items()}
        default = tool.get("default-groups", ["dev"])
        default = self.manifest.get("dependency-groups", {}) if default == "all" else default
        without = set(map(canonical, selection["without"]))
        groups = {canonical(name) for name in selection["only"] or [*default, *selection["with"]]} - without
        for name in sorted(groups):
            wanted = SpecifierSet(settings.get(name, {}).get("requires-python", ""))
            if not wanted.contains(platform.python_version(), prereleases=True):
                said = f"the group `{name}` wants Python {wanted}, this image has {platform.python_version()}"
                raise Failure("python", said, subject=name)


def uv(*arguments: str | Path) -> str:
    """Run uv, which asks nothing of the network: all that it needs is in its lock. What it printed."""
    return run(sys.executable, "-m", "uv", *arguments, "--python", sys.executable, "--offline", "--quiet")


def read(text: str, name: str) -> Pylock:
    from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError

    try:
        return Pylock.from_dict(toml_reader().loads(text))
    except (PylockValidationError, PylockUnsupportedVersionError, ValueError) as error:
        raise Failure("manifest", f"`{name}` cannot be read", detail=str(error)) from error


def version_of(package: Package, artifact: Artifact) -> str:
    """The version that the lock has, or its file's name: PEP 751 leaves it open."""
    from packaging.utils import parse_sdist_filename, parse_wheel_filename

    if package.version:
        return str(package.version)
    is_wheel = artifact.filename.endswith(".whl")
    return str((parse_wheel_filename if is_wheel else parse_sdist_filename)(artifact.filename)[1])
