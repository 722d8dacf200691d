//! Step 6, the application: the project's files, and the project itself installed as Poetry's
//! editable install does it.

use assemble_layers::derivation::{FileEntry, FileSource, Files};
use assemble_layers::image::Layer;
use assemble_layers::lock::Lock;
use assemble_layers::project::{Project, ProjectFile, ProjectFileKind};
use assemble_layers::recipe::RecipeError;
use assemble_layers::tree::{InvalidPath, RawBytes};
use assemble_layers::{Builder, Graph, TreePath, python as installed};

use super::python;

/// Where the application lives in the image.
pub const FOLDER: &str = "/spectralmc";

/// # Errors
/// A path of the project that an image cannot hold.
pub fn layer(graph: &mut Graph, lock: &Lock, project: &Project) -> Result<Layer, RecipeError> {
    let mut entries: Vec<FileEntry> = project.files.iter().map(entry).collect::<Result<_, _>>()?;
    let scheme = python::scheme(lock, "poetry")?;
    if let Some(root) = &lock.python.root {
        entries.extend(installed::editable(root, &scheme, FOLDER)?);
    }
    Ok(Layer {
        tree: graph.add("application", Builder::Files(Files { entries })),
        step: "application".to_owned(),
        created_by: format!("COPY . {FOLDER}; poetry install --only-root"),
    })
}

/// A file of the project, in the image.
///
/// # Errors
/// As [`layer`].
pub fn entry(file: &ProjectFile) -> Result<FileEntry, InvalidPath> {
    let folder = TreePath::new(FOLDER.trim_start_matches('/'))?;
    let path = folder.join(file.path.as_bytes())?;
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
