//! The sandbox. Placeholder until the branch `sandbox` is merged.
use assemble_layers::{BlobDigest, DiffId, Tree, derivation::Output};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub fn remove(folder: &std::path::Path) -> crate::Result<()> {
    Ok(fs_err::remove_dir_all(folder)?)
}
pub struct Job { pub folder: PathBuf, pub root: Vec<PathBuf>, pub blobs: BTreeMap<BlobDigest, PathBuf>, pub task: Task }
pub enum Task {
    Run { command: Vec<String>, environment: BTreeMap<String, String>, working_directory: String, network: bool, binds: Vec<Bind>, output: Output },
    UnpackDebs { packages: Vec<DebFile> },
}
pub struct Bind;
pub struct DebFile { pub package: String, pub path: PathBuf, pub automatic: bool }
pub struct Outcome { pub tree: Tree, pub diff_id: DiffId, pub tar: PathBuf }
pub fn run(_job: &Job, _on_line: &mut dyn FnMut(&str)) -> crate::Result<Outcome> { unimplemented!() }
