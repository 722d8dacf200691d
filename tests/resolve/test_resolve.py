"""What `src/lock/resolve.py` says of data alone. `tests/oracles.rs` runs it in an image that has Poetry."""

import io
import json
import os
import platform
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import resolve
from resolve import Failure


def request(folder="", **other):
    return {
        "project": str(Path(folder) / "original"),
        "workdir": str(Path(folder) / "work"),
        "index": "http://index/simple",
        "sources": {},
        "served_by": {},
        "tools": [],
        "tool_constraints": [],
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
        return resolve.open_project(Path(self.request(manifest)["project"]))

    def assert_fails(self, kind, subject, message, call, *arguments):
        with self.assertRaises(Failure) as raised:
            call(*arguments)
        report = raised.exception.report
        self.assertEqual((report["kind"], report["subject"]), (kind, subject), report)
        self.assertIn(message, report["message"])
        return report


class Names(unittest.TestCase):
    def test_a_name_has_one_spelling(self):
        for name in ("Zope.Interface", "zope_interface", "ZOPE--interface", "zope-_.interface"):
            self.assertEqual(resolve.canonical(name), "zope-interface")


class Kept(unittest.TestCase):
    ENTRIES = [
        {"name": "a", "version": "1", "requires": ["b"]},
        {"name": "b", "version": "2", "requires": ["c", "a"]},
        {"name": "c", "version": "3", "requires": []},
        {"name": "d", "version": "4", "requires": ["c"]},
    ]

    def test_all_stays(self):
        self.assertEqual(resolve.kept(self.ENTRIES, []), ["a==1", "b==2", "c==3", "d==4"])

    def test_what_moves_takes_along_what_it_requires_and_nothing_that_requires_it(self):
        self.assertEqual(resolve.kept(self.ENTRIES, ["A"]), ["d==4"])
        self.assertEqual(resolve.kept(self.ENTRIES, ["c"]), ["a==1", "b==2", "d==4"])

    def test_a_stranger_moves_nothing(self):
        self.assertEqual(len(resolve.kept(self.ENTRIES, ["stranger"])), 4)


class WantedBy(unittest.TestCase):
    def wanted(self, groups, markers, extras=()):
        entry = {"groups": groups} | ({} if markers is None else {"markers": markers})
        return resolve.wanted_by(entry, extras)

    def test_every_group_wants_what_has_no_marker(self):
        self.assertEqual(self.wanted(["test", "main"], None), ["main", "test"])

    def test_a_marker_stands_for_all_groups_or_for_each(self):
        self.assertEqual(self.wanted(["main", "test"], 'sys_platform == "win32"'), [])
        self.assertEqual(self.wanted(["main", "test"], 'sys_platform == "linux"'), ["main", "test"])
        self.assertEqual(self.wanted(["main", "test"], {"main": 'sys_platform == "win32"'}), ["test"])

    def test_an_extra_is_named_if_nothing_else_brings_it(self):
        extras = ["s3", "web"]
        self.assertEqual(self.wanted(["main"], 'extra == "s3"', extras), ["main[s3]"])
        either = 'extra == "s3" or extra == "web"'
        self.assertEqual(self.wanted(["main"], either, extras), ["main[s3]", "main[web]"])
        self.assertEqual(self.wanted(["main"], 'extra == "s3" or sys_platform == "linux"', extras), ["main"])
        self.assertEqual(self.wanted(["main"], 'extra == "other"', extras), [])


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
        return resolve.poetry_lock(answer, now, "http://{}/simple".format)

    def test_it_is_what_poetry_writes(self):
        [package] = self.locked(None, [], [])["package"]
        url = f"http://{resolve.DEFAULT}/simple"
        self.assertEqual(package["source"], {"type": "legacy", "url": url, "reference": resolve.DEFAULT})
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
        told = resolve.sources_of(self.project(self.MANIFEST), request(served_by=served_by))
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
        copy = resolve.working_copy(asked)
        read = resolve.toml_reader().loads((copy / "pyproject.toml").read_text())["tool"]["poetry"]
        expected = addresses | {resolve.DEFAULT: asked["index"]}
        self.assertEqual({it["name"]: it["url"] for it in read["source"]}, expected)
        # No other source is primary, so Poetry would ask its built-in index.
        self.assertEqual(read["source"][-1]["priority"], "primary")
        self.assertEqual(read["dependencies"]["one"]["source"], resolve.DEFAULT)
        self.assertEqual([it["source"] for it in read["dependencies"]["two"]], [resolve.DEFAULT, "pytorch"])
        self.assertEqual((copy / "poetry.toml").read_text(), "[solver]\n")
        self.assertNotIn("invalid", (copy / "pyproject.toml").read_text())

    def test_a_primary_source_stands_for_the_default_index(self):
        manifest = '[[tool.poetry.source]]\nname = "own"\nurl = "https://own.invalid"\n'
        copy = resolve.working_copy(self.request(manifest, sources={"own": "http://1"}))
        self.assertNotIn(resolve.DEFAULT, (copy / "pyproject.toml").read_text())

    def test_a_source_that_is_not_there_is_named(self):
        asked = self.request(self.MANIFEST, served_by={"nowhere": "other"})
        self.assert_fails("request", "nowhere", "has no source `nowhere`", resolve.working_copy, asked)

    def test_an_earlier_run_leaves_no_lock(self):
        asked = self.request("")
        lock = resolve.working_copy(asked) / "poetry.lock"
        lock.write_text("old")
        resolve.working_copy(asked)
        self.assertFalse(lock.exists())


class Checks(Case):
    def test_another_python_is_refused_with_the_bases_that_have_it(self):
        here = platform.python_version()
        project = self.project('[tool.poetry.dependencies]\npython = "~3.2"\n')
        bases = [("new", "3.12.1"), ("old", "3.2.5")]
        report = self.assert_fails("python", here, "wants Python ~3.2", resolve.check_python, project, bases)
        self.assertEqual(report["detail"], "of the bases: `old` has 3.2.5")
        report = self.assert_fails("python", here, here, resolve.check_python, project, bases[:1])
        self.assertEqual(report["detail"], "none of the recipes' bases has such a one")
        resolve.check_python(self.project('[tool.poetry.dependencies]\npython = ">=3.2"\n'), [])

    def test_what_no_index_has_is_refused(self):
        git = self.project('[tool.poetry.dependencies]\nA = { git = "https://git.invalid/a.git" }\n')
        self.assert_fails("unsupported", "a", "from a Git repository", resolve.check_dependencies, git, request())
        plain = self.project('[tool.poetry.dependencies]\na = "1"\n')
        resolve.check_dependencies(plain, request(tools=["pip>=23"], collections={"one": ["x[s3]"]}))
        for asked in (
            {"tools": ["b @ https://nowhere.invalid/b-1.whl"]},
            {"collections": {"one": ["b @ https://nowhere.invalid/b-1.whl"]}},
        ):
            self.assert_fails(
                "unsupported", "b", "from an address", resolve.check_dependencies, plain, request(**asked)
            )

    def test_a_source_is_asked_once_for_what_is_bound_to_it(self):
        from poetry.repositories.exceptions import PackageNotFoundError

        def bound(page):
            requires = [SimpleNamespace(source_name=source, name=name)
                        for source, name in (("one", "a"), ("one", "b"), (None, "c"))]
            pool = SimpleNamespace(repository=lambda name: SimpleNamespace(get_page=page))
            return SimpleNamespace(package=SimpleNamespace(all_requires=requires), pool=pool)

        page = mock.Mock()
        resolve.check_sources(bound(page))
        page.assert_called_once_with("a")
        for error, said in ((PackageNotFoundError("gone"), "offers no `a`"), (OSError("down"), "cannot be reached")):
            page = mock.Mock(side_effect=error)
            self.assert_fails("source", "one", said, resolve.check_sources, bound(page))

    def test_a_manifest_that_poetry_cannot_read(self):
        self.assert_fails("manifest", "", "cannot read", self.project, "[tool")


class Root(Case):
    def root(self, manifest, *packages):
        for package in packages:
            (self.folder / "original" / package).mkdir(parents=True)
            (self.folder / "original" / package / "__init__.py").touch()
        return resolve.root_package(self.project(manifest))

    def test_poetry_finds_the_folder_itself(self):
        root = self.root("", "demo")
        self.assertEqual((root["name"], root["version"], root["paths"]), ("demo", "1.0", None))
        self.assertEqual(root["dist_info"], "demo-1.0.dist-info")
        self.assertIn("Name: demo\n", root["files"]["METADATA"])
        self.assertEqual(list(root["files"]), sorted(root["files"]))

    def test_folders_that_the_manifest_names(self):
        manifest = 'packages = [{ include = "b", from = "lib" }, { include = "a" }, { include = "c", from = "lib" }]\n'
        self.assertEqual(self.root(manifest, "lib/b", "a", "lib/c")["paths"], [".", "lib"])

    def test_none_outside_package_mode(self):
        self.assertIsNone(self.root("package-mode = false\n"))

    def test_a_build_script_is_refused(self):
        project = self.project('[tool.poetry.build]\nscript = "build.py"\n')
        self.assert_fails("unsupported", "", "build script", resolve.root_package, project)

    def test_a_readme_that_is_not_there_is_the_manifest_s(self):
        self.assert_fails("manifest", "", "metadata", resolve.root_package, self.project('readme = "gone.md"\n'))


class FileOf(unittest.TestCase):
    def link(self, **other):
        told = {"size": 5, "hashes": {"sha256": "ab"}, "is_wheel": True, "filename": "a", "url": "u"}
        return SimpleNamespace(**told | other)

    def test_the_page_says_all(self):
        expected = {"name": "a", "sha256": "ab", "size": 5, "kind": "wheel"}
        self.assertEqual(resolve.file_of(None, self.link()), expected)
        self.assertEqual(resolve.file_of(None, self.link(is_wheel=False))["kind"], "sdist")

    def test_what_the_page_does_not_say_is_asked_and_computed(self):
        repository = mock.Mock()
        repository.session.request.return_value.headers = {"Content-Length": "7"}
        repository.calculate_sha256.return_value = "sha256:cd"
        file = resolve.file_of(repository, self.link(size=None, hashes={"md5": "x"}))
        self.assertEqual((file["size"], file["sha256"]), (7, "cd"))


class BuildRequirements(unittest.TestCase):
    """What an sdist is built with, as pip is asked for it."""

    def asked(self, filename, archive):
        repository, link = mock.Mock(), SimpleNamespace(filename=filename, url="u")
        repository.session.get.return_value.content = archive
        with mock.patch.object(resolve, "pip_packages", return_value=["found"]) as pip_packages:
            found = resolve.build_requirements(request(), None, repository, link, [])
        if not pip_packages.called:
            self.assertEqual(found, [])
            return []
        self.assertEqual(found, ["found"])
        self.assertIn("--only-binary=:all:", pip_packages.call_args.args)
        return pip_packages.call_args.args[2]

    def tar(self, files):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        return self.asked("demo-1.tar.gz", packed.getvalue())

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
        self.assertEqual(self.asked("demo-1.zip", packed.getvalue()), ["flit"])


class Commands(unittest.TestCase):
    def test_a_failure_is_told_from_its_first_error_on(self):
        script = "print('first'); print('ERROR: second'); print('third'); exit(3)"
        with self.assertRaises(resolve.CommandFailed) as raised:
            resolve.run(sys.executable, "-c", script)
        self.assertEqual(str(raised.exception), "ERROR: second\nthird\n")
        resolve.run(sys.executable, "-c", "pass")

    def test_preferences_give_way_and_constraints_do_not(self):
        written = []

        def run(*command):
            written.append(Path(command[command.index("--constraint") + 1]).read_text())
            raise resolve.CommandFailed("conflict")

        with mock.patch.object(resolve, "run", run), self.assertRaises(resolve.CommandFailed):
            resolve.pip("x", constraints=["a==1"], preferences=["b==2"])
        self.assertEqual(written, ["a==1\nb==2", "a==1"])

    def test_pip_and_poetry_ask_the_request_s_index_alone(self):
        with mock.patch.dict(os.environ):
            resolve.prepare_environment(request("/somewhere"))
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
