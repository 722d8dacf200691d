//! The files of a set of packages, unpacked on all cores at once.
//!
//! dpkg unpacks one package after the other (`src/main/archives.c`), and what it leaves can depend
//! on the order. Here the order is whatever the cores make of it, so nothing may depend on it:
//!
//! - Who owns a path is settled by [`Claims`], by `Replaces` and names alone; whoever loses a path
//!   that it wrote already drops it from its list.
//! - Links are made last, in the order of names. Until then no folder turns into a link or back, so
//!   each path leads to one place all the while.
//! - A folder takes mode and owner from the first package, by name, that ships it; a folder that was
//!   there before stays as it is, as with dpkg.
//! - Conflicts are collected and reported together, sorted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fs_err as fs;
use md5::{Digest, Md5};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

use super::database::{Accounts, Database, Diversions, FileTriggers, Override};
use super::package::{Package, biggest_first};
use super::root::{Root, remove};
use crate::pack::deb::{Entry, EntryKind};
use crate::{Error, Kind, Result};

/// Conffiles wait under this name until they are configured.
pub const NEW: &[u8] = b".dpkg-new";
/// As much as is held of a file's content.
const BUFFER: usize = 1 << 17;

/// What stands in the root already.
pub struct Lower {
    pub database: Database,
    pub diversions: Diversions,
    pub overrides: HashMap<Vec<u8>, Override>,
    pub users: Accounts,
    pub groups: Accounts,
    pub triggers: FileTriggers,
    /// Installed packages by the real paths of their files.
    pub owners: HashMap<Vec<u8>, Vec<usize>>,
    /// Those of them that a package of this set replaces, by the package's index.
    pub upgraded: BTreeMap<usize, usize>,
}

/// An entry that stands in the root now, or stood there before.
pub struct Placed {
    /// As the list has it: `/.` or `/usr/bin/true`.
    pub name: Vec<u8>,
    pub real: Vec<u8>,
    /// Of a file, where it is asked for.
    pub md5: Option<String>,
    /// Its content is another architecture's file, and must be the same.
    shared: bool,
}

/// What unpacking left.
pub struct Unpacked {
    /// Each package's entries, in their order.
    pub entries: Vec<Vec<Placed>>,
    /// Paths that installed packages lost to the set, with their indexes in the database.
    pub lost: BTreeSet<(usize, Vec<u8>)>,
    /// File triggers that were set off.
    pub triggers: BTreeSet<Vec<u8>>,
}

/// Who has which path.
#[derive(Default)]
struct Claims {
    nodes: HashMap<Vec<u8>, Node>,
    lost: BTreeSet<(usize, Vec<u8>)>,
    triggers: BTreeSet<Vec<u8>>,
    conflicts: BTreeSet<String>,
}

enum Node {
    /// A file or link of the package.
    File { package: usize },
    /// A folder. `package` is the first that ships it; `made` says that it was not there.
    Folder { package: usize, attributes: Attributes, made: bool },
}

#[derive(Clone, Copy)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// A folder that nobody ships, made for what is in it.
const IMPLIED: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755 };

enum Claim {
    /// The path is ours.
    Ours,
    /// Another architecture's file of the same package stands there and stays.
    Shared,
    /// Whoever has the path replaces us.
    Theirs,
}

/// A link, to be made last.
struct Link {
    /// Where it stands among the package's entries.
    position: usize,
    entry: Entry,
    place: Place,
}

/// Where an entry goes.
struct Place {
    /// As the list has it.
    name: Vec<u8>,
    /// After diversions, as triggers see it.
    diverted: Vec<u8>,
    real: Vec<u8>,
    conffile: bool,
}

pub struct Unpacker<'a> {
    root: &'a Root,
    packages: &'a [Package],
    lower: &'a Lower,
    /// Without a database before, conffiles are put in their places at once: nothing is configured
    /// yet that could do without them.
    bare: bool,
    claims: Mutex<Claims>,
}

impl<'a> Unpacker<'a> {
    pub fn new(root: &'a Root, packages: &'a [Package], lower: &'a Lower) -> Self {
        Self { root, packages, lower, bare: lower.database.is_empty(), claims: Mutex::default() }
    }

    /// Unpacks all packages.
    ///
    /// # Errors
    /// A package is broken, two packages want one path, or the disk fails.
    pub fn unpack(self, threads: usize) -> Result<Unpacked> {
        let mut parts = self.unpack_files(threads)?;
        self.report_conflicts()?;
        for (package, part) in parts.iter_mut().enumerate() {
            for link in std::mem::take(&mut part.links) {
                let kept = self.make_link(package, &link)?;
                let md5 = part.md5_of_link(&link);
                let placed = &mut part.entries[link.position];
                (placed.md5, placed.shared) = (md5, matches!(kept, Some(Claim::Shared)));
                part.skipped.extend(kept.is_none().then_some(link.position));
            }
        }
        self.report_conflicts()?;
        self.finish(parts)
    }

    fn unpack_files(&self, threads: usize) -> Result<Vec<Part>> {
        let order = biggest_first(self.packages);
        let total: u64 = self.packages.iter().map(|package| package.deb.data_size()).sum();
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut parts = Vec::new();
            while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                // A package with most of the bytes gets most of the cores.
                let share = self.packages[*index].deb.data_size() * threads as u64 / total.max(1);
                parts.push((*index, self.unpack_package(*index, share as u32)));
            }
            parts
        };
        let mut parts: Vec<(usize, Result<Part>)> = thread::scope(|scope| {
            let threads = threads.clamp(1, self.packages.len().max(1));
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no thread panics")).collect()
        });
        parts.sort_by_key(|(index, _)| *index);
        parts.into_iter().map(|(_, part)| part).collect()
    }

    fn unpack_package(&self, index: usize, threads: u32) -> Result<Part> {
        let package = &self.packages[index];
        let mut part = Part::default();
        let conffiles = package.conffiles.iter().filter(|conffile| !conffile.remove_on_upgrade);
        let conffiles: BTreeSet<&[u8]> = conffiles.map(|conffile| conffile.path.as_bytes()).collect();
        let digests = self.needs_digests(index);
        package.deb.entries(threads, |entry, content| {
            let Some(path) = &entry.path else {
                part.entries.push(Placed { name: b"/.".to_vec(), real: Vec::new(), md5: None, shared: false });
                return Ok(());
            };
            let conffile = conffiles.contains(path.as_bytes());
            let place = self.place(index, &[b"/", path.as_bytes()].concat(), conffile)?;
            if self.lower.triggers.is_interesting(&place.diverted) {
                self.claims().triggers.insert(place.diverted.clone());
            }
            let mut placed = Placed { name: place.name.clone(), real: place.real.clone(), md5: None, shared: false };
            match &entry.kind {
                EntryKind::Directory => self.make_folder(index, &entry, &place)?,
                EntryKind::Symlink(_) | EntryKind::Hardlink(_) => {
                    part.links.push(Link { position: part.entries.len(), entry, place });
                }
                EntryKind::File { .. } | EntryKind::Fifo => {
                    let digest = digests || (conffile && self.bare);
                    match self.make_file(index, &entry, &place, content, digest)? {
                        Some((claim, md5)) => {
                            (placed.shared, placed.md5) = (matches!(claim, Claim::Shared), md5);
                        }
                        None => drop(part.skipped.insert(part.entries.len())),
                    }
                }
            }
            part.entries.push(placed);
            Ok(())
        })?;
        Ok(part)
    }

    /// Digests are asked for where the package brings none, and where files are shared.
    fn needs_digests(&self, index: usize) -> bool {
        let package = &self.packages[index];
        let installed = self.lower.database.packages.iter();
        let mut siblings = installed.filter(|one| one.is_present() && is_sibling(package, one));
        package.deb.control_file("md5sums").is_none()
            || siblings.next().is_some()
            || self.packages.iter().any(|other| package.is_sibling(other))
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, Claims> {
        self.claims.lock().expect("no thread panics")
    }

    /// Where the file of a package goes: diverted, and through the links of the root.
    fn place(&self, index: usize, name: &[u8], conffile: bool) -> Result<Place> {
        let package = &self.packages[index];
        if self.lower.diversions.is_target(name) {
            let shown = String::from_utf8_lossy(name);
            return Err(Error::new(Kind::Conflict, format!("`{shown}` of `{}` is taken", package.name))
                .detail("another package's file is diverted to it (`dpkg-divert --list` names it)"));
        }
        let diverted = self.lower.diversions.place(name, &package.name);
        let mut real = self.root.real(&diverted[1..])?;
        if conffile && !self.bare {
            // An administrator may have made the conffile a link; what it leads to is replaced.
            real = self.root.follow(&real)?;
        }
        Ok(Place { name: name.to_vec(), diverted: diverted.to_vec(), real, conffile })
    }

    fn attributes(&self, entry: &Entry, place: &Place) -> Attributes {
        match self.lower.overrides.get(&place.name) {
            Some(Override { uid, gid, mode }) => Attributes { uid: *uid, gid: *gid, mode: *mode },
            None => Attributes {
                uid: self.lower.users.id(&entry.owner.name).unwrap_or(entry.owner.id),
                gid: self.lower.groups.id(&entry.group.name).unwrap_or(entry.group.id),
                mode: entry.mode,
            },
        }
    }

    /// Makes the folder of an entry. A folder, or a link to one, that was there before stays.
    fn make_folder(&self, index: usize, entry: &Entry, place: &Place) -> Result<()> {
        let attributes = self.attributes(entry, place);
        let mut claims = self.claims();
        let on_disk = self.root.on_disk(&place.real);
        if fs::symlink_metadata(&on_disk).is_ok_and(|metadata| metadata.is_symlink())
            && !matches!(claims.nodes.get(&place.real), Some(Node::File { .. }))
        {
            let target = self.root.on_disk(&self.root.follow(&place.real)?);
            if fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_dir()) {
                return Ok(());
            }
        }
        self.ensure_folder(&mut claims, index, &place.real, attributes)
    }

    /// Makes a folder and those above it, unless they are there.
    fn ensure_folder(&self, claims: &mut Claims, index: usize, real: &[u8], attributes: Attributes) -> Result<()> {
        match claims.nodes.get_mut(real) {
            Some(Node::Folder { package, attributes: held, .. }) => {
                if index < *package {
                    (*package, *held) = (index, attributes);
                }
                return Ok(());
            }
            Some(Node::File { package }) => {
                let package = *package;
                claims.conflicts.insert(self.clash(real, index, package));
                return Ok(());
            }
            None => {}
        }
        let on_disk = self.root.on_disk(real);
        let found = fs::symlink_metadata(&on_disk);
        let stays = found.as_ref().is_ok_and(std::fs::Metadata::is_dir);
        if !stays {
            if found.is_ok() {
                if !matches!(self.claim_lower(claims, index, real), Claim::Ours) {
                    return Ok(());
                }
                remove(&on_disk)?;
            }
            self.ensure_parent(claims, real)?;
            fs::create_dir(&on_disk)?;
        }
        claims.nodes.insert(real.to_vec(), Node::Folder { package: index, attributes, made: !stays });
        Ok(())
    }

    fn ensure_parent(&self, claims: &mut Claims, real: &[u8]) -> Result<()> {
        match real.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => self.ensure_folder(claims, usize::MAX, &real[..slash], IMPLIED),
            None => Ok(()),
        }
    }

    /// Settles whose path this is among what is installed. Conflicts are noted, and then it is ours
    /// for the time being.
    fn claim_lower(&self, claims: &mut Claims, index: usize, real: &[u8]) -> Claim {
        // A folder that nobody of this set ships takes no file away from anyone.
        let Some(package) = self.packages.get(index) else { return Claim::Ours };
        let owners = self.lower.owners.get(real).map(Vec::as_slice).unwrap_or_default();
        let mut claim = Claim::Ours;
        for owner in owners.iter().filter(|owner| !self.lower.upgraded.contains_key(owner)) {
            let installed = &self.lower.database.packages[*owner];
            if is_sibling(package, installed) {
                claim = Claim::Shared;
            } else if package.replaces(&installed.name, &installed.version)
                || self.takes_over_conffile(package, installed, real)
            {
                claims.lost.insert((*owner, real.to_vec()));
            } else if installed.replaces(&package.name, &package.version) {
                claim = Claim::Theirs;
            } else {
                let shown = String::from_utf8_lossy(real);
                let (name, version) = (installed.full_name(), &installed.version);
                let conflict = format!("`/{shown}`: `{}`, and `{name} {version}` of the root", package.full_name());
                claims.conflicts.insert(conflict);
            }
        }
        claim
    }

    /// A conffile that its old owner no longer ships goes to whoever ships it now.
    fn takes_over_conffile(&self, package: &Package, installed: &super::database::Installed, real: &[u8]) -> bool {
        package.conffiles.iter().any(|conffile| conffile.path.as_bytes() == real)
            && installed.conffiles().iter().any(|known| known.obsolete && known.path.get(1..) == Some(real))
    }

    /// Settles whose path this is.
    fn claim(&self, claims: &mut Claims, index: usize, real: &[u8]) -> Claim {
        let holder = match claims.nodes.get(real) {
            None => {
                let claim = self.claim_lower(claims, index, real);
                if matches!(claim, Claim::Ours) {
                    claims.nodes.insert(real.to_vec(), Node::File { package: index });
                }
                return claim;
            }
            Some(Node::File { package } | Node::Folder { package, .. }) => *package,
        };
        let is_file = matches!(claims.nodes.get(real), Some(Node::File { .. }));
        let ours = is_file && match (self.packages.get(holder), &self.packages[index]) {
            _ if holder == index => true,
            (Some(other), package) if package.is_sibling(other) => {
                if holder < index {
                    return Claim::Shared;
                }
                true
            }
            (Some(other), package) => {
                let over = package.replaces(&other.name, &other.version);
                if other.replaces(&package.name, &package.version) && (!over || holder > index) {
                    return Claim::Theirs;
                }
                over
            }
            (None, _) => false,
        };
        if !ours {
            claims.conflicts.insert(self.clash(real, index, holder));
            return Claim::Theirs;
        }
        claims.nodes.insert(real.to_vec(), Node::File { package: index });
        Claim::Ours
    }

    /// The same words whoever came first.
    fn clash(&self, real: &[u8], one: usize, other: usize) -> String {
        let shown = String::from_utf8_lossy(real);
        let (one, other) = (one.min(other), one.max(other));
        match (self.packages.get(one), self.packages.get(other)) {
            (Some(one), Some(_)) if std::ptr::eq(one, &self.packages[other]) => {
                format!("`/{shown}`: `{}` ships a folder and a file there", one.full_name())
            }
            (Some(one), Some(other)) => {
                format!("`/{shown}`: `{}` and `{}`", one.full_name(), other.full_name())
            }
            (Some(one), None) => {
                format!("`/{shown}`: `{}` ships a file where another package has a folder", one.full_name())
            }
            (None, _) => format!("`/{shown}`"),
        }
    }

    fn report_conflicts(&self) -> Result<()> {
        let claims = self.claims();
        if claims.conflicts.is_empty() {
            return Ok(());
        }
        let error = Error::new(Kind::Conflict, "packages want the same path, and none says that it replaces the other");
        let error = claims.conflicts.iter().take(20).fold(error, Error::detail);
        Err(error.hint("leave one of them out of the recipe, or lock versions that get along"))
    }

    /// Writes a file or pipe; `None` if another package's stays.
    fn make_file(
        &self,
        index: usize,
        entry: &Entry,
        place: &Place,
        content: &mut dyn Read,
        digest: bool,
    ) -> Result<Option<(Claim, Option<String>)>> {
        let attributes = self.attributes(entry, place);
        let target = self.target(place);
        // Until the file is there nobody else may claim the path.
        let mut claims = self.claims();
        let claim = self.claim(&mut claims, index, &place.real);
        match claim {
            Claim::Theirs => return Ok(None),
            Claim::Shared => {
                drop(claims);
                let mut md5 = Md5::new();
                io::copy(content, &mut md5).map_err(|error| unreadable(&error, &place.name))?;
                return Ok(Some((claim, Some(hex(&md5)))));
            }
            Claim::Ours => {}
        }
        self.make_room(&mut claims, index, &target)?;
        let on_disk = self.root.on_disk(&target);
        let EntryKind::File { size } = entry.kind else {
            mknodat(CWD, &on_disk, FileType::Fifo, Mode::from(attributes.mode), 0).map_err(io::Error::from)?;
            drop(claims);
            lchown(&on_disk, Some(attributes.uid), Some(attributes.gid))?;
            fs::set_permissions(&on_disk, std::fs::Permissions::from_mode(attributes.mode))?;
            set_mtime(&on_disk, entry.mtime)?;
            return Ok(Some((claim, None)));
        };
        let file = fs::File::create_new(&on_disk)?;
        drop(claims);
        let mut content = Content { reader: content, left: size, name: &place.name };
        let md5 = content.write(file, attributes, entry.mtime, digest)?;
        Ok(Some((claim, md5)))
    }

    /// Where a file is written: a conffile waits beside its place.
    fn target(&self, place: &Place) -> Vec<u8> {
        let suffix = if place.conffile && !self.bare { NEW } else { b"" };
        [&place.real[..], suffix].concat()
    }

    /// Removes what stands where a file or link will stand, and makes the folders above.
    fn make_room(&self, claims: &mut Claims, index: usize, target: &[u8]) -> Result<()> {
        self.ensure_parent(claims, target)?;
        let on_disk = self.root.on_disk(target);
        match fs::symlink_metadata(&on_disk) {
            // An old version's folder, which dpkg moves aside and then removes.
            Ok(metadata) if metadata.is_dir() => {
                let old = |owner: &usize| self.lower.upgraded.get(owner) == Some(&index);
                if !self.lower.owners.get(target).is_some_and(|owners| owners.iter().all(old)) {
                    let shown = String::from_utf8_lossy(target);
                    let package = self.packages[index].full_name();
                    claims.conflicts.insert(format!("`/{shown}`: `{package}` ships a file, the root has a folder"));
                    return Ok(());
                }
                Ok(fs::remove_dir_all(&on_disk)?)
            }
            Ok(_) => remove(&on_disk),
            Err(_) => Ok(()),
        }
    }

    /// Makes a link; `None` if another package's stays.
    fn make_link(&self, index: usize, link: &Link) -> Result<Option<Claim>> {
        let Link { entry, place, .. } = link;
        if matches!(entry.kind, EntryKind::Symlink(_)) && self.is_folder_already(entry, place)? {
            return Ok(Some(Claim::Ours));
        }
        let mut claims = self.claims();
        let claim = self.claim(&mut claims, index, &place.real);
        match claim {
            Claim::Theirs => return Ok(None),
            Claim::Shared => return self.check_shared_link(&mut claims, index, link).map(|()| Some(claim)),
            Claim::Ours => {}
        }
        let target = self.target(place);
        self.make_room(&mut claims, index, &target)?;
        let on_disk = self.root.on_disk(&target);
        match &entry.kind {
            EntryKind::Symlink(text) => {
                rustix::fs::symlinkat(&text[..], CWD, &on_disk).map_err(|error| io_error(error, &on_disk))?;
                let Attributes { uid, gid, .. } = self.attributes(entry, place);
                lchown(&on_disk, Some(uid), Some(gid))?;
                set_mtime(&on_disk, entry.mtime)?;
            }
            EntryKind::Hardlink(file) => {
                let first = self.first_link(&claims, index, file.as_bytes())?;
                fs::hard_link(self.root.on_disk(&first), &on_disk)?;
            }
            _ => unreachable!("only links wait"),
        }
        Ok(Some(claim))
    }

    /// A link over a folder that was there before, or over a link to the folder that it names
    /// itself, leaves what is there.
    fn is_folder_already(&self, entry: &Entry, place: &Place) -> Result<bool> {
        let EntryKind::Symlink(text) = &entry.kind else { return Ok(false) };
        match fs::symlink_metadata(self.root.on_disk(&place.real)) {
            Ok(found) if found.is_dir() => {
                Ok(!matches!(self.claims().nodes.get(&place.real), Some(Node::Folder { made: true, .. })))
            }
            Ok(found) if found.is_symlink() => {
                let parent = place.real.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                let new = match text.starts_with(b"/") {
                    true => self.root.follow(text)?,
                    false => self.root.follow(&[&place.real[..parent], text].concat())?,
                };
                let is_folder = |real: &[u8]| {
                    fs::symlink_metadata(self.root.on_disk(real)).is_ok_and(|metadata| metadata.is_dir())
                };
                Ok(self.root.follow(&place.real)? == new && is_folder(&new))
            }
            _ => Ok(false),
        }
    }

    fn check_shared_link(&self, claims: &mut Claims, index: usize, link: &Link) -> Result<()> {
        let EntryKind::Symlink(text) = &link.entry.kind else { return Ok(()) };
        let found = rustix::fs::readlinkat(CWD, self.root.on_disk(&link.place.real), Vec::new());
        if !found.is_ok_and(|found| found.as_bytes() == text) {
            claims.conflicts.insert(self.differs(index, &link.place.real));
        }
        Ok(())
    }

    fn differs(&self, index: usize, real: &[u8]) -> String {
        let package = self.packages[index].full_name();
        format!("`/{}`: it differs between architectures of `{package}`", String::from_utf8_lossy(real))
    }

    /// Where the file is that a hard link names.
    fn first_link(&self, claims: &Claims, index: usize, file: &[u8]) -> Result<Vec<u8>> {
        let package = &self.packages[index];
        let conffile = package.conffiles.iter().any(|conffile| conffile.path.as_bytes() == file);
        let place = self.place(index, &[b"/", file].concat(), conffile)?;
        match claims.nodes.get(&place.real) {
            Some(Node::File { package }) if *package == index => Ok(self.target(&place)),
            _ => {
                let (path, name) = (String::from_utf8_lossy(file), package.full_name());
                Err(Error::new(Kind::Input, format!("`{name}` has a hard link to `/{path}`, which is none of its files")))
            }
        }
    }

    /// Gives folders their owners and modes, compares what is shared, and drops what was lost.
    fn finish(&self, parts: Vec<Part>) -> Result<Unpacked> {
        let mut claims = self.claims();
        for (real, node) in &claims.nodes {
            if let Node::Folder { attributes, made: true, .. } = node {
                let on_disk = self.root.on_disk(real);
                chown(&on_disk, Some(attributes.uid), Some(attributes.gid))?;
                fs::set_permissions(&on_disk, std::fs::Permissions::from_mode(attributes.mode))?;
            }
        }
        let mut entries = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let is_ours = |placed: &Placed| match claims.nodes.get(&placed.real) {
                Some(Node::File { package }) => *package == index || placed.shared,
                _ => true,
            };
            let numbered = part.entries.into_iter().enumerate();
            let kept = numbered.filter(|(position, placed)| !part.skipped.contains(position) && is_ours(placed));
            entries.push(kept.map(|(_, placed)| placed).collect::<Vec<_>>());
        }
        let (lost, triggers) = (std::mem::take(&mut claims.lost), std::mem::take(&mut claims.triggers));
        drop(claims);
        self.check_shared(&entries)?;
        Ok(Unpacked { entries, lost, triggers })
    }

    /// Files that architectures share must be the same in all of them.
    fn check_shared(&self, entries: &[Vec<Placed>]) -> Result<()> {
        for (index, entries) in entries.iter().enumerate() {
            for placed in entries.iter().filter(|placed| placed.shared) {
                let Some(expected) = &placed.md5 else { continue };
                if md5_of(&self.root.on_disk(&placed.real))?.as_ref() != Some(expected) {
                    self.claims().conflicts.insert(self.differs(index, &placed.real));
                }
            }
        }
        self.report_conflicts()
    }
}

fn is_sibling(package: &Package, installed: &super::database::Installed) -> bool {
    package.name == installed.name
        && package.same
        && installed.same
        && package.architecture != installed.architecture
}

/// What a package's thread has done.
#[derive(Default)]
struct Part {
    entries: Vec<Placed>,
    /// Positions of entries that another package has.
    skipped: BTreeSet<usize>,
    links: Vec<Link>,
}

impl Part {
    /// A hard link has the content of the file that it names.
    fn md5_of_link(&self, link: &Link) -> Option<String> {
        let EntryKind::Hardlink(file) = &link.entry.kind else { return None };
        let first = self.entries.iter().find(|placed| placed.name.get(1..) == Some(file.as_bytes()));
        first.and_then(|first| first.md5.clone())
    }
}

/// A file's content on its way from the package to the disk.
struct Content<'a> {
    reader: &'a mut dyn Read,
    left: u64,
    name: &'a [u8],
}

impl Content<'_> {
    /// Writes content, owner, mode and time.
    fn write(&mut self, file: fs::File, attributes: Attributes, mtime: u64, digest: bool) -> Result<Option<String>> {
        let path = file.path().to_owned();
        let mut file = file.into_file();
        let mut md5 = digest.then(Md5::new);
        let mut buffer = vec![0; BUFFER.min(self.left as usize)];
        while self.left > 0 {
            let read = self.read(&mut buffer)?;
            if let Some(md5) = &mut md5 {
                md5.update(&buffer[..read]);
            }
            file.write_all(&buffer[..read]).map_err(|error| io_error(error, &path))?;
        }
        // The owner first: a change of owner clears set-uid and set-gid.
        let Attributes { uid, gid, mode } = attributes;
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).map_err(|error| io_error(error, &path))?;
        file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(|error| io_error(error, &path))?;
        rustix::fs::futimens(&file, &times(mtime)).map_err(|error| io_error(error, &path))?;
        Ok(md5.as_ref().map(hex))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match self.reader.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        };
        let read = read.map_err(|error| unreadable(&error, self.name))?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

/// The package's fault, not the disk's.
fn unreadable(error: &io::Error, name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::new(Kind::Input, format!("the content of `{name}` cannot be read from its package")).detail(error)
}

fn io_error(error: impl Into<io::Error>, path: &Path) -> Error {
    Error::from(error.into()).detail(format!("at `{}`", path.display()))
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: mtime.cast_signed(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the time of what a path names, itself if it is a link.
pub fn set_mtime(path: &Path, mtime: u64) -> Result<()> {
    let set = utimensat(CWD, path, &times(mtime), AtFlags::SYMLINK_NOFOLLOW);
    set.map_err(|error| io_error(error, path))
}

fn hex(md5: &Md5) -> String {
    md5.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The MD5 of a file; `None` if there is none, or no plain file.
pub fn md5_of(path: &Path) -> Result<Option<String>> {
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut md5 = Md5::new();
    io::copy(&mut fs::File::open(path)?, &mut md5)?;
    Ok(Some(hex(&md5)))
}

/// Device and inode: two names of one file are equal in both.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
