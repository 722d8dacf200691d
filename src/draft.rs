//! A file that is there whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::Result;

/// A file that gets its name when it is whole. Until then it has none, so that a killed process
/// leaves nothing behind; where the file system cannot do that, a hidden one (open(2), `O_TMPFILE`).
pub struct Draft {
    path: PathBuf,
    kind: Unnamed,
}

enum Unnamed {
    File(File),
    Hidden(tempfile::NamedTempFile),
}

impl Draft {
    /// Begins the file that is to stand at `path`, with the mode that any new file has.
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

    pub fn file(&mut self) -> &mut File {
        match &mut self.kind {
            Unnamed::File(file) => file,
            Unnamed::Hidden(file) => file.as_file_mut(),
        }
    }

    /// Gives it its name; what stood there before is gone.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(self) -> Result<()> {
        let name = match self.kind {
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

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn hidden(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".assemble-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
}
