//! What the image says of each folder.

use std::collections::HashMap;

use assemble_layers::amend::Folder;
use assemble_layers::derivation::Output;
use assemble_layers::tree::OPAQUE;
use assemble_layers::{Builder, Entry, Kind as EntryKind, TreePath};

use super::{Verdict, View};
use crate::{Error, Kind, Result};

/// What is known of a folder so far.
struct Known<'a> {
    entry: &'a Entry,
    layer: usize,
    /// Whether somebody made it so, or it only had to be there.
    made: bool,
}

/// Mends layers that say of a folder what the image does not have.
///
/// # Errors
/// Two steps, neither made over the other, made a folder different.
pub(super) fn check(view: &View<'_>, verdict: &mut Verdict) -> Result<()> {
    let mut known: HashMap<&TreePath, Known<'_>> = HashMap::new();
    for (layer, tree) in view.trees.iter().enumerate() {
        for entry in tree.entries().iter().filter(|entry| entry.kind == EntryKind::Whiteout) {
            forget(&mut known, &entry.path);
        }
        for entry in tree.entries() {
            match entry.kind {
                EntryKind::Directory => {
                    let truth = meet(view, layer, entry, &mut known)?;
                    if let Some(truth) = truth {
                        let folder = Folder { path: entry.path.clone(), ..Folder::of(truth) };
                        verdict.mended.entry(layer).or_default().folders.push(folder);
                    }
                }
                EntryKind::Whiteout => {}
                _ => drop(known.remove(&entry.path)),
            }
        }
    }
    Ok(())
}

fn forget(known: &mut HashMap<&TreePath, Known<'_>>, gone: &TreePath) {
    let opaque = gone.name() == OPAQUE;
    match (opaque, gone.parent()) {
        (true, None) => known.clear(),
        (true, Some(folder)) => known.retain(|path, _| **path == folder || !path.is_within(&folder)),
        (false, _) => known.retain(|path, _| !path.is_within(gone)),
    }
}

/// Compares a layer's word with what lower ones say; what it is to say instead, if it is not that.
fn meet<'a>(
    view: &View<'_>,
    layer: usize,
    entry: &'a Entry,
    known: &mut HashMap<&'a TreePath, Known<'a>>,
) -> Result<Option<&'a Entry>> {
    let mine = Known { entry, layer, made: is_made(view, layer, entry) };
    let Some(truth) = known.get(&entry.path) else {
        known.insert(&entry.path, mine);
        return Ok(None);
    };
    let is_over = |one: usize, other: usize| view.over[one].contains(&other);
    if truth.entry.is_like(entry) {
        // What was made so counts over what happens to be alike.
        if mine.made && !truth.made {
            known.insert(&entry.path, mine);
        }
        return Ok(None);
    }
    if !mine.made || is_over(truth.layer, layer) || (truth.made && is_inherited(view, layer, entry)) {
        return Ok(Some(truth.entry));
    }
    if truth.made && !is_over(layer, truth.layer) {
        match view.owner(&entry.path) {
            Some(owner) if owner == view.image.layers[truth.layer].tree => return Ok(Some(truth.entry)),
            Some(owner) if owner == view.image.layers[layer].tree => {}
            _ => return Err(two_words(view, &mine, truth)),
        }
    }
    known.insert(&entry.path, mine);
    Ok(None)
}

/// Whether a folder is what a package, a step or a recipe made of it. What only holds files says root's
/// 0755, and means nothing by it.
fn is_made(view: &View<'_>, layer: usize, entry: &Entry) -> bool {
    let is_difference = match view.builder(layer) {
        Builder::ImageLayer(_) | Builder::UnpackDebs(_) => true,
        Builder::Run(run) => run.output == Output::Difference,
        _ => false,
    };
    is_difference || !entry.is_like(&Entry::directory(entry.path.clone()))
}

/// Whether a step only found the folder so, in what it is made over.
fn is_inherited(view: &View<'_>, layer: usize, entry: &Entry) -> bool {
    let found = view.below[layer].iter().rev().find_map(|tree| tree.find(&entry.path));
    found.is_some_and(|found| found.kind == EntryKind::Directory && found.is_like(entry))
}

fn two_words(view: &View<'_>, mine: &Known<'_>, truth: &Known<'_>) -> Error {
    let say = |it: &Known<'_>| {
        let Entry { mode, uid, gid, .. } = it.entry;
        format!("{}: mode {mode:04o}, owner {uid}:{gid}", view.describe(it.layer))
    };
    let message = format!("two layers disagree about the folder `/{}`", mine.entry.path);
    Error::new(Kind::Input, message).detail(say(truth)).detail(say(mine)).hint(
        "run one of the steps over the other; or the recipe says whose word counts: `ImageRecipe::counts`",
    )
}
