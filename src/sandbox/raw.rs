//! The system calls that the safe libraries leave out. All of this project's `unsafe` is here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Leaves namespaces of the parent for new ones.
pub fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only `UnshareFlags::FILES` is unsafe, for threads that share open files.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Starts a copy of this process in new namespaces; `None` in the copy, whose process id is 1 if
/// one of them is a pid namespace.
///
/// # Errors
/// Those of clone(2).
pub fn fork_into(namespaces: UnshareFlags) -> io::Result<Option<Pid>> {
    assert_eq!(threads(), 1, "only a process of one thread can be copied whole");
    let flags = libc::c_long::from(namespaces.bits() as i32 | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack of its own the child is a copy of this process, as
    // after fork(2); there is no other thread that could have held a lock.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// How many threads this process has; 1 where nobody knows.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Closes every file from `first` on. Only for a process whose values that own files are never used
/// or dropped again.
///
/// # Errors
/// Those of close_range(2).
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, libc::c_uint::MAX)
}

/// As [`close_from`], of the files `first` to `last`.
///
/// # Errors
/// Those of close_range(2), which Linux has since 5.9.
pub fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if last < first { Ok(()) } else { close_range(first, last.cast_unsigned()) }
}

fn close_range(first: RawFd, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call touches no memory, and whoever owns a file that it closes is not used again.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
