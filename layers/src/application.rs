//! The project's own files, as layers: its manifest, and the application.

use crate::derivation::{FileEntry, FileSource, Files};
use crate::error::RecipeError;
use crate::image::Layer;
use crate::lock::{Lock, RootPackage};
use crate::project::{Project, ProjectFile, ProjectFileKind};
use crate::python::{self, Scheme};
use crate::tree::{InvalidPath, RawBytes};
use crate::{Builder, Graph, NodeId, TreePath};

/// What `poetry install` would read, of which a project may lack the second. Never `poetry.lock`.
pub const MANIFEST: [&str; 2] = ["pyproject.toml", "poetry.toml"];

/// The manifest alone, in the application's folder, so that it can lie below what changes often.
/// It is no input of unpacking a wheel.
///
/// # Errors
/// The project lacks `pyproject.toml`.
pub fn manifest(graph: &mut Graph, project: &Project, folder: &str) -> Result<Layer, RecipeError> {
    let found: Vec<_> = MANIFEST.iter().filter_map(|name| project.find(name)).collect();
    let names: Vec<_> = found.iter().map(|file| file.path.to_string()).collect();
    if !names.iter().any(|name| name == MANIFEST[0]) {
        return Err(RecipeError(format!("the project has no `{}`", MANIFEST[0])));
    }
    let entries = found.into_iter().map(|file| entry(file, folder)).collect::<Result<_, _>>()?;
    Ok(Layer {
        tree: graph.add("manifest", Builder::Files(Files { entries })),
        step: "manifest".to_owned(),
        created_by: format!("COPY {} {folder}/", names.join(" ")),
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
        check_scripts(root, project)?;
        entries.extend(python::editable(root, &scheme, folder)?);
    }
    Ok(Layer {
        tree: graph.add("application", Builder::Files(Files { entries })),
        step: "application".to_owned(),
        created_by: match lock.python.root {
            Some(_) => format!("COPY . {folder}; poetry install --only-root"),
            None => format!("COPY . {folder}"),
        },
    })
}

/// A script that starts the module of the project's own name needs that: one that is not there was forgotten,
/// or is ignored. Modules by other names may be dependencies'.
fn check_scripts(root: &RootPackage, project: &Project) -> Result<(), RecipeError> {
    let entry_points = root.files.get("entry_points.txt").map_or("", String::as_str);
    let folders = root.paths.clone().unwrap_or_else(|| vec![".".to_owned(), "src".to_owned()]);
    for (script, module, _) in python::console_scripts(entry_points).unwrap_or_default() {
        let name = module.split('.').next().unwrap_or_default();
        if name != root.name.replace(['-', '.'], "_") {
            continue;
        }
        let is_there = folders.iter().any(|folder| {
            let below = format!("{folder}/{name}");
            let below = below.trim_start_matches("./");
            project.find(below).is_some()
                || project.find(&format!("{below}.py")).is_some()
                || project.has_below(below)
        });
        if !is_there {
            return Err(RecipeError(format!(
                "the script `{script}` of `pyproject.toml` starts the module `{module}`, and the project has no `{name}`: \
                 is it missing, or in `.dockerignore`?"
            )));
        }
    }
    Ok(())
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
