//! The project's own files, as layers: its manifest, and the application.

use crate::derivation::{FileEntry, FileSource, Files};
use crate::image::Layer;
use crate::lock::Lock;
use crate::project::{Project, ProjectFile, ProjectFileKind};
use crate::python::{self, Scheme};
use crate::recipe::RecipeError;
use crate::tree::{InvalidPath, RawBytes};
use crate::{Builder, Graph, NodeId, TreePath};

/// What `poetry install` would read. Never `poetry.lock`.
pub const MANIFEST: [&str; 2] = ["pyproject.toml", "poetry.toml"];

/// The manifest alone, in the application's folder, so that it can lie below what changes often.
/// It is no input of unpacking a wheel.
///
/// # Errors
/// The project lacks one of the files.
pub fn manifest(graph: &mut Graph, project: &Project, folder: &str) -> Result<Layer, RecipeError> {
    let entries = MANIFEST.map(|name| {
        let missing = || RecipeError(format!("the project has no `{name}`"));
        Ok(entry(project.find(name).ok_or_else(missing)?, folder)?)
    });
    let entries = entries.into_iter().collect::<Result<_, RecipeError>>()?;
    Ok(Layer {
        tree: graph.add("manifest", Builder::Files(Files { entries })),
        step: "manifest".to_owned(),
        created_by: format!("COPY {} {folder}/", MANIFEST.join(" ")),
    })
}

/// The project's files in `folder` (absolute), and the project itself installed as Poetry's editable
/// install does it.
///
/// # Errors
/// A path of the project that an image cannot hold.
pub fn layer(graph: &mut Graph, lock: &Lock, project: &Project, folder: &str) -> Result<Layer, RecipeError> {
    let mut entries: Vec<FileEntry<NodeId>> =
        project.files.iter().map(|file| entry(file, folder)).collect::<Result<_, _>>()?;
    let scheme = Scheme::of(lock, "poetry")?;
    if let Some(root) = &lock.python.root {
        entries.extend(python::editable(root, &scheme, folder)?);
    }
    Ok(Layer {
        tree: graph.add("application", Builder::Files(Files { entries })),
        step: "application".to_owned(),
        created_by: format!("COPY . {folder}; poetry install --only-root"),
    })
}

/// A file of the project, in the image.
fn entry(file: &ProjectFile, folder: &str) -> Result<FileEntry<NodeId>, InvalidPath> {
    let path = TreePath::new(folder.trim_start_matches('/'))?.join(file.path.as_bytes())?;
    let (mode, source) = match &file.kind {
        ProjectFileKind::Directory => (0o755, FileSource::Directory),
        ProjectFileKind::Symlink(target) => (0o777, FileSource::Symlink(RawBytes(target.0.clone()))),
        ProjectFileKind::File { sha256, size, executable } => (
            if *executable { 0o755 } else { 0o644 },
            FileSource::Project { path: file.path.clone(), sha256: *sha256, size: *size },
        ),
    };
    Ok(FileEntry { path, mode, source })
}
