//! Paths inside a root that is not ours: links are followed as its own programs would follow them,
//! and never lead out.
//!
//! Nobody else writes into the root meanwhile, so looking before acting is enough; every act itself
//! refuses to follow a last link.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use fs_err as fs;

use crate::sandbox::walk::read_file;
use crate::{Error, Kind, Result};

/// Linux gives up after as many (path_resolution(7)).
const LINK_LIMIT: usize = 40;

/// The bytes of a file of the database. `status` of a whole desktop has some 10 MB.
const LARGEST: u64 = 64 << 20;

/// A root folder. Paths in it are bytes without a leading slash; the root itself is empty.
pub struct Root {
    path: PathBuf,
    /// Where folders really are. While packages are unpacked no link of the root changes.
    folders: RwLock<HashMap<Vec<u8>, Vec<u8>>>,
}

impl Root {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), folders: RwLock::default() }
    }

    /// Where a real path is on the disk.
    pub fn on_disk(&self, real: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(real))
    }

    /// A path of the database, such as `var/lib/dpkg/status`.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        Ok(self.on_disk(&self.real(path.as_bytes())?))
    }

    /// Reads a file of the database; `None` if there is none.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        read_file(&self.file(path)?, LARGEST)
    }

    /// Writes a file of the database anew, mode 0644 and never through a link; what is the same
    /// already keeps its time.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let file = self.file(path)?;
        let is_file = fs::symlink_metadata(&file).is_ok_and(|metadata| metadata.is_file());
        if is_file && read_file(&file, LARGEST)?.as_deref() == Some(bytes) {
            return Ok(());
        }
        remove(&file)?;
        fs::File::create_new(&file)?.write_all(bytes)?;
        Ok(fs::set_permissions(&file, Permissions::from_mode(0o644))?)
    }

    /// Makes a folder and those above it, mode 0755, unless they are there.
    pub fn make_folder(&self, path: &str) -> Result<()> {
        let slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(index, _)| index);
        for end in slashes.chain([path.len()]) {
            let folder = self.on_disk(&self.follow(&path.as_bytes()[..end])?);
            if !folder.is_dir() {
                fs::create_dir(&folder)?;
                fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
            }
        }
        Ok(())
    }

    /// Forgets where folders are, for a script may have changed it.
    pub fn forget(&self) {
        self.folders.write().expect("no thread panics").clear();
    }

    /// Where a path really is: links in its folders followed, a last one not.
    pub fn real(&self, path: &[u8]) -> Result<Vec<u8>> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return Ok(path.to_vec()) };
        let mut real = self.folder(&path[..slash])?;
        push(&mut real, &path[slash + 1..]);
        Ok(real)
    }

    /// Where a folder really is, itself followed if it is a link.
    pub fn folder(&self, path: &[u8]) -> Result<Vec<u8>> {
        if let Some(real) = self.folders.read().expect("no thread panics").get(path) {
            return Ok(real.clone());
        }
        let real = self.follow(path)?;
        self.folders.write().expect("no thread panics").insert(path.to_vec(), real.clone());
        Ok(real)
    }

    /// Follows every link of a path. What does not exist is taken for a folder to be made.
    pub fn follow(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut real = Vec::new();
        let mut rest: Vec<Vec<u8>> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => pop(&mut real),
                _ => push(&mut real, &part),
            }
            let Ok(target) = std::fs::read_link(self.on_disk(&real)) else { continue };
            links += 1;
            if links > LINK_LIMIT {
                let path = String::from_utf8_lossy(path).into_owned();
                return Err(Error::new(Kind::Input, format!("`/{path}` leads through too many links")));
            }
            let target = target.as_os_str().as_bytes();
            if target.starts_with(b"/") {
                real.clear();
            } else {
                pop(&mut real);
            }
            rest.extend(parts(target));
        }
        Ok(real)
    }
}

/// The parts of a path, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn push(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}

fn pop(path: &mut Vec<u8>) {
    path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
}

/// Removes a file or link, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let link = |target: &str, path: &str| {
            fs_err::os::unix::fs::symlink(target, folder.path().join(path)).unwrap()
        };
        fs::create_dir_all(folder.path().join("usr/lib")).unwrap();
        link("usr/lib", "lib");
        link("/usr", "absolute");
        link("../../../../../etc", "usr/out");
        link("loop", "loop");
        link("absolute/lib", "usr/chain");
        let root = Root::new(folder.path());
        let real = |path: &str| String::from_utf8(root.real(path.as_bytes()).unwrap()).unwrap();
        assert_eq!(real("lib/a/b"), "usr/lib/a/b");
        assert_eq!(real("lib"), "lib");
        assert_eq!(real("absolute/lib/x"), "usr/lib/x");
        assert_eq!(real("usr/out/passwd"), "etc/passwd");
        assert_eq!(real("usr/chain/x"), "usr/absolute/lib/x");
        assert!(root.real(b"loop/x").is_err());
    }
}
