//! A file that is there whole or not at all; what is no file is written into.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::{Error, Kind, Result};

/// As many links are followed as Linux follows (path_resolution(7)).
const LINKS: usize = 40;

/// A file that gets its name when it is whole. Until then it has none, so that a killed process
/// leaves nothing behind; where the file system cannot do that, a hidden one (open(2), `O_TMPFILE`).
pub struct Draft {
    path: PathBuf,
    kind: Unnamed,
}

enum Unnamed {
    File(File),
    Hidden(tempfile::NamedTempFile),
    /// It has its name already.
    Named(File),
}

impl Draft {
    /// Begins the file that is to stand at `path`, with the mode that any new file has. A link that
    /// stands there is replaced and not followed: whoever made the folder may have put it there.
    ///
    /// # Errors
    /// Its folder is not there, or cannot be written.
    pub fn new(path: &Path) -> Result<Self> {
        let mode = Mode::from_raw_mode(0o666);
        let kind =
            match rustix::fs::open(folder(path), OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
                Ok(file) => Unnamed::File(file.into()),
                Err(_) => Unnamed::Hidden(hidden(folder(path))?),
            };
        Ok(Self { path: path.to_owned(), kind })
    }

    /// Begins what a person named: a link stays, and the file that it leads to is replaced; a pipe or a
    /// device is written into.
    ///
    /// # Errors
    /// As [`Draft::new`]; a folder stands there.
    pub fn of_output(path: &Path) -> Result<Self> {
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                Err(Error::new(Kind::Usage, format!("`{}` is a folder", path.display())))
            }
            Ok(there) if !there.is_file() => {
                let file = fs_err::OpenOptions::new().write(true).open(path)?;
                Ok(Self { path: path.to_owned(), kind: Unnamed::Named(file.into_parts().0) })
            }
            _ => Self::new(&followed(path)?),
        }
    }

    pub fn file(&mut self) -> &mut File {
        match &mut self.kind {
            Unnamed::File(file) | Unnamed::Named(file) => file,
            Unnamed::Hidden(file) => file.as_file_mut(),
        }
    }

    /// Gives it its name; what stood there before is gone.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(self) -> Result<()> {
        let name = match self.kind {
            Unnamed::Named(_) => return Ok(()),
            Unnamed::Hidden(file) => file.into_temp_path(),
            // A link cannot take a name that is taken; a rename can.
            Unnamed::File(file) => {
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                let link =
                    |name: &Path| Ok(rustix::fs::linkat(CWD, &unnamed, CWD, name, AtFlags::SYMLINK_FOLLOW)?);
                tempfile::Builder::new()
                    .prefix(".assemble-")
                    .make_in(folder(&self.path), link)?
                    .into_temp_path()
            }
        };
        name.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// What a link leads to, whether anything is there or not; else the path itself.
fn followed(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..=LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => path = folder(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(Error::new(Kind::Usage, format!("`{}` is a link that leads nowhere", path.display())))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn hidden(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".assemble-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use rustix::fs::{FileType, mknodat};

    use super::*;

    fn write(path: &Path, text: &str) -> Result<()> {
        let mut draft = Draft::of_output(path)?;
        draft.write_all(text.as_bytes())?;
        draft.finish()
    }

    #[test]
    fn a_link_stays_and_its_target_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("below")).unwrap();
        std::fs::write(path("below/old"), "old").unwrap();
        symlink("below/old", path("link")).unwrap();
        symlink("below/new", path("dangling")).unwrap();
        symlink(path("dangling"), path("twice")).unwrap();
        for (name, target) in [("link", "below/old"), ("dangling", "below/new"), ("twice", "below/new")] {
            write(&path(name), name).unwrap();
            assert!(path(name).is_symlink(), "{name}");
            assert!(!path(target).is_symlink(), "{name}");
            assert_eq!(std::fs::read_to_string(path(target)).unwrap(), name);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "a draft was left");
        symlink("circle", path("circle")).unwrap();
        for name in ["circle", "below"] {
            assert_eq!(write(&path(name), name).unwrap_err().kind(), Kind::Usage);
        }
    }

    #[test]
    fn a_pipe_and_a_device_are_written_into() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let from = pipe.clone();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(from).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        write(&pipe, "through it").unwrap();
        assert_eq!(reader.join().unwrap(), "through it");
        assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        write(Path::new("/dev/null"), "away").unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        assert_eq!(write(Path::new("/dev/full"), "too much").unwrap_err().kind(), Kind::Store);
    }
}
