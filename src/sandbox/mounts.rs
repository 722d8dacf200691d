//! The root as a command sees it: its mounts, and the folders and files they stand on.
//!
//! The mounts belong to the command's own mount namespace and end with it. What they stand on is made
//! in the root before the command and removed after it, unless it was there: no mount leaves a trace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::thread::UnshareFlags;

use super::{Bind, helper};
use crate::{Error, Kind, Result};

/// The folders that something is always mounted on.
const FOLDERS: &[&str] = &["dev", "proc", "run", "tmp"];

/// The host's devices that a command sees. No user namespace may make its own.
const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

/// The links of `/dev` (Linux, `Documentation/admin-guide/devices.rst`, "Compulsory links").
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// What was made in the root for mounts to stand on.
pub struct Mountpoints {
    made: Vec<Made>,
}

struct Made {
    parent: OwnedFd,
    name: Vec<u8>,
    flags: AtFlags,
    /// The link that stood there and led nowhere, as `/etc/resolv.conf` does where systemd-resolved
    /// was installed.
    instead_of: Option<CString>,
}

impl Mountpoints {
    pub fn make(root: &Path, binds: &[Bind]) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(io::Error::from)?;
        let mut this = Self { made: Vec::new() };
        for name in FOLDERS {
            this.ensure(&folder, Path::new(name), true)?;
        }
        for bind in binds {
            this.ensure(&folder, &inside(&bind.target)?, fs::metadata(&bind.source)?.is_dir())?;
        }
        Ok(this)
    }

    /// Makes `path` and the folders above it where they are missing.
    fn ensure(&mut self, root: &OwnedFd, path: &Path, folder: bool) -> Result<()> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.ensure(root, parent, true)?;
        }
        match resolve(root, path) {
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => self.add(root, path, folder).map_err(|error| no_mountpoint(path, error)),
            Err(error) => Err(no_mountpoint(path, error)),
        }
    }

    fn add(&mut self, root: &OwnedFd, path: &Path, folder: bool) -> rustix::io::Result<()> {
        let parent = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => resolve(root, parent)?,
            None => rustix::io::dup(root)?,
        };
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        let instead_of = rustix::fs::readlinkat(&parent, &name[..], Vec::new()).ok();
        if instead_of.is_some() {
            rustix::fs::unlinkat(&parent, &name[..], AtFlags::empty())?;
        }
        let flags = if folder {
            rustix::fs::mkdirat(&parent, &name[..], Mode::from_raw_mode(0o755))?;
            AtFlags::REMOVEDIR
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, &name[..], flags, Mode::from_raw_mode(0o644))?;
            AtFlags::empty()
        };
        self.made.push(Made { parent, name, flags, instead_of });
        Ok(())
    }

    /// Removes what was made, what stands in it first.
    pub fn remove(self) -> Result<()> {
        for Made { parent, name, flags, instead_of } in self.made.into_iter().rev() {
            let removed = rustix::fs::unlinkat(&parent, &name[..], flags).and_then(|()| match instead_of {
                Some(target) => rustix::fs::symlinkat(target, &parent, &name[..]),
                None => Ok(()),
            });
            match removed {
                // The command removed it, or put something beside the mount: then it is the command's.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }
}

/// Opens a path of the root as a command in it would, so that no link leads out.
fn resolve(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
}

fn no_mountpoint(path: &Path, error: Errno) -> Error {
    Error::new(Kind::Build, format!("nothing can be mounted on `/{}` in the root", path.display()))
        .detail(io::Error::from(error))
}

/// The target of a bind, relative to the root.
fn inside(target: &Path) -> Result<std::path::PathBuf> {
    let plain = |part: &Component| matches!(part, Component::Normal(_) | Component::RootDir);
    match target.strip_prefix("/") {
        Ok(path) if target.components().all(|part| plain(&part)) => Ok(path.to_owned()),
        _ => Err(Error::new(
            Kind::Input,
            format!("`{}` is no absolute path inside the root", target.display()),
        )),
    }
}

/// Mounts everything and makes `root` the root, in a new mount namespace.
pub fn enter(root: &Path, temporary: &Path, binds: &[Bind]) -> Result<()> {
    helper::unshare(UnshareFlags::NEWNS).map_err(|error| failed("make a mount namespace", error))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| failed("change its mounts", error))?;
    // Only a mount can become the root; from here on `.` is it.
    mount_bind(root, root).map_err(|error| failed("mount its root", error))?;
    rustix::process::chdir(root).map_err(io::Error::from)?;
    mount_system(temporary)?;
    mount_devices()?;
    // The sources stand outside the new root, the targets may be links that hold only inside it.
    let sources = binds.iter().map(open_source).collect::<Result<Vec<_>>>()?;
    pivot().map_err(|error| failed("enter its root", error))?;
    for (bind, source) in binds.iter().zip(sources) {
        attach(bind, &source)?;
    }
    Ok(())
}

fn mount_system(temporary: &Path) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", "proc", "proc", flags | MountFlags::NOEXEC, None).map_err(|error| {
        failed("mount `/proc`", error).hint(
            "a container that hides parts of its own `/proc` forbids it: start it with `--security-opt \
             systempaths=unconfined` (podman: `--security-opt unmask=ALL`)",
        )
    })?;
    mount("tmpfs", "run", "tmpfs", flags, c"mode=0755").map_err(|error| failed("mount `/run`", error))?;
    rustix::fs::chmod(temporary, Mode::from_raw_mode(0o1777)).map_err(io::Error::from)?;
    mount_bind(temporary, "tmp").map_err(|error| failed("mount `/tmp`", error))
}

fn mount_devices() -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", "dev", "tmpfs", flags, c"mode=0755").map_err(|error| failed("mount `/dev`", error))?;
    for name in DEVICES {
        let target = Path::new("dev").join(name);
        fs::File::create(&target)?;
        mount_bind(Path::new("/dev").join(name), &target)
            .map_err(|error| failed(&format!("mount `/dev/{name}`"), error))?;
    }
    for (name, target) in LINKS {
        fs::os::unix::fs::symlink(target, Path::new("dev").join(name))?;
    }
    fs::create_dir("dev/pts")?;
    // Group 5 is Debian's `tty`.
    mount("devpts", "dev/pts", "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620,gid=5")
        .map_err(|error| failed("mount `/dev/pts`", error))?;
    fs::create_dir("dev/shm")?;
    mount("tmpfs", "dev/shm", "tmpfs", flags | MountFlags::NODEV, c"mode=1777")
        .map_err(|error| failed("mount `/dev/shm`", error))
}

/// Makes `.` the root, and forgets the old one.
fn pivot() -> rustix::io::Result<()> {
    // The old root is put onto the new one and taken off again (pivot_root(2), "pivot_root(".", ".")"):
    // no folder has to be made for it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn open_source(bind: &Bind) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, &bind.source, flags)
        .map_err(|error| failed(&format!("open `{}` of the host", bind.source.display()), error))
}

fn attach(bind: &Bind, source: &OwnedFd) -> Result<()> {
    let refused = |error| failed(&format!("mount `{}`", bind.target.display()), error);
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(source.as_fd(), "", CWD, &bind.target, flags).map_err(refused)?;
    // What the host's own mount forbids stays forbidden; a mount that said less would be refused.
    let inherited = rustix::fs::statvfs(&bind.target).map_err(refused)?.f_flag;
    let mut flags = MountFlags::BIND;
    flags.set(MountFlags::RDONLY, !bind.writable);
    for (is, keep) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        flags.set(keep, inherited.contains(is));
    }
    mount_remount(&bind.target, flags, "").map_err(refused)
}

fn failed(what: &str, error: Errno) -> Error {
    Error::new(Kind::Machine, format!("the sandbox cannot {what}")).detail(io::Error::from(error))
}
