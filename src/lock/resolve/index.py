"""Files of Python indexes: which one of a distribution fits, and what pip would install."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from common import DEFAULT, Entry, Failure, Request, canonical, kept, pip, say, toml_reader

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from poetry.core.packages.utils.link import Link
    from poetry.repositories.http_repository import HTTPRepository

    File = dict[str, str | int]


class Installed(NamedTuple):
    """What pip would install."""

    entries: list[Entry]
    required: dict[str, list[Requirement]]
    """What each of them asks for, here and under the extras that are in use."""


class Index:
    """The indexes of the request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.default = self.named(DEFAULT, request["index"])

    @staticmethod
    def named(name: str, address: str) -> HTTPRepository:
        from poetry.config.config import Config
        from poetry.repositories.legacy_repository import LegacyRepository

        return LegacyRepository(name, address, config=Config.create())

    def repository(self, source: str | None) -> HTTPRepository:
        """A source of the manifest, or the default index."""
        return self.default if source is None else self.named(source, self.request["sources"][source])

    def pip_packages(
        self, requirements: list[str], *arguments: str, constraints: list[str], previous: list[Entry]
    ) -> Installed:
        """What pip would install for `requirements` from the default index, and nothing else.

        `fast-deps` reads metadata out of remote wheels instead of fetching gigabytes to look inside.
        """
        if not requirements:
            return Installed([], {})
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            options = ("--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", report)
            pip(
                *options,
                *arguments,
                *requirements,
                constraints=constraints,
                preferences=kept(previous, self.request["update"]),
            )
            installs = json.loads(report.read_text())["install"]
        required = requirements_in_use(installs, requirements)

        def describe(install: Entry) -> Entry:
            name = canonical(install["metadata"]["name"])
            filename = unquote(urlsplit(install["download_info"]["url"]).path.rpartition("/")[2])
            return {
                "name": name,
                "version": install["metadata"]["version"],
                "requested": install["requested"],
                "requires": sorted({canonical(r.name) for r in required[name]} & required.keys()),
                "file": file_of(self.default, link_of(self.default, name, filename)),
            }

        with ThreadPoolExecutor(8) as threads:
            entries = sorted(threads.map(describe, installs), key=lambda entry: str(entry["name"]))
        return Installed(entries, required)

    def build_requirements(self, name: str, version: str, repository: HTTPRepository, link: Link) -> list[Entry]:
        """What the wheel of an sdist is built with; nothing for a wheel."""
        if link.is_wheel:
            return []
        known = {(p["name"], p["version"]): p for p in (self.request["previous"] or {"packages": []})["packages"]}
        say(f"reading {link.filename}")
        try:
            requires = build_system(link.filename, repository.session.get(link.url).content)
            earlier = known.get((name, version), {}).get("build", [])
            return self.pip_packages(requires, "--only-binary=:all:", constraints=[], previous=earlier).entries
        except Exception as error:  # of the network, of the archive, of pip
            raise Failure(
                "file", f"what `{name} {version}` is built with cannot be had", subject=name, detail=str(error)
            ) from error


def link_of(repository: HTTPRepository, name: str, filename: str) -> Link:
    """A file as the index lists it."""
    link = next((link for link in repository.get_page(name).links if link.filename == filename), None)
    if link is None:
        where = "the default index" if repository.name == DEFAULT else f"source `{repository.name}`"
        raise Failure("file", f"{where} does not list {filename}", subject=name)
    return link


def file_of(repository: HTTPRepository, link: Link) -> File:
    size = link.size
    if size is None:  # an index with HTML pages alone
        head = repository.session.request("HEAD", link.url, allow_redirects=True)
        size = int(head.headers["Content-Length"])
    sha256 = link.hashes.get("sha256") or str(repository.calculate_sha256(link)).removeprefix("sha256:")
    kind = "wheel" if link.is_wheel else "sdist"
    return {"name": link.filename, "sha256": sha256, "size": size, "kind": kind}


def build_system(filename: str, archive: bytes) -> list[str]:
    """What an sdist's `[build-system]` requires (PEP 518).

    A backend may ask for more when it is called; setuptools asks for `wheel`, in some versions.
    """
    opened = io.BytesIO(archive)
    manifest = b""
    if filename.endswith(".zip"):
        with zipfile.ZipFile(opened) as zipped:
            found = [name for name in zipped.namelist() if is_manifest(name)]
            manifest = zipped.read(found[0]) if found else b""
    else:
        with tarfile.open(fileobj=opened) as tar:
            members = [member for member in tar.getmembers() if member.isfile() and is_manifest(member.name)]
            file = tar.extractfile(members[0]) if members else None
            manifest = file.read() if file else b""
    system: Any = toml_reader().loads(manifest.decode()).get("build-system", {})
    requires = list(system.get("requires", ["setuptools"]))
    if system.get("build-backend", "setuptools").startswith("setuptools"):
        requires.append("wheel")
    return requires


def is_manifest(name: str) -> bool:
    return re.fullmatch(r"[^/]+/pyproject\.toml", name) is not None


def requirements_in_use(installs: list[Entry], requirements: list[str]) -> dict[str, list[Requirement]]:
    """What each distribution of pip's report asks for, under any extra that is in use."""
    from packaging.requirements import Requirement

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
    return {
        name: [r for r in part if not r.marker or any(r.marker.evaluate({"extra": it}) for it in extras[name])]
        for name, part in required.items()
    }
