//! The project's files, as a recipe sees them.

use crate::digest::Sha256;
use crate::tree::{RawBytes, TreePath};

/// What was found in the project's folder, after `.dockerignore`.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Sorted by path.
    pub files: Vec<ProjectFile>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectFile {
    /// Below the project's folder.
    pub path: TreePath,
    pub kind: ProjectFileKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectFileKind {
    Directory,
    Symlink(RawBytes),
    File { sha256: Sha256, size: u64, executable: bool },
}

impl Project {
    pub fn find(&self, path: &str) -> Option<&ProjectFile> {
        self.files.iter().find(|file| file.path.as_bytes() == path.as_bytes())
    }

    /// Whether there is something in a folder, which need not be listed itself.
    pub fn has_below(&self, folder: &str) -> bool {
        self.files.iter().any(|file| {
            file.path.as_bytes().strip_prefix(folder.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
        })
    }
}
