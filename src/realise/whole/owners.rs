//! Who owns each path of the image.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use assemble_layers::derivation::FileSource;
use assemble_layers::tree::OPAQUE;
use assemble_layers::{BlobDigest, Builder, Entry, Kind as EntryKind, NodeId, TreePath};

use super::{Shadowed, Verdict, View};
use crate::pack::Contents;
use crate::realise::Realisation;
use crate::{Error, Kind, Result};

/// Checks that no layer hides what another one brings, unless it is made over it or the recipe says so.
/// Returns the paths whose contents were compared.
///
/// # Errors
/// One that does.
pub(super) fn check(
    run: &Realisation<'_>,
    view: &View<'_>,
    verdict: &mut Verdict,
) -> Result<BTreeSet<TreePath>> {
    let mut check = Check { run, view, present: BTreeSet::new(), compared: BTreeSet::new() };
    let mut shadowed: BTreeMap<(usize, usize), Vec<TreePath>> = BTreeMap::new();
    let mut conflicts: BTreeMap<(usize, usize), Vec<TreePath>> = BTreeMap::new();
    for (path, holders) in check.shared() {
        for Pair { low, high } in check.conflicts(path, &holders)? {
            let owner = view.owner(path);
            check.folder_and_link(path, low, high, owner)?;
            if owner == Some(view.image.layers[high].tree) {
                shadowed.entry((low, high)).or_default().push(path.clone());
            } else if owner == Some(view.image.layers[low].tree) {
                verdict.mended.entry(high).or_default().without.push(path.clone());
                shadowed.entry((high, low)).or_default().push(path.clone());
            } else if !holders.iter().any(|(holder, _)| owner == Some(view.image.layers[*holder].tree)) {
                conflicts.entry((low, high)).or_default().push(path.clone());
            }
        }
    }
    check.whiteouts()?;
    if let Some(((low, high), mut paths)) = conflicts.pop_first() {
        paths.sort();
        return Err(check.two_owners(low, high, &paths));
    }
    for mended in verdict.mended.values_mut() {
        mended.without.sort();
        mended.without.dedup();
    }
    verdict.shadowed = shadowed
        .into_iter()
        .map(|((loser, winner), paths)| Shadowed {
            layer: view.name(loser).to_owned(),
            by: view.name(winner).to_owned(),
            path: paths.iter().min().expect("one at least").clone(),
            count: paths.len(),
        })
        .collect();
    Ok(check.compared)
}

/// Two layers that hold a path, by their places.
struct Pair {
    low: usize,
    high: usize,
}

struct Check<'a> {
    run: &'a Realisation<'a>,
    view: &'a View<'a>,
    /// Layers whose contents were made present.
    present: BTreeSet<usize>,
    /// Paths whose contents have decided something.
    compared: BTreeSet<TreePath>,
}

type Holders<'a> = Vec<(usize, &'a Entry)>;

impl<'a> Check<'a> {
    /// The paths that several layers hold, not all as a folder, in their order.
    fn shared(&self) -> BTreeMap<&'a TreePath, Holders<'a>> {
        let mut holders: HashMap<&TreePath, Holders<'_>> = HashMap::new();
        for (layer, tree) in self.view.trees.iter().enumerate() {
            for entry in tree.entries() {
                holders.entry(&entry.path).or_default().push((layer, entry));
            }
        }
        let is_folder = |(_, entry): &(usize, &Entry)| entry.kind == EntryKind::Directory;
        holders.retain(|_, holders| holders.len() > 1 && !holders.iter().all(is_folder));
        holders.into_iter().collect()
    }

    /// The pairs of layers of which one hides what the other brings.
    fn conflicts(&mut self, path: &TreePath, holders: &Holders<'_>) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for (index, (high, upper)) in holders.iter().enumerate() {
            for (low, lower) in &holders[..index] {
                // What is gone from a lower layer is no matter to a higher one.
                let meant = self.view.over[*high].contains(low) || lower.kind == EntryKind::Whiteout;
                let folders = lower.kind == EntryKind::Directory && upper.kind == EntryKind::Directory;
                if !meant && !folders && !self.is_same(path, (*low, lower), (*high, upper))? {
                    pairs.push(Pair { low: *low, high: *high });
                }
            }
        }
        Ok(pairs)
    }

    /// Whether two layers put the same thing in one place; its time does not count.
    fn is_same(&mut self, path: &TreePath, low: (usize, &Entry), high: (usize, &Entry)) -> Result<bool> {
        if !low.1.is_like(high.1) {
            return Ok(false);
        }
        // Another name of a file is that file.
        let kind = |(layer, entry): (usize, &'_ Entry)| match &entry.kind {
            EntryKind::Hardlink(file) => self.view.trees[layer].find(file).map(|file| file.kind.clone()),
            kind => Some(kind.clone()),
        };
        match (kind(low), kind(high)) {
            (Some(EntryKind::File(one)), Some(EntryKind::File(other))) => {
                self.compared.insert(path.clone());
                if one == other || one.size() != other.size() || one.size() == 0 {
                    return Ok(one.size() == other.size());
                }
                if let (Some(one), Some(other)) = (self.declared(low.0, path), self.declared(high.0, path)) {
                    return Ok(one == other);
                }
                self.make_present(low.0)?;
                self.make_present(high.0)?;
                let file_of = |blob| self.run.engine.store.blob_file(blob);
                let mut contents = Contents::new(&file_of);
                Ok(contents.digest(path, &one)? == contents.digest(path, &other)?)
            }
            (one, other) => Ok(one == other),
        }
    }

    /// What a recipe says of a file, so that it need not be read.
    fn declared(&self, layer: usize, path: &TreePath) -> Option<assemble_layers::Sha256> {
        let Builder::Files(files) = self.view.builder(layer) else { return None };
        match &files.entries.iter().find(|entry| entry.path == *path)?.source {
            FileSource::Project { sha256, .. } => Some(*sha256),
            FileSource::Literal(bytes) => Some(assemble_layers::Sha256::of(&bytes.0)),
            _ => None,
        }
    }

    fn make_present(&mut self, layer: usize) -> Result<()> {
        if self.present.insert(layer) {
            self.run.tree_with_content(self.view.image.layers[layer].tree)?;
        }
        Ok(())
    }

    /// Where a folder stands in the place of a link, what lies where the link leads cannot be reached by it:
    /// no recipe means that. `/bin` is the usual one.
    fn folder_and_link(&self, path: &TreePath, low: usize, high: usize, owner: Option<NodeId>) -> Result<()> {
        let entry = |layer: usize| self.view.trees[layer].find(path).map(|entry| &entry.kind);
        let (link, folder) = match (entry(low), entry(high)) {
            (Some(EntryKind::Symlink(to)), Some(EntryKind::Directory)) => ((low, to), high),
            (Some(EntryKind::Directory), Some(EntryKind::Symlink(to))) => ((high, to), low),
            _ => return Ok(()),
        };
        if owner == Some(self.view.image.layers[link.0].tree) {
            return Ok(());
        }
        let message = format!("`/{path}` is a link in one layer and a folder in another");
        let target = String::from_utf8_lossy(&link.1.0).into_owned();
        let held = self.view.trees[folder].within(path).map(|entry| &entry.path).find(|held| *held != path);
        Err(Error::new(Kind::Input, message)
            .detail(format!("{}: it leads to `{target}`", self.owner(link.0, path)))
            .detail(match held {
                Some(held) => format!("{}: it holds `/{held}`", self.owner(folder, path)),
                None => self.owner(folder, path),
            })
            .hint(
                "name what is in the folder by where the link leads: `/usr/bin/NAME` in place of `/bin/NAME`",
            ))
    }

    /// A whiteout hides what is below it as well.
    fn whiteouts(&self) -> Result<()> {
        let is_held = |entry: &&Entry| !matches!(entry.kind, EntryKind::Directory | EntryKind::Whiteout);
        for (high, tree) in self.view.trees.iter().enumerate() {
            for gone in tree.entries().iter().filter(|entry| entry.kind == EntryKind::Whiteout) {
                let folder = match gone.path.name() {
                    OPAQUE => gone.path.parent(),
                    _ => Some(gone.path.clone()),
                };
                for low in (0..high).filter(|low| !self.view.over[high].contains(low)) {
                    let tree = &self.view.trees[low];
                    let hidden = match &folder {
                        Some(folder) => tree.within(folder).find(is_held),
                        None => tree.entries().iter().find(is_held),
                    };
                    if let Some(hidden) = hidden {
                        return Err(self.two_owners(low, high, std::slice::from_ref(&hidden.path)));
                    }
                }
            }
        }
        Ok(())
    }

    fn two_owners(&self, low: usize, high: usize, paths: &[TreePath]) -> Error {
        let path = &paths[0];
        if self.view.over[low].contains(&high) {
            let message = format!("`/{path}` of {} cannot be seen", self.view.describe(low));
            return Error::new(Kind::Input, message)
                .detail(format!("it is made over {}, and lies below it", self.view.describe(high)))
                .hint("in the recipe's order of layers, put it above what it is made over");
        }
        let message = format!("`/{path}` stands in two layers, and neither is made over the other");
        let more = (paths.len() > 1).then(|| format!("and {} more paths of both", paths.len() - 1));
        let mut error =
            Error::new(Kind::Input, message).detail(self.owner(low, path)).detail(self.owner(high, path));
        if let Some(more) = more {
            error = error.detail(more);
        }
        error.hint(
            "the recipe says whose counts: `ImageRecipe::counts`; a distribution that shares its layer with \
             others is given one of its own by `alone`, and named by `counts_of`",
        )
    }

    /// The layer, and the archive of it that the path comes from, where that is known.
    fn owner(&self, layer: usize, path: &TreePath) -> String {
        let described = self.view.describe(layer);
        match self.archive(layer, path) {
            Some(archive) => format!("{described}, from `{archive}`"),
            None => described,
        }
    }

    fn archive(&self, layer: usize, path: &TreePath) -> Option<String> {
        let graph = &self.view.image.graph;
        if let Builder::UnpackWheels(wheels) = self.view.builder(layer) {
            let entry = self.view.trees[layer].find(path);
            let blob = entry.and_then(|entry| match &entry.kind {
                EntryKind::File(content) => Some(content.blob()),
                _ => None,
            });
            let is_it = |file| match &graph.node(file).builder {
                Builder::Fetch(fetch) => Some(BlobDigest(fetch.sha256)) == blob,
                _ => false,
            };
            let mut found =
                wheels.wheels.iter().filter(|wheel| wheels.wheels.len() == 1 || is_it(wheel.file));
            return found.next().map(|wheel| wheel.filename.clone());
        }
        self.package(layer, path)
    }

    /// The Debian package whose list of files has the path, if the layer is here.
    fn package(&self, layer: usize, path: &TreePath) -> Option<String> {
        const LISTS: &[u8] = b"var/lib/dpkg/info/";
        let file_of = |blob| self.run.engine.store.blob_file(blob);
        let mut contents = Contents::new(&file_of);
        // A package of Debian 12 may name what it has in `/usr/bin` as `/bin`.
        let text = path.to_string();
        let names = [format!("/{text}"), format!("/{}", text.strip_prefix("usr/").unwrap_or(&text))];
        self.view.trees[layer].entries().iter().find_map(|entry| {
            let name = entry.path.as_bytes().strip_prefix(LISTS)?.strip_suffix(b".list")?;
            let EntryKind::File(content) = &entry.kind else { return None };
            if !self.run.engine.store.has_blob_file(content.blob()) {
                return None;
            }
            let list = String::from_utf8(contents.to_vec(&entry.path, content).ok()?).ok()?;
            let has = list.lines().any(|line| names.iter().any(|name| name == line));
            has.then(|| String::from_utf8_lossy(name).into_owned())
        })
    }
}
