"""What `assemble lock` runs in the sandbox, on the Python of the image being locked.

    python3 resolve.py REQUEST.json ANSWER.json

Real Poetry decides what the project needs, real pip what the tools and the collections
need, each through its own command line; this script only asks, reads and writes down.
Progress goes to stderr. It ends 0 with an answer, or 1 with `{"error": {kind, message,
subject, detail}}`, where `detail` keeps the tool's own words.

REQUEST
    project           folder with pyproject.toml, poetry.toml and what their metadata names
                      (readme, licence files)
    workdir           folder of ours; `assemble` throws it away
    index             address of the default index's simple pages
    sources           {source of pyproject.toml: address of its simple pages}
    served_by         {source: "default" or "other"} for those that something else than their own
                      address in pyproject.toml serves
    tools             requirements that share the image's environment with the project
    tool_constraints  requirements that only limit the tools
    collections       {name: requirements}, each resolved alone, wheels only
    previous          an earlier answer whose versions are kept where they still can be
    update            names that may move all the same
    bases             what images can be built upon, and the Python of each

ANSWER: see `answer()`. It is sorted and names no host; which file is fetched from where is
found again at run time, by its name and sha256.

All that can be reached are the addresses in the request: an index of `assemble`'s own, which asks
the real ones. So no login, proxy or certificate is known here, and no time is limited: who
waits for a server, and gives up, is outside.

The script runs twice: on the bare interpreter it makes a private environment with Poetry,
then starts itself again in there. Poetry is kept from its built-in index, which asks an
API beyond the simple one that many mirrors lack: in the working copy that is locked, the
default index is an ordinary source.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
import venv
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from poetry.core.packages.utils.link import Link
    from poetry.poetry import Poetry
    from poetry.repositories.http_repository import HTTPRepository

    File = dict[str, str | int]
    Entry = dict[str, Any]

DEFAULT = "default-index"
"""The default index's name in the working copy; in requests it is called `pypi`."""


PATIENCE = 24 * 60 * 60
"""How long pip and Poetry wait for a byte, in seconds."""


class Request(TypedDict):
    """The request, see above."""

    project: str
    workdir: str
    index: str
    sources: dict[str, str]
    served_by: dict[str, str]
    tools: list[str]
    tool_constraints: list[str]
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


def run(*command: str | Path, show: bool = False) -> None:
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


# ---------------------------------------------------------------- on the bare interpreter


def bootstrap(request: Request, home: Path) -> Path:
    """Make an environment with pip and Poetry; its interpreter."""
    say("installing Poetry")
    python = home / "bin" / "python"
    previous = request["previous"] or {"tools": []}
    try:
        venv.create(home, clear=True, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise Failure(
            "bootstrap", "this Python cannot make environments (Debian: python3-venv)", detail=str(error)
        ) from error
    arguments = ["-m", "pip", "install", "--no-compile", "--upgrade", "pip", "poetry"]
    limits = home / "constraints.txt"
    preferences = kept(previous["tools"], request["update"])
    while True:
        limits.write_text("\n".join([*request["tool_constraints"], *preferences]))
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
    }


# ----------------------------------------------------------- in the environment of Poetry


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


def toml_reader() -> Any:
    """Python's own, or before 3.11 the one that Poetry brings."""
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib
    return tomllib


def check_python(project: Poetry, bases: list[tuple[str, str]]) -> None:
    from poetry.core.constraints.version import Version

    version = platform.python_version()
    if not project.package.python_constraint.allows(Version.parse(version)):
        wanted = project.package.python_versions
        allowed = project.package.python_constraint
        fitting = [f"`{name}` has {python}" for name, python in bases if allowed.allows(Version.parse(python))]
        raise Failure(
            "python",
            f"the project wants Python {wanted}, this image has {version}",
            subject=version,
            detail=f"of the bases: {', '.join(fitting)}" if fitting else "none of the recipes' bases has such a one",
        )


def check_dependencies(project: Poetry, request: Request) -> None:
    """Refuse what comes from elsewhere than an index: nothing else can be reached, or locked."""
    from packaging.requirements import Requirement

    asked = [*request["tools"], *(it for part in request["collections"].values() for it in part)]
    strangers = {d.name: d.source_type for d in project.package.all_requires if d.source_type not in (None, "legacy")}
    strangers |= {r.name: "url" for r in map(Requirement, asked) if r.url}
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


def lock(request: Request, copy: Poetry, sources: list[Entry]) -> dict[str, Any]:
    """Let Poetry lock the working copy; its lock file's content."""
    tomllib = toml_reader()

    import tomlkit

    folder = copy.file.path.parent
    previous = request["previous"]
    if previous:
        available = {repository.name: repository for repository in copy.pool.repositories}

        def url(name: str) -> str:
            return str(getattr(available.get(name), "url", ""))

        (folder / "poetry.lock").write_text(tomlkit.dumps(poetry_lock(previous, sources, url)), encoding="utf-8")

    def read() -> dict[str, Any]:
        return tomllib.loads((folder / "poetry.lock").read_text(encoding="utf-8"))

    def poetry(*arguments: str) -> None:
        options = ("--no-interaction", "--no-ansi", "--no-plugins", "--directory", folder)
        try:
            run(sys.executable, "-m", "poetry", *arguments, *options, show=True)
        except CommandFailed as error:
            reason = re.sub(r"^\w+ dependencies(\.\.\.)?\n", "", str(error), flags=re.MULTILINE)
            raise Failure("resolve", "Poetry found no solution", detail=reason) from error

    say("resolving the project")
    poetry("lock")
    locked = read()
    moving = {canonical(name) for name in request["update"]} & {p["name"] for p in locked["package"]}
    if previous and moving:
        poetry("update", "--lock", *sorted(moving))
        locked = read()
    return locked


def wanted_by(entry: Entry, extras: Iterable[str]) -> list[str]:
    """The groups whose installation brings a locked package here: `main`, or `main[extra]`.

    Poetry's markers stand for all groups, or for each one.
    """
    from packaging.markers import Marker

    def wanting() -> Iterator[str]:
        for group in entry["groups"]:
            markers = entry.get("markers", "")
            text = markers.get(group, "") if isinstance(markers, dict) else markers
            if not text or Marker(text).evaluate({"extra": ""}):
                yield group
            else:
                yield from (f"{group}[{extra}]" for extra in extras if Marker(text).evaluate({"extra": extra}))

    return sorted(wanting())


def file_of(repository: HTTPRepository, link: Link) -> File:
    size = link.size
    if size is None:  # an index with HTML pages alone
        head = repository.session.request("HEAD", link.url, allow_redirects=True)
        size = int(head.headers["Content-Length"])
    sha256 = link.hashes.get("sha256") or str(repository.calculate_sha256(link)).removeprefix("sha256:")
    kind = "wheel" if link.is_wheel else "sdist"
    return {"name": link.filename, "sha256": sha256, "size": size, "kind": kind}


def build_requirements(
    request: Request, index: HTTPRepository, repository: HTTPRepository, link: Link, previous: list[Entry]
) -> list[Entry]:
    """What an sdist's wheel is built with: its `[build-system]` (PEP 518), wheels only.

    A backend may ask for more when it is called; setuptools asks for `wheel`, in some versions.
    """
    import tarfile
    tomllib = toml_reader()
    import zipfile
    from io import BytesIO

    say(f"reading {link.filename}")
    archive = BytesIO(repository.session.get(link.url).content)
    files: Iterable[tuple[str, Callable[[], bytes]]]
    if link.filename.endswith(".zip"):
        opened = zipfile.ZipFile(archive)
        files = [(name, lambda name=name: opened.read(name)) for name in opened.namelist()]
    else:
        tar = tarfile.open(fileobj=archive)
        files = [(it.name, lambda it=it: tar.extractfile(it).read()) for it in tar.getmembers() if it.isfile()]
    manifest = next((read() for name, read in files if re.fullmatch(r"[^/]+/pyproject\.toml", name)), b"")
    system = tomllib.loads(manifest.decode()).get("build-system", {})
    requires = list(system.get("requires", ["setuptools"]))
    if system.get("build-backend", "setuptools").startswith("setuptools"):
        requires.append("wheel")
    if not requires:  # a backend of its own, in the sdist
        return []
    return pip_packages(request, index, requires, "--only-binary=:all:", constraints=[], previous=previous)


def project_packages(
    request: Request, index: HTTPRepository, copy: Poetry, locked: dict[str, Any], extras: Iterable[str]
) -> list[Entry]:
    """The locked packages that belong to this platform, with the file Poetry would install."""
    from poetry.core.packages.package import Package
    from poetry.installation.chooser import Chooser
    from poetry.utils.env import EnvManager

    chooser = Chooser(copy.pool, EnvManager.get_system_env(), copy.config)

    def describe(entry: Entry) -> Entry | None:
        wanting = wanted_by(entry, extras)
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
        package.files = entry["files"]
        repository: Any = copy.pool.repository(source["reference"])
        try:
            link = chooser.choose_for(package)
            file = file_of(repository, link)
        except Exception as error:  # of the network, or a PoetryRuntimeError
            raise Failure(
                "file", f"no file of `{name} {version}` fits this image", subject=name, detail=str(error)
            ) from error
        build = []
        if file["kind"] == "sdist":
            known = {(p["name"], p["version"]): p for p in (request["previous"] or {"packages": []})["packages"]}
            try:
                earlier = known.get((name, version), {}).get("build", [])
                build = build_requirements(request, index, repository, link, earlier)
            except Exception as error:  # of the network, of the archive, of pip
                raise Failure(
                    "file", f"what `{name} {version}` is built with cannot be had", subject=name, detail=str(error)
                ) from error
        return {
            "name": name,
            "version": version,
            "build": build,
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
        found = [entry for entry in threads.map(describe, locked["package"]) if entry]
    return sorted(found, key=lambda entry: (entry["name"], entry["version"]))


def pip_packages(
    request: Request,
    index: HTTPRepository,
    requirements: list[str],
    *arguments: str,
    constraints: list[str],
    previous: list[Entry],
) -> list[Entry]:
    """What pip would install for `requirements` from the default index, and nothing else.

    `fast-deps` reads metadata out of remote wheels instead of fetching gigabytes to look inside.
    """
    from packaging.requirements import Requirement

    if not requirements:
        return []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ("--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", report)
        pip(
            *options,
            *arguments,
            *requirements,
            constraints=constraints,
            preferences=kept(previous, request["update"]),
        )
        installs = json.loads(report.read_text())["install"]
    required = {
        canonical(install["metadata"]["name"]): [
            Requirement(text) for text in install["metadata"].get("requires_dist", [])
        ]
        for install in installs
    }
    asked = [requirement for part in required.values() for requirement in part]
    asked += [Requirement(text) for text in requirements]
    extras = {name: {""} for name in required}
    for requirement in asked:
        extras.setdefault(canonical(requirement.name), {""}).update(requirement.extras)

    def requires(name: str) -> list[str]:
        """Those of the others that `name` asks for here, under any extra that is in use."""
        wanted = {
            canonical(r.name)
            for r in required[name]
            if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in extras[name])
        }
        return sorted(wanted & required.keys())

    def describe(install: Entry) -> Entry:
        name, version = canonical(install["metadata"]["name"]), install["metadata"]["version"]
        filename = unquote(urlsplit(install["download_info"]["url"]).path.rpartition("/")[2])
        link = next((link for link in index.get_page(name).links if link.filename == filename), None)
        if link is None:
            raise Failure("file", f"the default index does not list {filename}", subject=name)
        return {
            "name": name,
            "version": version,
            "requested": install["requested"],
            "requires": requires(name),
            "file": file_of(index, link),
        }

    with ThreadPoolExecutor(8) as threads:
        return sorted(threads.map(describe, installs), key=lambda entry: str(entry["name"]))


def root_package(project: Poetry) -> Entry | None:
    """What Poetry's editable install writes of the project itself; None outside package mode.

    `paths` are the folders of its `.pth`; None where Poetry detects them (`src`, else `.`).
    """
    from poetry.core.masonry.builders.wheel import WheelBuilder

    if not project.is_package_mode:
        return None
    if project.package.build_script:
        raise Failure("unsupported", "the project has a build script; only pure Python can be installed natively")
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = WheelBuilder(project).prepare_metadata(Path(folder))
        except Exception as error:  # a readme that is not there, say
            raise Failure("manifest", "Poetry cannot make the project's metadata", detail=str(error)) from error
        files = {
            path.relative_to(written).as_posix(): path.read_text(encoding="utf-8")
            for path in written.rglob("*")
            if path.is_file()
        }
    packages = project.package.packages
    return {
        "name": project.package.name,
        "version": str(project.package.version),
        "dist_info": written.name,
        "files": dict(sorted(files.items())),
        "paths": sorted({package.get("from", ".") for package in packages}) or None,
    }


def answer(request: Request) -> dict[str, Any]:
    """Resolve everything: the project first, the tools under its versions."""
    from importlib.metadata import version

    from poetry.repositories.legacy_repository import LegacyRepository

    project = open_project(Path(request["project"]))
    check_python(project, request["bases"])
    check_dependencies(project, request)
    sources = sources_of(project, request)
    copy = open_project(working_copy(request))
    check_sources(copy)
    locked = lock(request, copy, sources)
    extras = sorted(project.package.extras)
    index = LegacyRepository(DEFAULT, request["index"], config=copy.config)
    packages = project_packages(request, index, copy, locked, extras)

    previous = request["previous"] or {"tools": [], "collections": {}}
    say("resolving the tools")
    versions = [f"{package['name']}=={package['version']}" for package in packages]
    names = {package["name"] for package in packages}
    try:
        tools = pip_packages(
            request,
            index,
            request["tools"],
            # The Poetry of the image is the one that locked: it must be able to read its lock.
            constraints=[*versions, *request["tool_constraints"], f"poetry=={version('poetry')}"],
            previous=[tool for tool in previous["tools"] if tool["name"] not in names],
        )
    except CommandFailed as error:
        raise Failure(
            "tools",
            f"{', '.join(request['tools'])} cannot be had, or cannot share an environment with the project's versions",
            detail=str(error),
        ) from error

    collections = {}
    for name, requirements in sorted(request["collections"].items()):
        say(f"resolving {name}")
        earlier = previous["collections"].get(name, [])
        try:
            collections[name] = pip_packages(
                request, index, requirements, "--only-binary=:all:", constraints=[], previous=earlier
            )
        except CommandFailed as error:
            raise Failure("collection", f"pip found no solution for {name}", subject=name, detail=str(error)) from error

    known = names.union(*({entry["name"] for entry in part} for part in (tools, *collections.values())))
    if strangers := sorted({canonical(name) for name in request["update"]} - known):
        raise Failure("request", f"nothing locked is called `{strangers[0]}`", subject=strangers[0])

    return {
        "python": platform.python_version(),
        "pip": version("pip"),
        "poetry": version("poetry"),
        "poetry_core": version("poetry-core"),
        "lock_version": locked["metadata"]["lock-version"],
        "python_versions": locked["metadata"]["python-versions"],
        "content_hash": project.locker._get_content_hash(),  # noqa: SLF001 - of the original, no public way
        "extras": locked.get("extras", {}),
        "groups": {
            name: {"optional": project.package.dependency_group(name).is_optional()}
            for name in sorted(project.package.dependency_group_names(include_optional=True))
        },
        "sources": sources,
        "root": root_package(project),
        "packages": packages,
        "tools": tools,
        "collections": collections,
    }


# --------------------------------------------------------------------------------- both


def main(request_path: str, answer_path: str) -> int:
    result: dict[str, Any]
    try:
        request: Request = json.loads(Path(request_path).read_text(encoding="utf-8"))
        home = Path(request["workdir"]).resolve() / "poetry"
        if Path(sys.prefix) != home:
            prepare_environment(request)
            python = bootstrap(request, home)
            os.execv(python, [str(python), __file__, request_path, answer_path])
        result = answer(request)
    except Failure as failure:
        result = {"error": failure.report}
    except Exception:  # a mistake of ours: tell all of it
        detail = traceback.format_exc()
        result = {"error": Failure("internal", "resolve.py failed", detail=detail).report}
    text = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False)
    Path(answer_path).write_text(text + "\n", encoding="utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
