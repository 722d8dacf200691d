"""What `assemble lock` runs in the sandbox, on the Python of the image being locked.

    python3 resolve REQUEST.json ANSWER.json

Real Poetry decides what the project needs, or uv's lock or `pylock.toml` has decided it
(`front_end`), and real pip what the tools and the collections need, each through its own command
line; this program only asks, reads and writes down.
Progress goes to stderr. It ends 0 with an answer, or 1 with `{"error": {kind, message,
subject, detail}}`, where `detail` keeps the tool's own words.

REQUEST
    project           folder with pyproject.toml, poetry.toml, the front end's own lock, and what
                      the metadata names (readme, licence files)
    front_end         "poetry", "uv" or "pylock"
    workdir           folder of ours; `assemble` throws it away
    index             address of the default index's simple pages
    sources           {source of pyproject.toml: address of its simple pages}
    served_by         {source: "default" or "other"} for those that something else than their own
                      address in pyproject.toml serves
    tools             requirements of what is installed before the project
    tools_apart       whether they have an environment of their own, and not the project's
    selections        groups and extras that images take together: {name, with, without, only, extras}
    collections       {name: requirements}, each resolved alone, wheels only
    previous          an earlier answer whose versions are kept where they still can be
    update            names that may move all the same
    bases             what images can be built upon, and the Python of each

ANSWER: see `answer()`. It is sorted and names no host; which file is fetched from where is
found again at run time, by its name and sha256.

All that can be reached are the addresses in the request: an index of `assemble`'s own, which asks
the real ones. So no login, proxy or certificate is known here, and no time is limited: who
waits for a server, and gives up, is outside.

It runs twice: on the bare interpreter it makes a private environment with Poetry, then starts
itself again in there. Poetry is kept from its built-in index, which asks an
API beyond the simple one that many mirrors lack: in the working copy that is locked, the
default index is an ordinary source.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

from common import CommandFailed, Entry, Failure, Request, canonical, say
from environment import bootstrap, prepare_environment


def answer(request: Request) -> dict[str, Any]:
    """Resolve everything: the project first, the tools under its versions."""
    from importlib.metadata import version

    import tools as image_tools
    from front_end import check_python, front_end
    from index import Index

    check_requirements(request)
    project = front_end(request)
    check_python(project, request["bases"])
    index = Index(request)
    locked = project.locked(index)
    packages = sorted(locked.packages, key=lambda entry: (entry["name"], entry["version"]))
    check_versions(request, packages)
    tools, displaced = image_tools.resolve(request, index, packages)
    collections = {name: collection(request, index, name) for name in sorted(request["collections"])}

    known = {entry["name"] for part in (packages, tools, *collections.values()) for entry in part}
    if strangers := sorted({canonical(name) for name in request["update"]} - known):
        raise Failure("request", f"nothing locked is called `{strangers[0]}`", subject=strangers[0])

    return {
        "python": platform.python_version(),
        "pip": version("pip"),
        "poetry": version("poetry"),
        "poetry_core": version("poetry-core"),
        "extras": locked.extras,
        "groups": locked.groups,
        "sources": locked.sources,
        "root": locked.root,
        "packages": packages,
        "tools": tools,
        "displaced": displaced,
        "notes": locked.notes,
        "collections": collections,
    } | locked.about


def check_requirements(request: Request) -> None:
    """Refuse tools and collections from elsewhere than an index: nothing else can be reached, or locked."""
    from packaging.requirements import Requirement

    asked = [*request["tools"], *(it for part in request["collections"].values() for it in part)]
    if stranger := next((r.name for r in map(Requirement, asked) if r.url), None):
        said = f"`{stranger}` comes from an address; only indexes can be locked"
        raise Failure("unsupported", said, subject=stranger)


def check_versions(request: Request, packages: list[Entry]) -> None:
    """Refuse a selection that has two versions of one distribution: an installer would not."""
    for selection in request["selections"]:
        found: dict[str, str] = {}
        for entry in packages:
            if selection["name"] not in entry["wanted_by"]:
                continue
            other = found.setdefault(entry["name"], entry["version"])
            if other != entry["version"]:
                both = f"`{entry['name']}` {other} and {entry['version']}"
                raise Failure("resolve", f"the project's `{selection['name']}` takes {both}", subject=entry["name"])


def collection(request: Request, index: Any, name: str) -> list[Entry]:
    """A collection of the request, resolved alone."""
    say(f"resolving {name}")
    earlier = (request["previous"] or {"collections": {}})["collections"].get(name, [])
    requirements = request["collections"][name]
    try:
        return index.pip_packages(requirements, "--only-binary=:all:", constraints=[], previous=earlier).entries
    except CommandFailed as error:
        raise Failure("collection", f"pip found no solution for {name}", subject=name, detail=str(error)) from error


def main(request_path: str, answer_path: str) -> int:
    result: dict[str, Any]
    try:
        request: Request = json.loads(Path(request_path).read_text(encoding="utf-8"))
        home = Path(request["workdir"]).resolve() / "poetry"
        if Path(sys.prefix) != home:
            prepare_environment(request)
            python = bootstrap(request, home)
            os.execv(python, [str(python), str(Path(__file__).parent), request_path, answer_path])
        result = answer(request)
    except Failure as failure:
        result = {"error": failure.report}
    except Exception:  # a mistake of ours: tell all of it
        detail = traceback.format_exc()
        result = {"error": Failure("internal", "the resolution failed", detail=detail).report}
    text = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False)
    Path(answer_path).write_text(text + "\n", encoding="utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
