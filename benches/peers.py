"""What `peers.sh` needs that a shell does badly. Standard library alone.

    peers.py files PROJECT STORE FILES          the locked files under their names, and indexes of them
    peers.py small PROJECT                      the lock without what is large
    peers.py context PROJECT FILES URL CONTEXT  what `docker build` is given
    peers.py poetry-lock PROJECT URL CONTEXT    stdin: the exported lock; writes its pyproject.toml, too
    peers.py bump PROJECT FILES STORE           one small distribution in another version
    peers.py floor ARCHIVE SCRATCH [PART]       inflate once, hash twice, write once
    peers.py table RESULTS DOCUMENT TITLE       Markdown, between the document's markers
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
import sys
import tarfile
import time
import tomllib
import zipfile
import zlib
from pathlib import Path

LARGE = 20_000_000
BUMPED = "absl-py"
CUDA = "cuda-12.8.1"
GROUP = "binary-torch"
LOCAL = "peers"
SOURCE = "pytorch-cu128"


def read_lock(project: Path) -> dict:
    return tomllib.loads((project / "assemble.lock").read_text())


def distributions(lock: dict) -> list[dict]:
    python = lock["python"]
    collected = [entry for entries in python["collections"].values() for entry in entries]
    return python["packages"] + python["tools"] + collected


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Locking alone needs some files, and other images others: a store need not have them.
    if source.exists() and not target.exists():
        os.link(source, target)


def page(files: Path, name: str) -> None:
    """A page of the simple index (PEP 503), of the wheels that are there."""
    folder = files / "simple" / normal(name)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for wheel in sorted((files / "wheels").iterdir()):
        if normal(wheel.name.split("-")[0]) == normal(name):
            digest = (files / "digests" / wheel.name).read_text()
            wheel = html.escape(wheel.name)
            rows.append(f'<a href="../../wheels/{wheel}#sha256={digest}">{wheel}</a><br>')
    (folder / "index.html").write_text("<!DOCTYPE html><html><body>\n" + "\n".join(rows) + "\n</body></html>\n")


def files(project: Path, store: Path, files: Path) -> None:
    lock = read_lock(project)
    for package in lock["debian"]["package"]:
        link(store / "blobs" / package["sha256"], files / "debs" / Path(package["path"]).name)
    (files / "digests").mkdir(parents=True, exist_ok=True)
    for one in distributions(lock):
        file = one["file"]
        link(store / "blobs" / file["sha256"], files / "wheels" / file["name"])
        (files / "digests" / file["name"]).write_text(file["sha256"])
    for one in distributions(lock):
        page(files, one["name"])
    # What our side may have besides: the same files under their digests, and nothing else.
    for entry in lock["debian"]["package"] + [one["file"] for one in distributions(lock)]:
        link(store / "blobs" / entry["sha256"], files / "blobs" / entry["sha256"])


def blocks(text: str) -> list[str]:
    """The lock, cut before every entry of a list and before whatever follows the list."""
    return re.split(r"(?m)^(?=\[\[|\[python\.(?:root|groups|extras)|\[python\]$)", text)


def small(project: Path) -> None:
    path = project / "assemble.lock"

    def kept(block: str) -> bool:
        if block.startswith("[[python.packages]]"):
            entry = tomllib.loads(block)["python"]["packages"][0]
            return "main" in entry["wanted_by"] and entry["file"]["size"] < LARGE
        if block.startswith("[[python.collections."):
            (entries,) = tomllib.loads(block)["python"]["collections"].values()
            return entries[0]["file"]["size"] < LARGE
        return True

    text = "".join(filter(kept, blocks(path.read_text())))
    # What the promise of kernels is about is large; in its place there is something without kernels.
    path.write_text(re.sub(r"(?m)^targets = .*$", "targets = []", text))
    shutil.copy("/bin/true", project / "spectralmc" / "libtorch_cuda.so")


DOCKERFILE = """\
FROM peers:base
ARG URL
ENV {environment}
RUN echo "deb [trusted=yes] $URL/debs ./" >/etc/apt/sources.list && apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {packages} \\
 && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY tools.txt cuda.py /tmp/
RUN curl -sSfO --output-dir /tmp "$URL/wheels/{pip}" \\
 && python3 /tmp/{pip}/pip install --break-system-packages --no-cache-dir --no-compile --no-deps \\
    --index-url "$URL/simple" -r /tmp/tools.txt && rm /tmp/*.whl
RUN python3 /tmp/cuda.py "$URL/wheels/"
WORKDIR /spectralmc
COPY pyproject.toml poetry.toml poetry.lock ./
RUN poetry install --no-root --no-interaction --no-cache {groups}
COPY . .
RUN poetry install --only-root --no-interaction && rm poetry.lock
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["sleep", "infinity"]
EXPOSE 6006
"""

# Runs in the container: the component wheels, laid out as the recipe lays them out.
CUDA_SCRIPT = '''\
import io, os, pathlib, shutil, sys, urllib.request, zipfile
PREFIX = pathlib.Path("/usr/local/cuda-12.8")
FOLDERS = {"include": "include", "lib": "lib64", "bin": "bin", "nvvm": "nvvm"}
PREFIX.mkdir()
os.symlink("cuda-12.8", "/usr/local/cuda")
for name in %r:
    path, _ = urllib.request.urlretrieve(sys.argv[1] + name)
    with zipfile.ZipFile(path) as wheel:
        for member in wheel.infolist():
            parts = pathlib.PurePosixPath(member.filename).parts
            if member.is_dir() or len(parts) < 4 or parts[0] != "nvidia" or parts[2] not in FOLDERS:
                continue
            folder = PREFIX / FOLDERS[parts[2]]
            if parts[1] == "cuda_sanitizer_api":
                folder = PREFIX / "compute-sanitizer" / ("include" if parts[2] == "include" else "")
            target = folder.joinpath(*parts[3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            os.chmod(target, (member.external_attr >> 16 & 0o777) or 0o644)
    os.unlink(path)
'''


def context(project: Path, files: Path, url: str, context: Path) -> None:
    """The application, the Dockerfile, and what both sides take from one lock."""
    lock = read_lock(project)
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(project, context, ignore=shutil.ignore_patterns("assemble.lock", "pyproject.toml"))
    sets = {entry["name"]: entry["packages"] for entry in lock["requirements"]["debian"]["sets"]}
    tools = lock["python"]["tools"]
    (context / "tools.txt").write_text("".join(f"{tool['name']}=={tool['version']}\n" for tool in tools))
    wheels = [one["file"]["name"] for one in lock["python"]["collections"][CUDA]]
    (context / "cuda.py").write_text(CUDA_SCRIPT % wheels)
    whole = any(GROUP in one["wanted_by"] for one in lock["python"]["packages"])
    environment = {
        "PATH": "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64",
        "PYTHONPATH": "/spectralmc",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    dockerfile = DOCKERFILE.format(
        environment=" ".join(f"{name}={value}" for name, value in environment.items()),
        packages=" ".join(sets["system"]),
        pip=next(tool["file"]["name"] for tool in tools if tool["name"] == "pip"),
        groups=f"--with {GROUP}" if whole else "",
    )
    (context / "Dockerfile").write_text(dockerfile)
    (context / ".dockerignore").write_text("Dockerfile\n")


def poetry_lock(project: Path, url: str, context: Path, exported: str) -> None:
    """Poetry's lock and manifest, with the loopback index for every source."""
    manifest = (project / "pyproject.toml").read_text()
    manifest = re.sub(r'(?m)^url = "https?://.*"$', f'url = "{url}/simple/"', manifest)
    manifest += f'\n[[tool.poetry.source]]\nname = "{LOCAL}"\nurl = "{url}/simple/"\npriority = "primary"\n'
    (context / "pyproject.toml").write_text(manifest)

    entries = re.split(r"(?m)^(?=\[\[package\]\]|\[metadata\]|\[extras\])", exported)
    for index, entry in enumerate(entries):
        if entry.startswith("[[package]]"):
            source = "\n[package.source]\ntype = \"legacy\"\nurl = \"{}/simple\"\nreference = \"{}\"\n\n"
            reference = SOURCE if "[package.source]" in entry else LOCAL
            entries[index] = entry.split("\n[package.source]")[0].rstrip() + "\n" + source.format(url, reference)
    text = "".join(entries)
    text = re.sub(r'(?m)^content-hash = ".*"$', f'content-hash = "{content_hash(manifest)}"', text)
    known = content_hash((project / "pyproject.toml").read_text())
    assert known == read_lock(project)["python"]["content_hash"], "Poetry hashes its manifest otherwise now"
    (context / "poetry.lock").write_text(text)


def content_hash(manifest: str) -> str:
    """As `poetry.packages.locker` makes it (Poetry 2)."""
    data = tomllib.loads(manifest)
    project, poetry = data.get("project", {}), data.get("tool", {}).get("poetry", {})
    names = ["requires-python", "dependencies", "optional-dependencies"]
    relevant = {name: project[name] for name in names if project.get(name) is not None}
    legacy = ["dependencies", "source", "extras", "dev-dependencies"]
    ours = {}
    for name in [*legacy, "group"]:
        if poetry.get(name) is not None or (name in legacy and not relevant):
            ours[name] = poetry.get(name)
    content = {"project": relevant, "tool": {"poetry": ours}} if relevant else ours
    if groups := data.get("dependency-groups"):
        content["dependency-groups"] = groups
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def bump(project: Path, files: Path, store: Path) -> None:
    """The lock as it is after one small distribution was moved, and the wheel for both sides."""
    path = project / "assemble.lock"
    cut = blocks(path.read_text())
    (at,) = [
        index
        for index, block in enumerate(cut)
        if block.startswith("[[python.packages]]") and f'\nname = "{BUMPED}"\n' in block
    ]
    entry = tomllib.loads(cut[at])["python"]["packages"][0]
    old, name = entry["version"], entry["file"]["name"]
    base, _, number = old.partition(".post")
    new = f"{base}.post{int(number or 0) + 1}"
    wheel = reversioned((files / "wheels" / name).read_bytes(), old, new)
    digest = hashlib.sha256(wheel).hexdigest()
    renamed = name.replace(f"-{old}-", f"-{new}-")
    for target in (files / "wheels" / renamed, files / "blobs" / digest, store / "blobs" / digest):
        target.write_bytes(wheel)
    (files / "digests" / renamed).write_text(digest)
    page(files, BUMPED)
    cut[at] = (
        cut[at]
        .replace(f'version = "{old}"', f'version = "{new}"')
        .replace(f'name = "{name}"', f'name = "{renamed}"')
        .replace(entry["file"]["sha256"], digest)
        .replace(f'size = {entry["file"]["size"]}\n', f"size = {len(wheel)}\n")
    )
    path.write_text("".join(cut))


def reversioned(wheel: bytes, old: str, new: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        record = []
        for member in source.infolist():
            data = source.read(member)
            path = member.filename.replace(f"-{old}.dist-info/", f"-{new}.dist-info/")
            if path.endswith(".dist-info/METADATA"):
                data = data.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {new}\n".encode())
            if path.endswith(".dist-info/RECORD"):
                record_path = path
                continue
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(data)}\n")
            target.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
        record.append(f"{record_path},,\n")
        target.writestr(zipfile.ZipInfo(record_path, (2020, 1, 1, 0, 0, 0)), "".join(record), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def floor(archive: Path, scratch: Path, part: str) -> None:
    """CPU seconds that nothing spares: over the layers of an archive, inflate once, hash both the
    blob and what it inflates to, and write the blob once. `part` is one layer's digest, or nothing.
    """
    started = time.process_time()
    with tarfile.open(archive) as tar, open(scratch, "wb") as out:
        config_and_layers = json.load(tar.extractfile("manifest.json"))[0]
        for name in config_and_layers["Layers"]:
            if part and part not in name:
                continue
            packed, unpacked = hashlib.sha256(), hashlib.sha256()
            inflate = zlib.decompressobj(31)
            source = tar.extractfile(name)
            while chunk := source.read(1 << 20):
                packed.update(chunk)
                out.write(chunk)
                while chunk:
                    if inflate.eof:
                        inflate = zlib.decompressobj(31)
                    unpacked.update(inflate.decompress(chunk))
                    chunk = inflate.unused_data
            assert packed.hexdigest() in name
    print(f"{time.process_time() - started:.3f}")
    scratch.unlink()


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f} s" if value < 1 else f"{value:.1f} s"


def table(results: Path, document: Path, title: str) -> None:
    """Rows of `key \t side \t seconds \t CPU seconds \t kilobytes`; `floor` is a side."""
    measured: dict[tuple[str, str], list[str]] = {}
    for line in results.read_text().splitlines():
        key, side, *values = line.split("\t")
        measured[key, side] = values

    def of(key: str, side: str, at: int) -> float | None:
        values = measured.get((key, side), [])
        return float(values[at]) if at < len(values) and values[at] not in ("", "-") else None

    rows = [
        ("network", "with the network: nothing had, to tarball", ""),
        ("tarball", "downloaded inputs to tarball", "≥ 5×"),
        ("engine", "downloaded inputs to an image in the engine", ""),
        ("layers", "the layers alone (theirs: nothing saved)", "≥ 8×"),
        ("noop", "nothing changed", "≤ 0.1 s"),
        ("line", "one line of the application changed", "≤ 0.3 s"),
        ("dependency", "one small dependency changed", "≤ 3 s"),
        ("load-line", "one line changed, to a running container by `--load`", "≥ 3×"),
        ("load-line-saved", "the same, theirs built, saved and loaded", "≥ 100×"),
        ("load-dependency", "one small dependency changed, to a running container by `--load`", "≥ 10×"),
        ("first-push", "first push of the whole image, layers made, to an empty registry", "≥ 10×"),
        ("push-line", "one line changed, to that registry", "≥ 3×"),
        (
            "cache",
            "a second machine, its store empty, by `--cache`, to tarball (theirs: from downloaded inputs)",
            "≥ 5×",
        ),
        ("import", "first `import` in a fresh container", ""),
        ("podman", "downloaded inputs to tarball, theirs with `podman build`", ""),
    ]
    lines = [
        title,
        "",
        "| | usual way | assemble | ratio | goal | our CPU | floor (CPU) | our peak memory (goal: ≤ 512 MB) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for key, what, goal in rows:
        theirs, ours = of(key, "usual", 0), of(key, "ours", 0)
        if theirs is None and ours is None:
            continue
        ratio = f"{theirs / ours:.1f}×" if theirs and ours else "–"
        # Elsewhere it is Docker's client that was measured.
        measured_ours = key not in ("import", "engine")
        kilobytes = of(key, "ours", 2) if measured_ours else None
        memory = f"{kilobytes / 1000:.0f} MB" if kilobytes else "–"
        cells = [seconds(theirs), seconds(ours), ratio, goal]
        cells += [seconds(of(key, "ours", 1) if measured_ours else None), seconds(of(key, "floor", 0)), memory]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    for (key, side), values in measured.items():
        if side == "note":
            lines += ["", f"{key}: {' '.join(values)}"]
    text = "\n".join(lines) + "\n"
    print(text)
    if str(document) != "-":
        begin, end = "<!-- peers: begin -->\n", "<!-- peers: end -->\n"
        before, _, rest = document.read_text().partition(begin)
        _, _, after = rest.partition(end)
        assert rest, f"{document} has no markers"
        document.write_text(before + begin + text + end + after)


def main() -> None:
    verb, *arguments = sys.argv[1:]
    path = [Path(argument) for argument in arguments]
    match verb:
        case "files":
            files(*path)
        case "small":
            small(*path)
        case "context":
            context(path[0], path[1], arguments[2], path[3])
        case "poetry-lock":
            poetry_lock(path[0], arguments[1], path[2], sys.stdin.read())
        case "bump":
            bump(*path)
        case "floor":
            floor(path[0], path[1], arguments[2] if len(arguments) > 2 else "")
        case "table":
            table(path[0], path[1], arguments[2])
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
