//! What an image's configuration says of its files: who a container runs as, and where.

use std::collections::BTreeSet;

use assemble_layers::{Entry, Kind as EntryKind, TreePath};

use super::View;
use crate::pack::Contents;
use crate::realise::Realisation;
use crate::{Error, Kind, Result};

/// Checks that a container can start. Returns the paths whose contents say so.
///
/// # Errors
/// A user or a group that the image has not; a folder or a volume that is a file.
pub(super) fn check(run: &Realisation<'_>, view: &View<'_>) -> Result<BTreeSet<TreePath>> {
    let config = &view.image.config;
    let folder = std::iter::once(("folder", &config.working_directory));
    let folders = folder.chain(config.volumes.iter().map(|volume| ("volume", volume)));
    for (what, path) in folders.filter(|(_, path)| path.len() > 1) {
        let path = TreePath::new(path.trim_start_matches('/'))?;
        if let Some((layer, entry)) = view.seen(&path)
            && !matches!(entry.kind, EntryKind::Directory | EntryKind::Symlink(_))
        {
            let message = format!("the recipe's `{what}` is `/{path}`, which is no folder");
            return Err(Error::new(Kind::Input, message).detail(format!("{} has it", view.describe(layer))));
        }
    }
    let user = config.user.as_deref().unwrap_or_default();
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let mut read = BTreeSet::new();
    for (what, name, file) in [("user", user, "etc/passwd"), ("group", group, "etc/group")] {
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            let path = TreePath::new(file)?;
            if !has_name(run, view, &path, name)? {
                return Err(Error::new(
                    Kind::Input,
                    format!("the image has no {what} `{name}`, which it starts as"),
                )
                .detail(format!("`/{file}` does not name it"))
                .hint(
                    "a number needs no name: `user(1000)`; a step over the packages can add one: `useradd`",
                ));
            }
            read.insert(path);
        }
    }
    Ok(read)
}

/// Whether a line of `passwd` or `group` begins with the name (passwd(5), group(5)).
fn has_name(run: &Realisation<'_>, view: &View<'_>, path: &TreePath, name: &str) -> Result<bool> {
    let Some((layer, entry)) = view.seen(path) else { return Ok(false) };
    // A link leads to what is not looked up here: the engine finds it, or says so.
    let EntryKind::File(content) = &entry.kind else { return Ok(true) };
    run.tree_with_content(view.image.layers[layer].tree)?;
    let file_of = |blob| run.engine.store.blob_file(blob);
    let text = Contents::new(&file_of).to_vec(path, content)?;
    let begins = |line: &[u8]| line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"));
    Ok(text.split(|byte| *byte == b'\n').any(begins))
}

impl View<'_> {
    /// What an engine shows at a path, and of which layer it is.
    fn seen(&self, path: &TreePath) -> Option<(usize, &Entry)> {
        let of = |layer: usize| Some((layer, self.trees[layer].find(path)?));
        let found = (0..self.trees.len()).rev().find_map(of)?;
        (found.1.kind != EntryKind::Whiteout).then_some(found)
    }
}
