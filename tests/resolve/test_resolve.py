"""What `src/lock/resolve` says of data alone. `tests/oracles.rs` runs it in an image that has Poetry."""

import importlib.util
import io
import json
import os
import platform
import re
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import common
import environment
import front_end
import index
import poetry_project
import pylock_project
import tools
from common import Failure
from poetry_project import PoetryProject

PROGRAM = Path(common.__file__).with_name("__main__.py")
SPEC = importlib.util.spec_from_file_location("resolve", PROGRAM)
resolve = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(resolve)


def request(folder="", **other):
    return {
        "project": str(Path(folder) / "original"),
        "front_end": "poetry",
        "workdir": str(Path(folder) / "work"),
        "index": "http://index/simple",
        "sources": {},
        "served_by": {},
        "tools": [],
        "tools_apart": False,
        "selections": [],
        "collections": {},
        "previous": None,
        "update": [],
        "bases": [],
    } | other


MANIFEST = """
[tool.poetry]
name = "demo"
version = "1.0"
description = ""
authors = []
"""


class Case(unittest.TestCase):
    """One with a folder for a project."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "original").mkdir()

    def request(self, manifest, **other):
        (self.folder / "original/pyproject.toml").write_text(MANIFEST + manifest)
        return request(self.folder, **other)

    def project(self, manifest):
        return poetry_project.open_project(Path(self.request(manifest)["project"]))

    def assert_fails(self, kind, subject, message, call, *arguments, **chosen):
        with self.assertRaises(Failure) as raised:
            call(*arguments, **chosen)
        report = raised.exception.report
        self.assertEqual((report["kind"], report["subject"]), (kind, subject), report)
        self.assertIn(message, report["message"])
        return report


class Names(unittest.TestCase):
    def test_a_name_has_one_spelling(self):
        for name in ("Zope.Interface", "zope_interface", "ZOPE--interface", "zope-_.interface"):
            self.assertEqual(common.canonical(name), "zope-interface")


class Kept(unittest.TestCase):
    ENTRIES = [
        {"name": "a", "version": "1", "requires": ["b"]},
        {"name": "b", "version": "2", "requires": ["c", "a"]},
        {"name": "c", "version": "3", "requires": []},
        {"name": "d", "version": "4", "requires": ["c"]},
    ]

    def test_all_stays(self):
        self.assertEqual(common.kept(self.ENTRIES, []), ["a==1", "b==2", "c==3", "d==4"])

    def test_what_moves_takes_along_what_it_requires_and_nothing_that_requires_it(self):
        self.assertEqual(common.kept(self.ENTRIES, ["A"]), ["d==4"])
        self.assertEqual(common.kept(self.ENTRIES, ["c"]), ["a==1", "b==2", "d==4"])

    def test_a_stranger_moves_nothing(self):
        self.assertEqual(len(common.kept(self.ENTRIES, ["stranger"])), 4)


def selection(name, **chosen):
    return {"name": name, "with": [], "without": [], "only": [], "extras": []} | chosen


class WantedBy(unittest.TestCase):
    GROUPS = {"main": {"optional": False}, "dev": {"optional": False}, "docs": {"optional": True}}

    def wanted_by(self, groups, markers=None, *selections):
        entry = {"groups": groups} | ({} if markers is None else {"markers": markers})
        return poetry_project.wanted_by(entry, self.GROUPS, selections)

    def test_every_group_wants_what_has_no_marker(self):
        self.assertEqual(self.wanted_by(["main", "dev"]), ["dev", "main"])

    def test_a_marker_stands_for_all_groups_or_for_each(self):
        never = 'python_version < "3"'
        self.assertEqual(self.wanted_by(["main", "dev"], never), [])
        self.assertEqual(self.wanted_by(["main", "dev"], {"main": never}), ["dev"])

    def test_a_selection_is_looked_at_as_a_whole(self):
        one, both = selection("one", extras=["a"]), selection("both", extras=["a", "B_x"])
        self.assertEqual(self.wanted_by(["main"], 'extra == "a"', one, both), ["both", "one"])
        self.assertEqual(self.wanted_by(["main"], 'extra == "b-x"', one, both), ["both"])
        self.assertEqual(self.wanted_by(["main"], 'extra != "b-x"', one, both), ["main", "one"])

    def test_groups_of_a_selection_are_poetry_s(self):
        chosen = [
            selection("a", extras=["x"]),
            selection("b", extras=["x"], **{"with": ["docs"]}),
            selection("c", extras=["x"], without=["dev"]),
            selection("d", extras=["x"], only=["docs"]),
        ]
        self.assertEqual(self.wanted_by(["dev"], None, *chosen), ["a", "b", "dev"])
        self.assertEqual(self.wanted_by(["docs"], None, *chosen), ["b", "d", "docs"])


class PoetryLock(unittest.TestCase):
    def locked(self, source, before, now):
        entry = {
            "name": "torch",
            "version": "2",
            "optional": False,
            "groups": ["main"],
            "markers": None,
            "dependencies": {},
            "extras": {"s3": ["x"]},
            "python_versions": ">=3.9",
            "file": {"name": "torch-2-py3-none-any.whl", "sha256": "ab"},
            "source": source,
        }
        answer = {"packages": [entry], "sources": before, "lock_version": "2.1"}
        answer |= {"python_versions": ">=3.11", "content_hash": "hash"}
        return poetry_project.poetry_lock(answer, now, "http://{}/simple".format)

    def test_it_is_what_poetry_writes(self):
        [package] = self.locked(None, [], [])["package"]
        url = f"http://{common.DEFAULT}/simple"
        self.assertEqual(package["source"], {"type": "legacy", "url": url, "reference": common.DEFAULT})
        self.assertEqual(package["files"], [{"file": "torch-2-py3-none-any.whl", "hash": "sha256:ab"}])
        self.assertEqual(package["extras"], {"s3": ["x"]})
        self.assertNotIn("markers", package)
        self.assertNotIn("dependencies", package)

    def test_a_source_that_something_else_serves_now_keeps_no_version(self):
        source = {"name": "pytorch", "priority": "explicit", "served_by": "manifest"}
        self.assertEqual(len(self.locked("pytorch", [source], [source])["package"]), 1)
        for now in ([source | {"served_by": "default"}], []):
            self.assertEqual(self.locked("pytorch", [source], now)["package"], [])


class Sources(Case):
    MANIFEST = """
[[tool.poetry.source]]
name = "pytorch"
url = "https://pytorch.invalid/whl"
priority = "explicit"
[[tool.poetry.source]]
name = "other"
url = "https://other.invalid/simple"
priority = "supplemental"
[tool.poetry.dependencies]
python = "*"
one = { version = "*", source = "PyPI" }
two = [{ version = "1", source = "pypi" }, { version = "2", source = "pytorch" }]
"""

    def test_they_are_told_with_what_serves_them(self):
        served_by = {"other": "default"}
        told = poetry_project.sources_of(self.project(self.MANIFEST), request(served_by=served_by))
        self.assertEqual(
            told,
            [
                {"name": "pytorch", "priority": "explicit", "served_by": "manifest"},
                {"name": "other", "priority": "supplemental", "served_by": "default"},
            ],
        )

    def test_the_working_copy_leads_to_the_addresses_of_the_request(self):
        addresses = {"pytorch": "http://1/simple", "other": "http://2/simple"}
        asked = self.request(self.MANIFEST, sources=addresses)
        (self.folder / "original/poetry.toml").write_text("[solver]\n")
        copy = poetry_project.working_copy(asked)
        read = common.toml_reader().loads((copy / "pyproject.toml").read_text())["tool"]["poetry"]
        expected = addresses | {common.DEFAULT: asked["index"]}
        self.assertEqual({it["name"]: it["url"] for it in read["source"]}, expected)
        # No other source is primary, so Poetry would ask its built-in index.
        self.assertEqual(read["source"][-1]["priority"], "primary")
        self.assertEqual(read["dependencies"]["one"]["source"], common.DEFAULT)
        self.assertEqual([it["source"] for it in read["dependencies"]["two"]], [common.DEFAULT, "pytorch"])
        self.assertEqual((copy / "poetry.toml").read_text(), "[solver]\n")
        self.assertNotIn("invalid", (copy / "pyproject.toml").read_text())

    def test_a_primary_source_stands_for_the_default_index(self):
        manifest = '[[tool.poetry.source]]\nname = "own"\nurl = "https://own.invalid"\n'
        copy = poetry_project.working_copy(self.request(manifest, sources={"own": "http://1"}))
        self.assertNotIn(common.DEFAULT, (copy / "pyproject.toml").read_text())

    def test_a_source_that_is_not_there_is_named(self):
        asked = self.request(self.MANIFEST, served_by={"nowhere": "other"})
        self.assert_fails("request", "nowhere", "has no source `nowhere`", poetry_project.working_copy, asked)

    def test_an_earlier_run_leaves_no_lock(self):
        asked = self.request("")
        lock = poetry_project.working_copy(asked) / "poetry.lock"
        lock.write_text("old")
        poetry_project.working_copy(asked)
        self.assertFalse(lock.exists())


class Checks(Case):
    def test_another_python_is_refused_with_the_bases_that_have_it(self):
        here = platform.python_version()
        project = PoetryProject(self.request('[tool.poetry.dependencies]\npython = "~3.2"\n'))
        bases = [("new", "3.12.1"), ("old", "3.2.5")]
        report = self.assert_fails("python", here, "wants Python ~3.2", front_end.check_python, project, bases)
        self.assertEqual(report["detail"], "of the bases: `old` has 3.2.5")
        report = self.assert_fails("python", here, here, front_end.check_python, project, bases[:1])
        self.assertEqual(report["detail"], "none of the recipes' bases has such a one")
        front_end.check_python(PoetryProject(self.request('[tool.poetry.dependencies]\npython = ">=3.2"\n')), [])

    def test_what_no_index_has_is_refused(self):
        git = self.project('[tool.poetry.dependencies]\nA = { git = "https://git.invalid/a.git" }\n')
        self.assert_fails("unsupported", "a", "from a Git repository", poetry_project.check_dependencies, git)
        poetry_project.check_dependencies(self.project('[tool.poetry.dependencies]\na = "1"\n'))
        resolve.check_requirements(request(tools=["pip>=23"], collections={"one": ["x[s3]"]}))
        for asked in (
            {"tools": ["b @ https://nowhere.invalid/b-1.whl"]},
            {"collections": {"one": ["b @ https://nowhere.invalid/b-1.whl"]}},
        ):
            self.assert_fails("unsupported", "b", "from an address", resolve.check_requirements, request(**asked))

    def test_a_source_is_asked_once_for_what_is_bound_to_it(self):
        from poetry.repositories.exceptions import PackageNotFoundError

        def bound(page):
            requires = [SimpleNamespace(source_name=source, name=name)
                        for source, name in (("one", "a"), ("one", "b"), (None, "c"))]
            pool = SimpleNamespace(repository=lambda name: SimpleNamespace(get_page=page))
            return SimpleNamespace(package=SimpleNamespace(all_requires=requires), pool=pool)

        page = mock.Mock()
        poetry_project.check_sources(bound(page))
        page.assert_called_once_with("a")
        for error, said in ((PackageNotFoundError("gone"), "offers no `a`"), (OSError("down"), "cannot be reached")):
            page = mock.Mock(side_effect=error)
            self.assert_fails("source", "one", said, poetry_project.check_sources, bound(page))

    def test_a_manifest_that_poetry_cannot_read(self):
        self.assert_fails("manifest", "", "cannot read", self.project, "[tool")


class Root(Case):
    def root(self, manifest, *packages):
        for package in packages:
            (self.folder / "original" / package).mkdir(parents=True)
            (self.folder / "original" / package / "__init__.py").touch()
        return poetry_project.root_package(self.project(manifest))

    def test_poetry_finds_the_folder_itself(self):
        root = self.root("", "demo")
        self.assertEqual((root["name"], root["version"], root["paths"]), ("demo", "1.0", None))
        self.assertEqual(root["dist_info"], "demo-1.0.dist-info")
        self.assertIn("Name: demo\n", root["files"]["METADATA"])
        self.assertEqual(list(root["files"]), sorted(root["files"]))

    def test_poetry_finds_the_source_folder(self):
        self.assertEqual(self.root("", "src/demo")["paths"], ["src"])

    def test_folders_that_the_manifest_names(self):
        manifest = 'packages = [{ include = "b", from = "lib" }, { include = "a" }, { include = "c", from = "lib" }]\n'
        self.assertEqual(self.root(manifest, "lib/b", "a", "lib/c")["paths"], [".", "lib"])

    def test_none_outside_package_mode(self):
        self.assertIsNone(self.root("package-mode = false\n"))

    def test_a_build_script_is_refused(self):
        project = self.project('[tool.poetry.build]\nscript = "build.py"\n')
        self.assert_fails("unsupported", "", "build script", poetry_project.root_package, project)

    def test_a_readme_that_is_not_there_is_the_manifest_s(self):
        self.assert_fails("manifest", "", "metadata", poetry_project.root_package, self.project('readme = "gone.md"\n'))


class FileOf(unittest.TestCase):
    def link(self, **other):
        told = {"size": 5, "hashes": {"sha256": "ab"}, "is_wheel": True, "filename": "a", "url": "u"}
        return SimpleNamespace(**told | other)

    def test_the_page_says_all(self):
        expected = {"name": "a", "sha256": "ab", "size": 5, "kind": "wheel"}
        self.assertEqual(index.file_of(None, self.link()), expected)
        self.assertEqual(index.file_of(None, self.link(is_wheel=False))["kind"], "sdist")

    def test_what_the_page_does_not_say_is_asked_and_computed(self):
        repository = mock.Mock()
        repository.session.request.return_value.headers = {"Content-Length": "7"}
        repository.calculate_sha256.return_value = "sha256:cd"
        file = index.file_of(repository, self.link(size=None, hashes={"md5": "x"}))
        self.assertEqual((file["size"], file["sha256"]), (7, "cd"))


class BuildSystem(unittest.TestCase):
    """What an sdist says that it is built with."""

    def tar(self, files):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        return index.build_system("demo-1.tar.gz", packed.getvalue())

    def test_setuptools_without_a_manifest(self):
        self.assertEqual(self.tar({"demo-1/setup.py": ""}), ["setuptools", "wheel"])

    def test_the_manifest_at_the_top_counts(self):
        manifest = '[build-system]\nrequires = ["hatchling>=1"]\nbuild-backend = "hatchling.build"\n'
        files = {"demo-1/tests/pyproject.toml": "[tool]", "demo-1/pyproject.toml": manifest}
        self.assertEqual(self.tar(files), ["hatchling>=1"])

    def test_setuptools_of_the_manifest_has_wheel_too(self):
        manifest = '[build-system]\nrequires = ["setuptools", "cython"]\n'
        self.assertEqual(self.tar({"demo-1/pyproject.toml": manifest}), ["setuptools", "cython", "wheel"])

    def test_a_backend_of_its_own_needs_nothing(self):
        manifest = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
        self.assertEqual(self.tar({"demo-1/pyproject.toml": manifest}), [])

    def test_a_zip_is_read_as_well(self):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("demo-1/pyproject.toml", '[build-system]\nrequires = ["flit"]\nbuild-backend = "flit"\n')
        self.assertEqual(index.build_system("demo-1.zip", packed.getvalue()), ["flit"])


class CommittedLock(Case):
    MANIFEST = '[[tool.poetry.source]]\nname = "own"\nurl = "http://1/simple/"\npriority = "supplemental"\n'
    PACKAGE = '[[package]]\nname = "a"\nversion = "1"\ngroups = ["main"]\n'

    def lock(self, packages, content_hash=None):
        project = self.project(self.MANIFEST)
        content_hash = content_hash or project.locker._get_content_hash()
        metadata = f'[metadata]\nlock-version = "2.1"\ncontent-hash = "{content_hash}"\n'
        (self.folder / "original/poetry.lock").write_text(packages + metadata)
        return poetry_project.committed_lock(request(self.folder), project)

    def test_there_need_be_none(self):
        self.assertIsNone(poetry_project.committed_lock(request(self.folder), self.project("")))

    def test_its_sources_are_the_manifest_s(self):
        own = '[package.source]\ntype = "legacy"\nurl = "http://{}/simple"\nreference = "{}"\n'
        git = '[package.source]\ntype = "git"\nurl = "http://2/a.git"\nreference = "main"\n'
        sources = ("", own.format(1, "own"), own.format(1, "old"), git)
        found = self.lock("".join(self.PACKAGE + source for source in sources))
        sources = [(it["source"]["type"], it["source"]["reference"]) for it in found["package"]]
        self.assertEqual(sources, [("legacy", common.DEFAULT), ("legacy", "own"), ("legacy", "own"), ("git", "main")])

        stranger = self.PACKAGE + own.format(2, "corp")
        self.assert_fails("manifest", "a", "of a source `corp`, which `pyproject.toml` lacks", self.lock, stranger)

    def test_a_source_may_be_the_default_index_without_an_address(self):
        project = self.project('[[tool.poetry.source]]\nname = "PyPI"\npriority = "primary"\n')
        text = f'{self.PACKAGE}[metadata]\ncontent-hash = "{project.locker._get_content_hash()}"\n'
        (self.folder / "original/poetry.lock").write_text(text)
        found = poetry_project.committed_lock(request(self.folder), project)
        self.assertEqual(found["package"][0]["source"]["reference"], common.DEFAULT)

    def test_files_of_old_locks_stand_apart(self):
        old = {"package": [{"name": "a"}], "metadata": {"files": {"a": [{"hash": "sha256:0"}]}}}
        self.assertEqual(poetry_project.with_files(old)["package"][0]["files"], [{"hash": "sha256:0"}])

    def test_one_of_another_manifest_is_refused(self):
        self.assert_fails("manifest", "", "does not fit", self.lock, self.PACKAGE, "0" * 64)


class Pylock(Case):
    MANIFEST = """
[project]
name = "demo"
version = "1"
requires-python = ">=3.11,<4"
[dependency-groups]
dev = []
docs = []
[[tool.uv.index]]
name = "own"
url = "http://1/simple/"
"""
    LOCK = """
lock-version = "1.0"
created-by = "a test"
extras = ["s3"]
dependency-groups = ["dev", "docs"]
default-groups = ["dev"]
packages = [
    { name = "demo", directory = { path = "." } },
    { name = "a", version = "1", wheels = [WHEEL-a] },
    { name = "b", version = "1", marker = "'s3' in extras", wheels = [WHEEL-b] },
    { name = "c", version = "1", marker = "'docs' in dependency_groups", wheels = [WHEEL-c] },
    { name = "e", version = "1", marker = "'s3' not in extras", wheels = [WHEEL-e] },
    { name = "f", version = "1", marker = "'s3' in extras and 'docs' in dependency_groups", wheels = [WHEEL-f] },
    { name = "d", version = "1", marker = "sys_platform == 'win32'", wheels = [WHEEL-d] },
]
"""
    LOCK = re.sub("WHEEL-(.)", r'{ url = "http://0/\1-1-py3-none-any.whl", hashes = { sha256 = "00" } }', LOCK)

    def pylock(self, lock=LOCK, manifest=MANIFEST):
        (self.folder / "original/pyproject.toml").write_text(manifest)
        (self.folder / "original/pylock.toml").write_text(lock)
        return pylock_project.PylockProject(request(self.folder, front_end="pylock"))

    def chosen(self, project, **chosen):
        return [package.name for package, artifact in project.chosen(selection("x", **chosen)) if artifact]

    def test_groups_and_extras_choose_together(self):
        project = self.pylock()
        self.assertEqual(self.chosen(project), ["a", "e"])
        self.assertEqual(self.chosen(project, **{"with": ["docs"]}), ["a", "c", "e"])
        self.assertEqual(self.chosen(project, extras=["S3"]), ["a", "b"])
        self.assertEqual(self.chosen(project, extras=["s3"], **{"with": ["docs"]}), ["a", "b", "c", "f"])
        self.assertEqual(self.chosen(project, only=["main"]), ["a", "e"])

    def test_what_is_not_there_cannot_be_chosen(self):
        project = self.pylock()
        for what, name, chosen in (
            ("group", "tests", {"with": ["tests"]}),
            ("group", "tests", {"without": ["tests"]}),
            ("extra", "s4", {"extras": ["s4"]}),
        ):
            self.assert_fails("request", name, f"has no {what} `{name}`; it has", self.chosen, project, **chosen)
        self.assert_fails("request", "", "does not tell what a group needs", self.chosen, project, only=["docs"])

    def test_the_manifest_says_which_python_and_what_its_indexes_are_called(self):
        wanted, allows = self.pylock().python()
        self.assertEqual((wanted, allows("3.12.1"), allows("3.10.9")), ("<4,>=3.11", True, False))
        self.assertEqual(self.pylock().sources(), {"http://1/simple": "own"})

    def test_one_of_another_manifest_is_refused(self):
        def check(dependencies):
            manifest = self.MANIFEST.replace("[dependency", f"dependencies = {dependencies}\n[dependency")
            return self.pylock(manifest=manifest).check

        check(["A>=1", "z; python_version < '3'"])()
        self.assert_fails("manifest", "", "does not fit `pyproject.toml`: it has no `z`", check(["z"]))
        self.assert_fails("manifest", "", "it has `a 1`, and wanted is >=2", check(["a>=2"]))

    def test_what_cannot_be_read_or_had_is_said(self):
        project = self.pylock("lock-version = '1.0'\n")
        self.assert_fails("manifest", "", "`pylock.toml` cannot be read", project.lock)
        git = self.LOCK.replace('directory = { path = "." }', 'vcs = { type = "git", url = "u", commit-id = "0" }')
        self.assert_fails("unsupported", "demo", "comes from a vcs", self.chosen, self.pylock(git))

    def test_only_poetry_core_s_projects_are_installed(self):
        other = self.MANIFEST + '[build-system]\nrequires = ["flit"]\nbuild-backend = "flit"\n'
        self.assert_fails("unsupported", "", "built by `flit`", self.pylock(manifest=other).root)
        scripts = self.MANIFEST.replace("[dependency", '[project.scripts]\nsvc = "demo:main"\n[dependency')
        self.assertIn("there is no `svc`", self.pylock(manifest=scripts).not_installed()[0])

    def test_a_version_is_the_file_s_where_the_lock_has_none(self):
        lock = re.sub('(name = "a"), version = "1"', r"\1", self.LOCK)
        [found, *_] = self.pylock(lock).chosen(selection("x"))
        found = found if found[1] else next(it for it in self.pylock(lock).chosen(selection("x")) if it[1])
        self.assertEqual(pylock_project.version_of(*found), "1")


class Versions(Case):
    def test_a_selection_has_one_version_of_a_distribution(self):
        def entry(version, *wanted_by):
            return {"name": "six", "version": version, "wanted_by": wanted_by}

        asked = request(selections=[selection("one"), selection("two")])
        resolve.check_versions(asked, [entry("1", "one"), entry("2", "two")])
        both = [entry("1", "one", "two"), entry("2", "two")]
        self.assert_fails("resolve", "six", "`two` takes `six` 1 and 2", resolve.check_versions, asked, both)


class Tools(unittest.TestCase):
    """Tools that share the project's environment."""

    def beside(self, project, own, required, asked=()):
        def entry(name, version, requires=()):
            return {"name": name, "version": version, "file": f"{name}-{version}", "source": None, "build": [],
                    "dependencies": dict.fromkeys(requires)}

        from packaging.requirements import Requirement

        project = {name: entry(name, *rest) for name, *rest in project}
        entries = [entry(name, version) | {"requested": name == "poetry", "requires": []} for name, version in own]
        required = {name: [Requirement(text) for text in texts] for name, texts in required.items()}
        found, displaced = tools.beside(project, index.Installed(entries, required), asked)
        return [it["file"] for it in found], [(it["tool"], it["name"], it["version"]) for it in displaced]

    def test_the_project_s_version_counts_and_who_wants_another_is_said(self):
        own = [("poetry", "2"), ("cleo", "2"), ("crashtest", "0.4.1"), ("requests", "2.33")]
        required = {"poetry": ["cleo>=2", "requests>=2.20"], "cleo": ["crashtest>=0.4.1"]}
        project = [("crashtest", "0.3.1"), ("requests", "2.32"), ("numpy", "2")]
        found, displaced = self.beside(project, own, required)
        self.assertEqual(found, ["cleo-2", "crashtest-0.3.1", "poetry-2", "requests-2.32"])
        self.assertEqual(displaced, [("cleo", "crashtest", "0.3.1")])

    def test_what_a_displaced_version_wanted_does_not_count(self):
        project = [("requests", "2.20"), ("urllib3", "1.24")]
        own = [("requests", "2.33"), ("urllib3", "2")]
        self.assertEqual(self.beside(project, own, {"requests": ["urllib3>=1.26"]})[1], [])

    def test_what_the_recipe_asks_for_can_be_displaced_as_well(self):
        displaced = self.beside([("pip", "25")], [("pip", "24")], {}, ["pip<25"])[1]
        self.assertEqual(displaced, [("the recipe", "pip", "25")])

    def test_what_a_version_of_the_project_s_needs_comes_with_it(self):
        project = [("a", "1", ["b"]), ("b", "1", ["c"]), ("c", "1")]
        self.assertEqual(self.beside(project, [("a", "2")], {})[0], ["a-1", "b-1", "c-1"])

    def test_displaced_tools_are_not_taken_for_the_tools_own(self):
        previous = {"tools": [{"name": "a"}, {"name": "b"}], "displaced": [{"name": "b"}]}
        self.assertEqual(common.earlier_tools(request(previous=previous)), [{"name": "a"}])
        self.assertEqual(common.earlier_tools(request()), [])


class Commands(unittest.TestCase):
    def test_a_failure_is_told_from_its_first_error_on(self):
        script = "print('first'); print('ERROR: second'); print('third'); exit(3)"
        with self.assertRaises(common.CommandFailed) as raised:
            common.run(sys.executable, "-c", script)
        self.assertEqual(str(raised.exception), "ERROR: second\nthird\n")
        common.run(sys.executable, "-c", "pass")

    def test_preferences_give_way_and_constraints_do_not(self):
        written = []

        def run(*command):
            written.append(Path(command[command.index("--constraint") + 1]).read_text())
            raise common.CommandFailed("conflict")

        with mock.patch.object(common, "run", run), self.assertRaises(common.CommandFailed):
            common.pip("x", constraints=["a==1"], preferences=["b==2"])
        self.assertEqual(written, ["a==1\nb==2", "a==1"])

    def test_pip_and_poetry_ask_the_request_s_index_alone(self):
        with mock.patch.dict(os.environ):
            environment.prepare_environment(request("/somewhere"))
            self.assertEqual(os.environ["PIP_INDEX_URL"], "http://index/simple")
            self.assertTrue(os.environ["POETRY_CACHE_DIR"].startswith("/somewhere/work/"))


class Main(Case):
    def test_a_failure_and_a_mistake_are_answers(self):
        asked, told = self.folder / "request.json", self.folder / "answer.json"
        for error, kind in ((Failure("python", "no"), "python"), (KeyError("of ours"), "internal")):
            asked.write_text(json.dumps(self.request("")))
            with mock.patch.object(resolve, "prepare_environment", side_effect=error):
                self.assertEqual(resolve.main(str(asked), str(told)), 1)
            self.assertEqual(json.loads(told.read_text())["error"]["kind"], kind)


if __name__ == "__main__":
    unittest.main()
