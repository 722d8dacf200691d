"""The front end Poetry: its manifest, and its lock."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import DEFAULT, CommandFailed, Entry, Failure, Request, Selection, canonical, run, say, toml_reader
from front_end import Locked, check_known
from index import Index, file_of

if TYPE_CHECKING:
    from poetry.poetry import Poetry


def open_project(folder: Path) -> Poetry:
    from poetry.factory import Factory

    try:
        return Factory().create_poetry(folder)
    except Exception as error:  # Poetry and its TOML reader raise many kinds
        raise Failure("manifest", "Poetry cannot read pyproject.toml", detail=str(error)) from error


def working_copy(request: Request) -> Path:
    """A copy of the project whose sources lead where the request wants them."""
    import tomlkit

    original, copy = Path(request["project"]), Path(request["workdir"]) / "project"
    copy.mkdir(parents=True, exist_ok=True)
    for name in ("poetry.toml", "poetry.lock"):
        (copy / name).unlink(missing_ok=True)
    if (original / "poetry.toml").exists():
        (copy / "poetry.toml").write_bytes((original / "poetry.toml").read_bytes())

    manifest: Any = tomlkit.parse((original / "pyproject.toml").read_text(encoding="utf-8"))
    poetry = manifest.setdefault("tool", {}).setdefault("poetry", {})
    sources = poetry.setdefault("source", tomlkit.aot())
    if unknown := set(request["served_by"]) - {source["name"] for source in sources}:
        name = min(unknown)
        raise Failure("request", f"pyproject.toml has no source `{name}`", subject=name)
    for source in sources:
        if source["name"].lower() == "pypi":
            source |= {"name": DEFAULT, "url": request["index"]}
        else:
            source["url"] = request["sources"][source["name"]]
    # Poetry's own rule: its built-in index serves unless another source is primary.
    has_default = any(source["name"] == DEFAULT for source in sources)
    if not has_default and all(source.get("priority", "primary") != "primary" for source in sources):
        sources.append(tomlkit.item({"name": DEFAULT, "url": request["index"], "priority": "primary"}))

    groups = [poetry, *poetry.get("group", {}).values()]
    for dependency in (d for group in groups for d in group.get("dependencies", {}).values()):
        for choice in dependency if isinstance(dependency, list) else [dependency]:
            if isinstance(choice, dict) and str(choice.get("source")).lower() == "pypi":
                choice["source"] = DEFAULT
    (copy / "pyproject.toml").write_text(tomlkit.dumps(manifest), encoding="utf-8")
    return copy


def sources_of(project: Poetry, request: Request) -> list[Entry]:
    """The manifest's sources, and what serves each: itself, the default index, or another."""

    def served_by(name: str) -> str:
        return "default" if name.lower() == "pypi" else request["served_by"].get(name, "manifest")

    return [
        {
            "name": source["name"],
            "priority": source.get("priority", "primary"),
            "served_by": served_by(source["name"]),
        }
        for source in project.local_config.get("source", [])
    ]


def check_dependencies(project: Poetry) -> None:
    """Refuse what comes from elsewhere than an index: nothing else can be reached, or locked."""
    strangers = {d.name: d.source_type for d in project.package.all_requires if d.source_type not in (None, "legacy")}
    for name, kind in sorted(strangers.items()):
        where = {"git": "a Git repository", "url": "an address"}.get(str(kind), f"a {kind} of this machine")
        raise Failure("unsupported", f"`{name}` comes from {where}; only indexes can be locked", subject=name)


def check_sources(copy: Poetry) -> None:
    """Ask each named source for one package that is bound to it.

    The solver would say of a dead source only that no version matches.
    """
    from poetry.repositories.exceptions import PackageNotFoundError

    bound = {str(d.source_name): d for d in reversed(copy.package.all_requires) if d.source_name}
    for name, dependency in sorted(bound.items()):
        say(f"asking source {name} for {dependency.name}")
        try:
            repository: Any = copy.pool.repository(name)
            repository.get_page(dependency.name)
        except (IndexError, PackageNotFoundError) as error:
            raise Failure(
                "source",
                f"source `{name}` offers no `{dependency.name}`, or refuses to show it",
                subject=name,
                detail=str(error),
            ) from error
        except Exception as error:  # of the network, of TLS, of a page that is none
            raise Failure("source", f"source `{name}` cannot be reached", subject=name, detail=str(error)) from error


def poetry_lock(answer: dict[str, Any], sources: list[Entry], url: Callable[[str], str]) -> dict[str, Any]:
    """The `poetry.lock` that an earlier answer stands for.

    A package is left out where its source is now served by something else: the same version
    there can be another build (torch 2.7.1 and 2.7.1+cu128).
    """
    packages = []
    for entry in answer["packages"]:
        source = entry["source"]
        if source and not any(s in sources for s in answer["sources"] if s["name"] == source):
            continue
        name = source or DEFAULT
        packages.append(
            {key: entry[key] for key in ("name", "version", "optional", "groups")}
            | {key: entry[key] for key in ("markers", "dependencies", "extras") if entry[key]}
            | {
                "description": "",
                "python-versions": entry["python_versions"],
                "files": [{"file": entry["file"]["name"], "hash": "sha256:" + entry["file"]["sha256"]}],
                "source": {"type": "legacy", "url": url(name), "reference": name},
            }
        )
    metadata = {
        "lock-version": answer["lock_version"],
        "python-versions": answer["python_versions"],
        "content-hash": answer["content_hash"],
    }
    return {"package": packages, "metadata": metadata}


def committed_lock(request: Request, project: Poetry) -> dict[str, Any] | None:
    """The project's own `poetry.lock`, which is taken as it stands; None where there is none."""
    file = Path(request["project"]) / "poetry.lock"
    if not file.exists():
        return None
    if not project.locker.is_fresh():
        raise Failure(
            "manifest",
            "`poetry.lock` does not fit `pyproject.toml`",
            detail="`poetry lock` makes it fit; without the file, Poetry resolves here",
        )
    say("taking `poetry.lock` as it stands")
    locked = toml_reader().loads(file.read_text(encoding="utf-8"))
    sources = project.local_config.get("source", [])
    names = {source["name"]: source["name"] for source in sources}
    names |= {source["url"].rstrip("/"): source["name"] for source in sources if "url" in source}
    for entry in locked["package"]:
        if "source" not in entry:
            entry["source"] = {"type": "legacy", "url": "", "reference": DEFAULT}
            continue
        source = entry["source"]
        if source["type"] != "legacy":
            continue
        name = names.get(source["reference"]) or names.get(source["url"].rstrip("/"))
        if name is None:
            said = f"`poetry.lock` has `{entry['name']}` of a source `{source['reference']}`"
            raise Failure("manifest", f"{said}, which `pyproject.toml` lacks", subject=entry["name"])
        source |= {"url": "", "reference": DEFAULT if name.lower() == "pypi" else name}
    return locked


def with_files(locked: dict[str, Any]) -> dict[str, Any]:
    """A lock whose packages have their files: before format 2.0 they stand apart."""
    apart = locked.get("metadata", {}).get("files", {})
    for entry in locked["package"]:
        entry.setdefault("files", apart.get(entry["name"], []))
    return locked


def poetry(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run Poetry; the lock that it leaves."""
    options = ("--no-interaction", "--no-ansi", "--no-plugins", "--directory", folder)
    try:
        run(sys.executable, "-m", "poetry", *arguments, *options, show=True)
    except CommandFailed as error:
        reason = re.sub(r"^\w+ dependencies(\.\.\.)?\n", "", str(error), flags=re.MULTILINE)
        raise Failure("resolve", "Poetry found no solution", detail=reason) from error
    return toml_reader().loads((folder / "poetry.lock").read_text(encoding="utf-8"))


def lock(request: Request, project: Poetry, copy: Poetry, sources: list[Entry]) -> dict[str, Any]:
    """The project's own lock; else let Poetry lock the working copy. Its content, as of format 2.1."""
    import tomlkit

    folder = copy.file.path.parent
    available = {repository.name: repository for repository in copy.pool.repositories}

    def url(name: str) -> str:
        return str(getattr(available.get(name), "url", ""))

    def write(content: dict[str, Any]) -> None:
        (folder / "poetry.lock").write_text(tomlkit.dumps(content), encoding="utf-8")

    if committed := committed_lock(request, project):
        for source in (entry["source"] for entry in committed["package"]):
            source["url"] = url(source["reference"]) if source["type"] == "legacy" else source["url"]
        if all("groups" in entry for entry in committed["package"]):
            return committed
        # Before format 2.1 it does not say which group wants what: Poetry writes that down, and keeps versions.
        write(committed)
        locked = poetry(folder, "lock")
        before = {(p["name"], p["version"]): p["files"] for p in with_files(committed)["package"]}
        for entry in locked["package"]:
            name, version = entry["name"], entry["version"]
            if (name, version) in before:
                entry["files"] = before[name, version]
                continue
            raise Failure(
                "manifest",
                f"`poetry.lock` is of an old format, and this Poetry would take `{name} {version}`, which it has not",
                detail="`poetry lock` of a Poetry from 2.0 on writes it anew",
            )
        return locked

    previous = request["previous"]
    if previous:
        write(poetry_lock(previous, sources, url))
    say("resolving the project")
    locked = poetry(folder, "lock")
    moving = {canonical(name) for name in request["update"]} & {p["name"] for p in locked["package"]}
    if previous and moving:
        locked = poetry(folder, "update", "--lock", *sorted(moving))
    return locked


def wanted_by(entry: Entry, groups: dict[str, Entry], selections: Iterable[Selection]) -> list[str]:
    """The groups whose installation brings a locked package here, then the selections that do.

    Poetry's markers stand for all groups, or for each one (poetry, `Transaction.calculate_operations`).
    """
    from poetry.core.version.markers import parse_marker
    from poetry.utils.env import EnvManager

    environment = EnvManager.get_system_env().marker_env

    def is_wanted(group: str, extras: Iterable[str]) -> bool:
        markers = entry.get("markers", "")
        text = markers.get(group, "") if isinstance(markers, dict) else markers
        known = {**environment, "extra": {canonical(extra) for extra in extras}}
        return group in entry["groups"] and (not text or parse_marker(text).validate(known))

    wanting = [group for group in entry["groups"] if is_wanted(group, [])]
    for selection in selections:
        required = [] if selection["only"] else [name for name, group in groups.items() if not group["optional"]]
        chosen = {*required, *selection["with"], *selection["only"]} - {*selection["without"]}
        if any(is_wanted(group, selection["extras"]) for group in chosen):
            wanting.append(selection["name"])
    return sorted(wanting)


def packages(
    index: Index, copy: Poetry, locked: dict[str, Any], groups: dict[str, Entry], selections: Iterable[Selection]
) -> list[Entry]:
    """The locked packages that belong to this platform, with the file Poetry would install."""
    from poetry.core.packages.package import Package
    from poetry.installation.chooser import Chooser
    from poetry.utils.env import EnvManager

    chooser = Chooser(copy.pool, EnvManager.get_system_env(), copy.config)

    def describe(entry: Entry) -> Entry | None:
        wanting = wanted_by(entry, groups, selections)
        if not wanting:
            return None
        name, version, source = entry["name"], entry["version"], entry.get("source", {})
        if source.get("type") != "legacy":
            raise Failure(
                "unsupported",
                f"`{name}` comes from {source.get('type', 'nowhere')}; only indexes can be locked",
                subject=name,
            )
        package = Package(
            name,
            version,
            source_type="legacy",
            source_url=source["url"],
            source_reference=source["reference"],
        )
        if not entry["files"]:
            raise Failure("manifest", f"`poetry.lock` has no file of `{name} {version}`", subject=name)
        package.files = entry["files"]
        repository: Any = copy.pool.repository(source["reference"])
        try:
            link = chooser.choose_for(package)
            file = file_of(repository, link)
        except Exception as error:  # of the network, or a PoetryRuntimeError
            raise Failure(
                "file", f"no file of `{name} {version}` fits this image", subject=name, detail=str(error)
            ) from error
        return {
            "name": name,
            "version": version,
            "build": index.build_requirements(name, version, repository, link),
            "source": None if source["reference"] == DEFAULT else source["reference"],
            "groups": entry["groups"],
            "markers": entry.get("markers"),
            "optional": entry["optional"],
            "wanted_by": wanting,
            "python_versions": entry["python-versions"],
            "dependencies": entry.get("dependencies", {}),
            "extras": entry.get("extras", {}),
            "file": file,
        }

    say(f"choosing files for {len(locked['package'])} packages")
    with ThreadPoolExecutor(8) as threads:
        return [entry for entry in threads.map(describe, locked["package"]) if entry]


def root_package(project: Poetry) -> Entry | None:
    """What Poetry's editable install writes of the project itself; None outside package mode.

    `paths` are the folders of its `.pth` (poetry, `EditableBuilder`); None for the project's own.
    """
    from poetry.core.masonry.builders.wheel import WheelBuilder
    from poetry.core.masonry.utils.package_include import PackageInclude

    if not project.is_package_mode:
        return None
    if project.package.build_script:
        raise Failure("unsupported", "the project has a build script; only pure Python can be installed natively")
    with tempfile.TemporaryDirectory() as folder:
        try:
            builder = WheelBuilder(project)
            written = builder.prepare_metadata(Path(folder))
            includes = builder._module.includes  # noqa: SLF001 - as Poetry's editable install reads it
        except Exception as error:  # a readme that is not there, say
            raise Failure("manifest", "Poetry cannot make the project's metadata", detail=str(error)) from error
        files = {
            path.relative_to(written).as_posix(): path.read_text(encoding="utf-8")
            for path in written.rglob("*")
            if path.is_file()
        }
    top = project.file.path.parent.resolve()
    paths = {
        include.base.resolve().relative_to(top).as_posix()
        for include in includes
        if isinstance(include, PackageInclude) and (include.is_module() or include.is_package())
    }
    return {
        "name": project.package.name,
        "version": str(project.package.version),
        "dist_info": written.name,
        "files": dict(sorted(files.items())),
        "paths": None if paths == {"."} else sorted(paths),
    }


class PoetryProject:
    """A project that Poetry resolves, or has resolved."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.project = open_project(Path(request["project"]))

    def python(self) -> tuple[str, Callable[[str], bool]]:
        from poetry.core.constraints.version import Version

        allowed = self.project.package.python_constraint
        return self.project.package.python_versions, lambda version: allowed.allows(Version.parse(version))

    def locked(self, index: Index) -> Locked:
        check_dependencies(self.project)
        sources = sources_of(self.project, self.request)
        copy = open_project(working_copy(self.request))
        check_sources(copy)
        locked = lock(self.request, self.project, copy, sources)
        package = self.project.package
        groups = {
            name: {"optional": package.dependency_group(name).is_optional()}
            for name in sorted(package.dependency_group_names(include_optional=True))
        }
        selections = self.request["selections"]
        for selection in selections:
            named = [*selection["with"], *selection["without"], *selection["only"]]
            check_known("pyproject.toml", "group", named, groups)
            check_known("pyproject.toml", "extra", map(canonical, selection["extras"]), package.extras)
        return Locked(
            packages=packages(index, copy, locked, groups, selections),
            groups=groups,
            extras=locked.get("extras", {}),
            sources=sources,
            root=root_package(self.project),
            about={
                "lock_version": locked["metadata"]["lock-version"],
                "python_versions": locked["metadata"]["python-versions"],
                "content_hash": self.project.locker._get_content_hash(),  # noqa: SLF001 - no public way
            },
        )
