"""What real Poetry makes of the example's project, in the image's own Python.

    python3 poetry_install.py PROJECT WHEELS [ARGUMENT...]

Copies PROJECT to `/app` and runs `poetry install ARGUMENT...` there. The wheels come from a
simple index on the loopback device that serves the folder WHEELS/NAME/FILE: Poetry's built-in
index asks an API that many mirrors lack, and a named source of the project asks the pages alone.
The lock is told of that source; nothing that is installed says where it came from.
"""

import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tomlkit
from poetry.factory import Factory

project, wheels, *arguments = sys.argv[1:]
app = Path("/app")
shutil.copytree(project, app, dirs_exist_ok=True)


class Index(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=wheels))
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"

with (app / "pyproject.toml").open("a") as manifest:
    manifest.write(f'\n[[tool.poetry.source]]\nname = "loopback"\nurl = "{url}"\npriority = "primary"\n')
path = app / "poetry.lock"
lock = tomlkit.parse(path.read_text())
for package in lock["package"]:
    package["source"] = {"type": "legacy", "url": url, "reference": "loopback"}
lock["metadata"]["content-hash"] = Factory().create_poetry(app).locker._get_content_hash()
path.write_text(tomlkit.dumps(lock))

sys.exit(subprocess.run(["poetry", "install", "--no-interaction", "--no-ansi", *arguments], cwd=app).returncode)
