"""How `layers/src/wheels/build_wheel.py` finds an sdist's backend. `tests/oracles.rs` runs it beside the other."""

import io
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).parent / "build_wheel.py"
BACKEND = """
import pathlib
class Object:
    def build_wheel(folder):
        pathlib.Path(folder, "made.whl").write_text(pathlib.Path("source").read_text())
        return "made.whl"
build_wheel = Object.build_wheel
__legacy__ = Object
"""


class BuildWheel(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def build(self, **files):
        """Runs the script on an sdist of these files, which it unpacks here and not where it does else."""
        text = SCRIPT.read_text()
        self.assertEqual(text.count('Path("/usr/src/sdist")'), 1)
        script = self.folder / "script.py"
        script.write_text(text.replace('"/usr/src/sdist"', repr(str(self.folder / "sdist"))))
        sdist = self.folder / "demo-1.tar.gz"
        with tarfile.open(sdist, "w:gz") as archive:
            for name, content in ({"source": "text"} | files).items():
                member = tarfile.TarInfo(f"demo-1/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
        wheels = self.folder / "wheels"
        command = [sys.executable, str(script), str(sdist), str(wheels)]
        path = {"PYTHONPATH": str(self.folder / "installed")}
        ended = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=path)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual((wheels / ended.stdout.splitlines()[-1]).read_text(), "text")

    def install(self, name):
        file = self.folder / "installed" / name
        file.parent.mkdir(parents=True)
        # Before any that this Python has.
        (file.parent / "__init__.py").touch()
        file.write_text(BACKEND)

    def test_the_manifest_names_it(self):
        self.install("backend/api.py")
        self.build(**{"pyproject.toml": '[build-system]\nbuild-backend = "backend.api"\n'})

    def test_it_may_be_an_object_of_a_module_in_the_sdist(self):
        manifest = '[build-system]\nbuild-backend = "own:Object"\nbackend-path = ["build"]\n'
        self.build(**{"pyproject.toml": manifest, "build/own.py": BACKEND})

    def test_nobody_names_it(self):
        self.install("setuptools/build_meta.py")
        self.build()

    def test_a_manifest_without_a_backend(self):
        self.install("setuptools/build_meta.py")
        self.build(**{"pyproject.toml": "[project]\nname = 'demo'\n"})


if __name__ == "__main__":
    unittest.main()
