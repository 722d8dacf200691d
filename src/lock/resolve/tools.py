"""The tools of an image, pip and Poetry say, beside the project or apart from it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from common import CommandFailed, Entry, Failure, Request, canonical, earlier_tools, say

if TYPE_CHECKING:
    from index import Index, Installed


def resolve(request: Request, index: Index, packages: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """The tools, and what they want otherwise than the project that they share an environment with has it."""
    say("resolving the tools")
    project = {} if request["tools_apart"] else {package["name"]: package for package in packages}
    try:
        alone = installed(request, index, [])
    except CommandFailed as error:
        raise Failure("tools", f"{', '.join(request['tools'])} cannot be had", detail=str(error)) from error
    if all(project.get(tool["name"], tool)["version"] == tool["version"] for tool in alone.entries):
        return alone.entries, []
    found, displaced = beside(project, alone, request["tools"])
    if displaced:  # pip would look for older tools without an end
        return found, displaced
    try:
        return installed(request, index, [f"{name}=={entry['version']}" for name, entry in project.items()]).entries, []
    except CommandFailed:
        return found, []


def installed(request: Request, index: Index, versions: list[str]) -> Installed:
    """The tools as pip would install them where these versions are installed."""
    fixed = {it.partition("==")[0] for it in versions}
    return index.pip_packages(
        request["tools"],
        # The Poetry of the image is the one that locked: it must be able to read its lock.
        constraints=[*versions, f"poetry=={version('poetry')}"],
        previous=[tool for tool in earlier_tools(request) if tool["name"] not in fixed],
    )


def beside(
    project: dict[str, Entry], tools: Installed, asked: Iterable[str]
) -> tuple[list[Entry], list[Entry]]:
    """The tools with the project's version of whatever both have, as a later `poetry install` leaves it."""
    from packaging.requirements import Requirement

    own = {entry["name"]: entry for entry in tools.entries}
    shared = [name for name in own if name in project and project[name]["version"] != own[name]["version"]]
    replaced = set(shared)
    # What a version of the project's needs comes with it, though no group of an image may bring it.
    while shared:
        entry = project[shared.pop()]
        requires = [canonical(name) for name in entry.get("dependencies", {}) if canonical(name) in project]
        shared += [name for name in requires if name not in own]
        own[entry["name"]] = {
            **{key: entry[key] for key in ("name", "version", "file", "source", "build")},
            "requested": own.get(entry["name"], {}).get("requested", False),
            "requires": sorted(requires),
        }
    required = {**tools.required, "the recipe": [Requirement(text) for text in asked]}
    displaced = [
        {"name": name, "version": own[name]["version"], "tool": tool, "wants": str(requirement.specifier)}
        for tool, requirements in sorted(required.items())
        if tool not in replaced  # the project's version of it wants something else
        for requirement in requirements
        if (name := canonical(requirement.name)) in own
        and not requirement.specifier.contains(own[name]["version"], prereleases=True)
    ]
    return sorted(own.values(), key=lambda entry: str(entry["name"])), displaced
