//! What the helper takes along when it leaves the machine's files: everything that the job needs is
//! opened or mounted here first, with the caller's rights; after [`Staging::enter`] no path leads out.
//!
//! ```text
//! /                  a small tmpfs, the helper's root after the pivot
//! ├── root           the root of the job, on the disk; the helper works in a chroot of it
//! ├── tmp            what commands see at /tmp, on the disk, for compilers put gigabytes there
//! ├── binds/N        files that commands see: copies, for the caller's own may be closed to their ids
//! ├── caches/N       folders of the store that commands write into
//! ├── dev            the machine's devices that commands see
//! └── proc           the machine's /proc: the kernel mounts a new one only beside one that is whole
//! ```
//!
//! On the disk `root`, `tmp` and `binds` stand in the folder [`WORK`] of the job's folder. It is open
//! to everybody, because the ids of the sandbox are nobody's; whoever else there is on the machine is
//! kept out by the store's `tmp`, which is its owner's alone.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assemble_layers::digest::BlobDigest;
use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::materialise::Merged;
use super::protocol::Order;
use super::protocol::{record_path, tar_path};
use super::{Bind, Task, remove};
use crate::{Error, Kind, Result};

/// The folder of the job's folder that belongs to the sandbox.
pub const WORK: &str = "work";

/// The machine's devices that a command sees. No user namespace may make its own.
pub const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

/// What a job reads and writes, opened with the caller's rights.
pub struct Opened {
    pub trees: Merged,
    pub blobs: HashMap<BlobDigest, fs::File>,
    /// Those of [`Task::UnpackDebs`], in its order.
    pub debs: Vec<fs::File>,
    pub terminal: Option<File>,
    /// Where the output's tar and its record go; a job that enters a failed step has none.
    pub output: Option<(fs::File, fs::File)>,
    pub staging: Staging,
}

impl Opened {
    /// Opens what a job names. The caller's ids count here, with all capabilities of the new user
    /// namespace, which may mount.
    pub fn open(order: &Order) -> Result<Self> {
        let job = &order.job;
        let blobs = job.blobs.iter().map(|(digest, path)| Ok((*digest, fs::File::open(path)?)));
        let debs = match &job.task {
            Task::UnpackDebs { packages, .. } => {
                packages.iter().map(|deb| fs::File::open(&deb.path)).collect()
            }
            _ => Ok(Vec::new()),
        };
        let (command, enters) = match &job.task {
            Task::Run { command, .. } => (Some(command), false),
            Task::Enter { command } => (Some(command), true),
            Task::UnpackDebs { .. } => (None, false),
        };
        let terminal = command.and_then(|command| command.terminal.as_ref());
        let terminal = terminal.map(|path| File::options().read(true).write(true).open(path)).transpose()?;
        let output = || {
            Ok::<_, Error>((
                fs::File::create(tar_path(&job.folder))?,
                fs::File::create(record_path(&job.folder))?,
            ))
        };
        Ok(Self {
            trees: Merged::read(&job.root)?,
            blobs: blobs.collect::<Result<_>>()?,
            debs: debs?,
            terminal,
            output: if enters { None } else { Some(output()?) },
            staging: Staging::prepare(order, enters, command.map_or(&[][..], |command| &command.binds))?,
        })
    }
}

/// See the module.
pub struct Staging {
    work: OwnedFd,
    /// Whether `root` is there already: what a failed step left.
    enters: bool,
    devices: Vec<(&'static str, OwnedFd)>,
    proc: OwnedFd,
    binds: Vec<Source>,
    /// A cache has a folder for each range of ids that it was used with, named by the first of them:
    /// what other ids have written could be read, and not replaced.
    ids: String,
}

/// What a command sees of the machine.
enum Source {
    /// A file or folder: paths below it, with the open file or `None` for a folder. Copied.
    Copy(Vec<(PathBuf, Option<File>)>),
    /// A folder that commands write into.
    Cache(OwnedFd),
}

/// The helper's root once it has left the machine's files.
pub struct Root {
    /// The tmpfs.
    pub staging: OwnedFd,
    /// Its `proc`.
    pub proc: OwnedFd,
}

impl Root {
    /// Makes the job's root this process's: whatever path it opens, and whatever link it follows, leads
    /// there.
    pub fn enter(&self) -> Result<()> {
        self.change("root")
    }

    /// Makes the staging root this process's: the kernel makes no user namespace for one whose root is
    /// not that of its mounts.
    pub fn leave(&self) -> Result<()> {
        self.change(".")
    }

    fn change(&self, root: &str) -> Result<()> {
        rustix::process::fchdir(&self.staging)
            .and_then(|()| rustix::process::chroot(root))
            .and_then(|()| rustix::process::chdir("/"))
            .map_err(|error| failed("change its root", error))
    }
}

impl Staging {
    fn prepare(order: &Order, enters: bool, binds: &[Bind]) -> Result<Self> {
        let work = order.job.folder.join(WORK);
        if !enters {
            fs::create_dir(&work)?;
            fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777))?;
        }
        let clone = |path: &Path, flags| {
            let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, path, flags).map_err(|error| failed(&format!("open `{}`", path.display()), error))
        };
        let device =
            |name: &&'static str| Ok((*name, clone(&Path::new("/dev").join(name), OpenTreeFlags::empty())?));
        let source = |bind: &Bind| match bind.writable {
            true => {
                fs::set_permissions(&bind.source, std::fs::Permissions::from_mode(0o777))?;
                Ok(Source::Cache(open_folder(CWD, &bind.source).map_err(io::Error::from)?))
            }
            false => Ok(Source::Copy(open_all(&bind.source)?)),
        };
        Ok(Self {
            work: open_folder(CWD, &work).map_err(io::Error::from)?,
            enters,
            devices: DEVICES.iter().map(device).collect::<Result<_>>()?,
            // With what is mounted on it: the kernel would not let that be uncovered.
            proc: clone(Path::new("/proc"), OpenTreeFlags::AT_RECURSIVE)?,
            binds: binds.iter().map(source).collect::<Result<_>>()?,
            ids: order.ids.first_user.to_string(),
        })
    }

    /// Leaves the machine's files. From here on the ids of the sandbox count.
    pub fn enter(self) -> Result<Root> {
        let staging =
            tmpfs(&[("mode", "0755"), ("size", "1m")]).map_err(|error| failed("make its own root", error))?;
        self.fill(&staging)?;
        let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&staging, "", &self.work, "", attach)
            .and_then(|()| rustix::process::fchdir(&staging))
            .and_then(|()| pivot())
            .map_err(|error| failed("enter its own root", error))?;
        let proc = open_folder(&staging, "proc").map_err(io::Error::from)?;
        let root = Root { staging, proc };
        root.enter()?;
        Ok(root)
    }

    fn fill(&self, staging: &OwnedFd) -> Result<()> {
        let work = self.work.as_fd();
        for name in ["root", "tmp", "binds"] {
            if name != "root" && self.enters {
                // A process that was killed has left its own.
                remove::remove_at(work, name)?;
            }
            if name != "root" || !self.enters {
                make_folder(work, name)?;
            }
        }
        rustix::fs::chmodat(work, "tmp", Mode::from_raw_mode(0o1777), AtFlags::empty())
            .map_err(io::Error::from)?;
        for name in ["root", "tmp", "proc", "dev", "binds", "caches"] {
            make_folder(staging, name)?;
        }
        let place = |mount: &OwnedFd, path: &str| {
            move_mount(mount, "", staging, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(|error| failed(&format!("mount its `{path}`"), error))
        };
        let bind = |folder: &OwnedFd, source: &str, path: &str| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = open_tree(folder, source, flags)
                .map_err(|error| failed(&format!("mount its `{path}`"), error))?;
            place(&mount, path)
        };
        bind(&self.work, "root", "root")?;
        bind(&self.work, "tmp", "tmp")?;
        bind(&self.work, "binds", "binds")?;
        place(&self.proc, "proc")?;
        for (name, mount) in &self.devices {
            let path = format!("dev/{name}");
            make_file(staging, &path)?;
            place(mount, &path)?;
        }
        let copies = open_folder(work, "binds").map_err(io::Error::from)?;
        for (index, source) in self.binds.iter().enumerate() {
            match source {
                Source::Copy(files) => copy(&copies, Path::new(&index.to_string()), files)?,
                Source::Cache(folder) => {
                    let path = format!("caches/{index}");
                    make_folder(staging, &path)?;
                    if !exists(folder, &self.ids) {
                        make_folder(folder, &self.ids)?;
                    }
                    bind(folder, &self.ids, &path)?;
                }
            }
        }
        Ok(())
    }
}

/// A new tmpfs, mounted nowhere yet.
pub fn tmpfs(options: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), *name, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes `.` the root, and forgets the old one.
fn pivot() -> rustix::io::Result<()> {
    // The old root is put onto the new one and taken off again (pivot_root(2), "pivot_root(".", ".")"):
    // no folder has to be made for it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)
}

pub fn open_folder(base: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(base, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn exists(base: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(base, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn make_folder(base: impl AsFd, path: impl rustix::path::Arg) -> Result<()> {
    Ok(rustix::fs::mkdirat(base, path, Mode::from_raw_mode(0o755)).map_err(io::Error::from)?)
}

fn make_file(base: impl AsFd, path: impl rustix::path::Arg) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(base, path, flags, Mode::from_raw_mode(0o644)).map_err(io::Error::from)?.into())
}

/// Opens a file, or everything in a folder, which is made of folders and plain files.
fn open_all(source: &Path) -> Result<Vec<(PathBuf, Option<File>)>> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        // `join` of nothing would add a slash.
        let here = if path.as_os_str().is_empty() { source.to_owned() } else { source.join(&path) };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(&here, flags, Mode::empty())
            .map_err(|error| {
                Error::from(io::Error::from(error)).within(format!("cannot open `{}`", here.display()))
            })?
            .into();
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&here)? {
                left.push(path.join(entry?.file_name()));
            }
            found.push((path, None));
        } else if metadata.is_file() {
            found.push((path, Some(file)));
        } else {
            return Err(Error::new(Kind::Input, format!("`{}` is no plain file", here.display())));
        }
    }
    Ok(found)
}

/// Copies what [`open_all`] opened to `name` in a folder.
fn copy(folder: &OwnedFd, name: &Path, files: &[(PathBuf, Option<File>)]) -> Result<()> {
    for (path, file) in files {
        let path = if path.as_os_str().is_empty() { name.to_owned() } else { name.join(path) };
        let Some(mut source) = file.as_ref() else {
            make_folder(folder, &path)?;
            continue;
        };
        let mut target = make_file(folder, &path)?;
        io::copy(&mut source, &mut target)?;
        let executable = source.metadata()?.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        target.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

pub fn failed(what: &str, error: Errno) -> Error {
    Error::new(Kind::Machine, format!("the sandbox cannot {what}")).detail(io::Error::from(error))
}
