//! What an upgrade leaves of the old version: nothing but conffiles (`pkg_remove_old_files` in
//! dpkg's `src/main/unpack.c`).

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;

use fs_err as fs;

use super::claims::Lower;
use super::content::{identity, md5_of};
use super::database::{Installed, InstalledConffile};
use super::files::Placed;
use super::package::{Conffile, Package};
use super::root::{Root, remove};
use crate::Result;

/// The names of all files that packages ship: those of the root that stay, and the set.
pub fn names<'a>(lower: &'a Lower, entries: &'a [Vec<Placed>]) -> HashSet<&'a [u8]> {
    let installed = lower.database.packages.iter().enumerate();
    let kept = installed.filter(|(index, _)| !lower.upgraded.contains_key(index));
    let kept = kept.flat_map(|(_, package)| package.files.iter().map(Vec::as_slice));
    kept.chain(entries.iter().flatten().map(|placed| &placed.name[..])).collect()
}

/// What became of a package's old version.
#[derive(Default)]
pub struct Left {
    /// Conffiles that the new version no longer ships, but that stay.
    pub conffiles: Vec<InstalledConffile>,
    pub triggers: BTreeSet<Vec<u8>>,
}

/// Removes the old version's files that no package ships any more.
pub fn remove_old(
    root: &Root,
    lower: &Lower,
    names: &HashSet<&[u8]>,
    old: &Installed,
    package: &Package,
    entries: &[Placed],
) -> Result<Left> {
    let mut left = Left::default();
    remove_conffiles_on_upgrade(root, lower, old, package)?;
    let files: HashSet<_> =
        entries.iter().filter_map(|placed| identity(&root.on_disk(&placed.real))).collect();
    let old_conffiles = old.conffiles();
    // From the end, so that folders come after what is in them.
    for name in old.files.iter().rev().filter(|name| name.len() > 1 && *name != b"/.") {
        let ours = |conffile: &Conffile| conffile.path.as_bytes() == &name[1..];
        if names.contains(&name[..]) || package.conffiles.iter().any(ours) {
            continue;
        }
        let diverted = lower.diversions.place(name, &old.name);
        let real = root.real(&diverted[1..])?;
        let on_disk = root.on_disk(&real);
        let Ok(metadata) = fs::symlink_metadata(&on_disk) else { continue };
        // A file that is in the new version by another name, through a link, is not old.
        let renamed = !metadata.is_dir() && identity(&on_disk).is_some_and(|file| files.contains(&file));
        if let Some(conffile) = old_conffiles.iter().find(|conffile| conffile.path == *name) {
            if !metadata.is_dir() && !renamed {
                left.conffiles.push(InstalledConffile { obsolete: true, ..conffile.clone() });
            }
            continue;
        }
        if renamed {
            continue;
        }
        left.triggers.extend(lower.triggers.interested_in(diverted));
        if metadata.is_dir() {
            remove_empty(&on_disk)?;
        } else {
            remove(&on_disk)?;
        }
    }
    Ok(left)
}

/// A folder in which others have something stays.
fn remove_empty(folder: &std::path::Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(error.into()),
        _ => Ok(()),
    }
}

/// Conffiles that the new version wants gone: removed if nobody changed them, else set aside.
fn remove_conffiles_on_upgrade(root: &Root, lower: &Lower, old: &Installed, package: &Package) -> Result<()> {
    for conffile in package.conffiles.iter().filter(|conffile| conffile.remove_on_upgrade) {
        let name = [b"/", conffile.path.as_bytes()].concat();
        let Some(known) = old.conffiles().into_iter().find(|known| known.path == name) else { continue };
        let real = root.follow(&lower.diversions.place(&name, &package.name)[1..])?;
        let on_disk = root.on_disk(&real);
        match md5_of(&on_disk)? {
            None => {}
            Some(md5) if md5 == known.hash => remove(&on_disk)?,
            Some(_) => fs::rename(&on_disk, root.on_disk(&[&real[..], b".dpkg-old"].concat()))?,
        }
    }
    Ok(())
}
