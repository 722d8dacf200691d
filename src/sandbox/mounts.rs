//! The root as a command sees it: its mounts, and the folders and files they stand on.
//!
//! The mounts belong to the command's own mount namespace and end with it. What they stand on is made
//! in the root before the command and removed after it, unless it was there: no mount leaves a trace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use fs_err as fs;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use super::Bind;
use super::materialise::FileId;
use super::staging::{DEVICES, failed, open_folder};
use crate::bounded::open_within;
use crate::{Error, Kind, Result};

/// The folders that something is always mounted on.
const FOLDERS: &[&str] = &["dev", "proc", "run", "tmp"];

/// The links of `/dev` (Linux, `Documentation/admin-guide/devices.rst`, "Compulsory links").
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// What of `/proc` shows the machine, its memory, keys or devices, and is hidden; as runc's and
/// Docker's default configurations have it (OCI runtime-spec, `maskedPaths`).
const MASKED: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// What of `/proc` changes the machine, and is read-only there (OCI runtime-spec, `readonlyPaths`).
const READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What was made in the root for mounts to stand on.
pub struct Mountpoints {
    made: Vec<Made>,
}

struct Made {
    id: FileId,
    parent: OwnedFd,
    name: Vec<u8>,
    flags: AtFlags,
    /// The link that stood there and led nowhere, as `/etc/resolv.conf` does where systemd-resolved
    /// was installed, and whose it was.
    instead_of: Option<(CString, Stat)>,
}

impl Mountpoints {
    /// Makes them in the root of this process; `is_folder` says what a bind, by its index, is.
    pub fn make(binds: &[Bind], is_folder: &dyn Fn(usize, &Bind) -> bool) -> Result<Self> {
        let root = open_folder(CWD, "/").map_err(io::Error::from)?;
        let mut this = Self { made: Vec::new() };
        for name in FOLDERS {
            this.ensure(&root, Path::new(name), true)?;
            check_folder(name)?;
        }
        for (index, bind) in binds.iter().enumerate() {
            this.ensure(&root, &inside(&bind.target)?, is_folder(index, bind))?;
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
        let mut instead_of = None;
        if let Ok(target) = rustix::fs::readlinkat(&parent, &name[..], Vec::new()) {
            instead_of = Some((target, rustix::fs::statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW)?));
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
        let id = FileId::of(&rustix::fs::statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW)?);
        self.made.push(Made { id, parent, name, flags, instead_of });
        Ok(())
    }

    /// Removes what was made, what stands in it first.
    pub fn remove(self) -> Result<()> {
        for Made { id, parent, name, flags, instead_of } in self.made.into_iter().rev() {
            // The command may have moved it, and put something of its own there.
            match rustix::fs::statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileId::of(&stat) == id => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let removed = rustix::fs::unlinkat(&parent, &name[..], flags).and_then(|()| match instead_of {
                Some((target, stat)) => put_back(&parent, &name, &target, &stat),
                None => Ok(()),
            });
            match removed {
                // The command put something beside the mount: then the folder is the command's.
                Ok(()) | Err(Errno::NOTEMPTY) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }
}

/// Makes a link again as it was.
fn put_back(parent: &OwnedFd, name: &[u8], target: &CString, stat: &Stat) -> rustix::io::Result<()> {
    rustix::fs::symlinkat(target, parent, name)?;
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// What something is always mounted on is a folder itself: a link that a command left there would put the
/// mount, and what protects it, elsewhere.
fn check_folder(name: &str) -> Result<()> {
    let path = Path::new("/").join(name);
    if fs::symlink_metadata(&path)?.is_dir() {
        return Ok(());
    }
    Err(Error::new(Kind::Build, format!("`{}` is no folder of the root", path.display()))
        .detail("something is mounted there for every command"))
}

/// Opens a path of this process's root, without the links of `/proc`, which lead anywhere.
pub fn follow(path: &Path) -> rustix::io::Result<OwnedFd> {
    let root = open_folder(CWD, "/")?;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open_within(&root, path, OFlags::PATH | OFlags::CLOEXEC, within)
}

/// Opens a path of the root as a command in it would, so that no link leads out.
fn resolve(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_within(root, path, OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT)
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

/// Mounts everything and makes the job's root the root, in the mount namespace that this process has
/// just been started in; the staging root is its root until then.
pub fn enter(binds: &[Bind]) -> Result<()> {
    // A handle of the helper's is of its mount namespace, and cannot be mounted in this one.
    let staging = &open_folder(CWD, "/").map_err(io::Error::from)?;
    // The job's root is mounted onto itself, for what came with the namespace cannot become its root.
    let entered = mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .and_then(|()| mount_bind("/root", "/root"))
        .and_then(|()| rustix::process::chdir("/root"))
        .and_then(|()| rustix::process::pivot_root(".", "."));
    entered.map_err(|error| failed("enter the job's root", error))?;
    // From here on absolute paths, and links, lead into the job's root alone; the staging root is
    // reached by its handle.
    mount_system(staging)?;
    mount_devices(staging)?;
    for (index, bind) in binds.iter().enumerate() {
        let folder = if bind.writable { "caches" } else { "binds" };
        attach(staging, &format!("{folder}/{index}"), &bind.target, bind.writable)?;
    }
    let left = rustix::process::fchdir(staging)
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir("/"));
    left.map_err(|error| failed("leave its own root", error))
}

fn mount_system(staging: &OwnedFd) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", "/proc", "proc", flags | MountFlags::NOEXEC, None).map_err(|error| {
        failed("mount `/proc`", error).hint(
            "a container that hides parts of its own `/proc` forbids it: start it with `--security-opt \
             systempaths=unconfined` (podman: `--security-opt unmask=ALL`)",
        )
    })?;
    tmpfs("/run", flags, c"mode=0755,size=256m,nr_inodes=64k")?;
    attach(staging, "tmp", Path::new("/tmp"), true)?;
    mask(staging)
}

/// Hides and write-protects parts of `/proc`. A kernel that lacks one of them has nothing to hide.
fn mask(staging: &OwnedFd) -> Result<()> {
    for name in READ_ONLY {
        let path = Path::new("/proc").join(name);
        match open_tree(CWD, &path, CLONE) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(&format!("protect `{}`", path.display()), error)),
            Ok(source) => {
                place(&source, &path, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC)?
            }
        }
    }
    for name in MASKED {
        let path = Path::new("/proc").join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(metadata) if metadata.is_dir() => {
                tmpfs(
                    &path,
                    MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
                    c"size=0,mode=0555",
                )?;
            }
            Ok(_) => attach(staging, "dev/null", &path, true)?,
        }
    }
    Ok(())
}

fn mount_devices(staging: &OwnedFd) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    tmpfs("/dev", flags, c"mode=0755,size=1m,nr_inodes=1k")?;
    for name in DEVICES {
        let target = Path::new("/dev").join(name);
        fs::File::create(&target)?;
        attach(staging, &format!("dev/{name}"), &target, true)?;
    }
    for (name, target) in LINKS {
        fs::os::unix::fs::symlink(target, Path::new("/dev").join(name))?;
    }
    fs::create_dir("/dev/pts")?;
    // Group 5 is Debian's `tty`.
    mount("devpts", "/dev/pts", "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620,gid=5,max=256")
        .map_err(|error| failed("mount `/dev/pts`", error))?;
    fs::create_dir("/dev/shm")?;
    tmpfs("/dev/shm", flags | MountFlags::NODEV, c"mode=1777,size=25%,nr_inodes=64k")
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

fn tmpfs(path: impl AsRef<Path>, flags: MountFlags, options: &std::ffi::CStr) -> Result<()> {
    let path = path.as_ref();
    mount("tmpfs", path, "tmpfs", flags, Some(options))
        .map_err(|error| failed(&format!("mount `{}`", path.display()), error))
}

/// Mounts what stands at `source` in the staging root.
fn attach(staging: &OwnedFd, source: &str, target: &Path, writable: bool) -> Result<()> {
    let source = open_tree(staging, source, CLONE)
        .map_err(|error| failed(&format!("mount `{}`", target.display()), error))?;
    let protect = if writable { MountFlags::empty() } else { MountFlags::RDONLY };
    place(&source, target, protect)
}

/// Mounts a clone at `target`, with flags beside those that the
/// machine's own mount has: the kernel refuses to drop these.
fn place(source: &OwnedFd, target: &Path, more: MountFlags) -> Result<()> {
    let refused = |error| failed(&format!("mount `{}`", target.display()), error);
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let place = follow(target).map_err(refused)?;
    move_mount(source, "", place, "", flags).map_err(refused)?;
    if more.is_empty() {
        return Ok(());
    }
    let inherited = rustix::fs::fstatvfs(source).map_err(refused)?.f_flag;
    let mut flags = MountFlags::BIND | more;
    for (is, keep) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        if inherited.contains(is) {
            flags |= keep;
        }
    }
    mount_remount(format!("/proc/self/fd/{}", source.as_raw_fd()), flags, "").map_err(refused)
}
