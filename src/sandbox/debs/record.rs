//! Writes what was unpacked into dpkg's database, as dpkg does at the end of unpacking a package
//! (`process_archive` in `src/main/unpack.c`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;

use fs_err as fs;

use super::claims::Lower;
use super::content::set_mtime;
use super::database::{Installed, InstalledConffile, STATUS, info};
use super::files::{Placed, Unpacked};
use super::obsolete::{Left, names, remove_old};
use super::package::{Package, parse_triggers};
use super::root::{Root, remove};
use super::stanza::Stanza;
use super::triggers::{self, InterestChange};
use crate::Result;

/// A set that was unpacked, and what it was unpacked over.
pub struct Record {
    pub lower: Lower,
    pub unpacked: Unpacked,
    /// What each package's old version left.
    pub left: Vec<Left>,
}

impl Record {
    /// Removes the files of old versions.
    pub fn remove_old(mut self, root: &Root, packages: &[Package]) -> Result<Self> {
        let names = names(&self.lower, &self.unpacked.entries);
        for (old, index) in &self.lower.upgraded {
            let old = &self.lower.database.packages[*old];
            let entries = &self.unpacked.entries[*index];
            self.left[*index] = remove_old(root, &self.lower, &names, old, &packages[*index], entries)?;
        }
        Ok(self)
    }

    /// Writes lists, control files, triggers and status.
    pub fn write(mut self, root: &Root, packages: &[Package]) -> Result<()> {
        let known = self.known_conffiles();
        let bare = self.lower.database.is_empty();
        let mut stanzas = Vec::new();
        let mut interests = Vec::new();
        for (index, package) in packages.iter().enumerate() {
            let upgraded = self.lower.upgraded.iter().find(|(_, new)| **new == index);
            let old = upgraded.map(|(old, _)| &self.lower.database.packages[*old]);
            let (entries, left) = (&self.unpacked.entries[index], &self.left[index]);
            let conffiles = conffiles(package, entries, (old, left), &known, bare);
            stanzas.push(stanza(package, &conffiles, old));
            interests.push(interest_change(root, package, old)?);
            write_list(root, package, entries, left)?;
            write_control(root, package, entries, old)?;
        }
        self.drop_lost(root)?;
        triggers::write_interests(root, &interests)?;
        triggers::write_activations(root, &self.activations(packages))?;
        self.write_status(root, stanzas)
    }

    /// The hashes of all conffiles that packages own; those of packages that another takes over
    /// from count for that.
    fn known_conffiles(&self) -> HashMap<Vec<u8>, String> {
        let owned = self.lower.database.packages.iter().filter(|package| package.is_present());
        let conffiles = owned.flat_map(|package| {
            let files: HashSet<&[u8]> = package.files.iter().map(Vec::as_slice).collect();
            let conffiles =
                package.conffiles().into_iter().filter(move |conffile| files.contains(&conffile.path[..]));
            conffiles.map(|conffile| (conffile.path, conffile.hash))
        });
        conffiles.collect()
    }

    /// Drops what other packages lost to this set from their lists.
    fn drop_lost(&mut self, root: &Root) -> Result<()> {
        let mut lost: BTreeMap<usize, BTreeSet<&[u8]>> = BTreeMap::new();
        for (package, real) in &self.unpacked.lost {
            lost.entry(*package).or_default().insert(real);
        }
        for (index, lost) in lost {
            let package = &mut self.lower.database.packages[index];
            let mut kept = Vec::new();
            for name in &package.files {
                let real = root.real(&self.lower.diversions.place(name, &package.name)[1..])?;
                if !lost.contains(&real[..]) {
                    kept.extend_from_slice(&[name, &b"\n"[..]].concat());
                }
            }
            root.write(&package.info("list"), &kept)?;
            let is_lost = |path: &[u8]| lost.contains(&path[1..]);
            let mut conffiles = package.conffiles();
            if conffiles.iter().any(|conffile| is_lost(&conffile.path)) {
                for conffile in &mut conffiles {
                    conffile.obsolete |= is_lost(&conffile.path);
                }
                package.stanza.set("Conffiles", conffiles_field(&conffiles));
            }
        }
        Ok(())
    }

    /// All triggers that the set sets off, by its files and by its `activate` lines.
    fn activations(&self, packages: &[Package]) -> BTreeSet<Vec<u8>> {
        if self.lower.database.is_empty() {
            return BTreeSet::new();
        }
        let explicit =
            packages.iter().flat_map(|package| &package.triggers).filter(|trigger| !trigger.interest);
        let explicit = explicit.map(|trigger| trigger.name.as_bytes().to_vec());
        let removed = self.left.iter().flat_map(|left| left.triggers.iter().cloned());
        self.unpacked.triggers.iter().cloned().chain(explicit).chain(removed).collect()
    }

    /// dpkg keeps the order of names.
    fn write_status(self, root: &Root, new: Vec<Stanza>) -> Result<()> {
        let upgraded = &self.lower.upgraded;
        let kept = self.lower.database.packages.into_iter().enumerate();
        let kept = kept.filter(|(index, _)| !upgraded.contains_key(index)).map(|(_, package)| package.stanza);
        let mut stanzas: Vec<Stanza> = kept.chain(new).collect();
        stanzas.sort_by_key(|stanza| (stanza.text("Package"), stanza.text("Architecture")));
        root.write(STATUS, &stanzas.iter().flat_map(Stanza::to_bytes).collect::<Vec<_>>())
    }
}

/// The stanza of an unpacked package.
fn stanza(package: &Package, conffiles: &[InstalledConffile], old: Option<&Installed>) -> Stanza {
    let mut stanza = package.control.clone();
    if !conffiles.is_empty() {
        stanza.set("Conffiles", conffiles_field(conffiles));
    }
    if let Some(old) = old {
        let configured = match old.stanza.text("Config-Version") {
            version if version.is_empty() && old.state != "unpacked" && old.state != "half-installed" => {
                old.version.clone()
            }
            version => version,
        };
        if !configured.is_empty() {
            stanza.set("Config-Version", configured);
        }
    }
    stanza.set("Status", "install ok unpacked");
    stanza
}

/// With the hash of what was put in place at once, or of what dpkg finds there and may replace, or
/// dpkg's word for what is new.
fn conffiles(
    package: &Package,
    entries: &[Placed],
    (old, left): (Option<&Installed>, &Left),
    known: &HashMap<Vec<u8>, String>,
    bare: bool,
) -> Vec<InstalledConffile> {
    let own = old.map(Installed::conffiles).unwrap_or_default();
    let new = package.conffiles.iter().filter(|conffile| !conffile.remove_on_upgrade).map(|conffile| {
        let path = [b"/", conffile.path.as_bytes()].concat();
        let placed = entries.iter().find(|placed| placed.name == path);
        let in_place = || placed.filter(|_| bare).and_then(|placed| placed.md5.clone());
        let before = own.iter().find(|own| own.path == path).map(|own| own.hash.clone());
        let hash = before
            .or_else(|| known.get(&path).cloned())
            .or_else(in_place)
            .unwrap_or_else(|| "newconffile".to_owned());
        InstalledConffile { path, hash, obsolete: placed.is_none() }
    });
    new.chain(left.conffiles.iter().cloned()).collect()
}

fn conffiles_field(conffiles: &[InstalledConffile]) -> Vec<u8> {
    let mut field = Vec::new();
    for conffile in conffiles {
        let flag = if conffile.obsolete { " obsolete" } else { "" };
        field.extend_from_slice(&[b"\n ", &conffile.path[..], b" ", conffile.hash.as_bytes()].concat());
        field.extend_from_slice(flag.as_bytes());
    }
    field
}

fn interest_change(root: &Root, package: &Package, old: Option<&Installed>) -> Result<InterestChange> {
    let new = package.triggers.iter().filter(|trigger| trigger.interest);
    let mut change = InterestChange {
        package: package.full_name(),
        old: BTreeSet::new(),
        new: new.map(|trigger| (trigger.name.clone(), trigger.wait)).collect(),
    };
    if let Some(old) = old {
        let path = old.info("triggers");
        let triggers = parse_triggers(&root.read(&path)?.unwrap_or_default(), &path)?;
        let interests = triggers.into_iter().filter(|trigger| trigger.interest);
        change.old = interests.map(|trigger| trigger.name).collect();
    }
    Ok(change)
}

/// The list in the order of the package, and after it what stays of the old version.
fn write_list(root: &Root, package: &Package, entries: &[Placed], left: &Left) -> Result<()> {
    let names = entries.iter().map(|placed| &placed.name).chain(left.conffiles.iter().map(|left| &left.path));
    let list: Vec<u8> = names.flat_map(|name| [name, &b"\n"[..]].concat()).collect();
    root.write(&info(&package.full_name(), "list"), &list)
}

/// The control files, in the place of the old version's.
fn write_control(root: &Root, package: &Package, entries: &[Placed], old: Option<&Installed>) -> Result<()> {
    if let Some(old) = old {
        remove_info(root, &old.full_name(), &package.full_name())?;
    }
    let kept = package.deb.control().iter().filter(|file| !matches!(file.name.as_str(), "control" | "list"));
    for file in kept {
        let path = info(&package.full_name(), &file.name);
        root.write(&path, &file.content)?;
        let on_disk = root.file(&path)?;
        fs::set_permissions(&on_disk, std::fs::Permissions::from_mode(file.mode))?;
        set_mtime(&on_disk, file.mtime)?;
    }
    if package.deb.control_file("md5sums").is_none() {
        let digests = entries.iter().filter_map(|placed| placed.md5.as_ref().map(|md5| (md5, &placed.name)));
        let lines = digests.flat_map(|(md5, name)| [md5.as_bytes(), b"  ", &name[1..], b"\n"].concat());
        root.write(&info(&package.full_name(), "md5sums"), &lines.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Removes the old version's control files, and its list if that has another name.
fn remove_info(root: &Root, old: &str, new: &str) -> Result<()> {
    let prefix = format!("{old}.");
    for entry in fs::read_dir(root.file("var/lib/dpkg/info")?)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        // `a.b.list` is of the package `a.b`; no kind has a dot.
        if kind.is_some_and(|kind| !kind.contains('.') && (kind != "list" || old != new)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
