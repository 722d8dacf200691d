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

use std::collections::BTreeSet;
use std::fs::{Metadata, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use fs_err as fs;
use rustix::fs::{CWD, FileType, Mode, mknodat, readlinkat, symlinkat};

use super::claims::{Claim, Claims, Lower, NOBODY, Node};
use super::content::{Attributes, Content, io_error, md5_of, set_mtime};
use super::package::{Package, biggest_first};
use super::root::{Root, remove};
use crate::pack::deb::{Entry, EntryKind};
use crate::{Error, Kind, Result};

/// Conffiles wait under this name until they are configured.
const NEW: &[u8] = b".dpkg-new";
/// A folder that nobody ships, made for what is in it.
const IMPLIED: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755 };

/// An entry that stands in the root now, or stood there before.
pub struct Placed {
    /// As the list has it: `/.` or `/usr/bin/true`.
    pub name: Vec<u8>,
    pub real: Vec<u8>,
    /// Of a file, where it is asked for.
    pub md5: Option<String>,
    claim: Claim,
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

/// What a thread made of a package.
#[derive(Default)]
struct Part {
    entries: Vec<Placed>,
    links: Vec<Link>,
    triggers: BTreeSet<Vec<u8>>,
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
    claims: Mutex<Claims<'a>>,
}

impl<'a> Unpacker<'a> {
    pub fn new(root: &'a Root, packages: &'a [Package], lower: &'a Lower) -> Self {
        let claims = Mutex::new(Claims::new(packages, lower));
        Self { root, packages, lower, bare: lower.database.is_empty(), claims }
    }

    /// Unpacks all packages.
    ///
    /// # Errors
    /// A package is broken, two packages want one path, or the disk fails.
    pub fn unpack(self, threads: usize) -> Result<Unpacked> {
        let mut parts = self.unpack_files(threads)?;
        self.claims().report()?;
        for (index, part) in parts.iter_mut().enumerate() {
            for link in std::mem::take(&mut part.links) {
                let claim = self.make_link(index, &link)?;
                let md5 = part.md5_of_link(&link);
                let placed = &mut part.entries[link.position];
                (placed.claim, placed.md5) = (claim, md5);
            }
        }
        self.claims().report()?;
        self.set_folders()?;
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
            let count = threads.clamp(1, self.packages.len().max(1));
            let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("no thread panics")).collect()
        });
        parts.sort_by_key(|(index, _)| *index);
        parts.into_iter().map(|(_, part)| part).collect()
    }

    fn unpack_package(&self, index: usize, threads: u32) -> Result<Part> {
        let package = &self.packages[index];
        let conffiles = package.conffiles.iter().filter(|conffile| !conffile.remove_on_upgrade);
        let conffiles: BTreeSet<&[u8]> = conffiles.map(|conffile| conffile.path.as_bytes()).collect();
        let digests = self.needs_digests(package);
        let mut part = Part::default();
        package.deb.entries(threads, |entry, content| {
            let Some(path) = &entry.path else {
                part.entries.push(Placed {
                    name: b"/.".to_vec(),
                    real: Vec::new(),
                    md5: None,
                    claim: Claim::Ours,
                });
                return Ok(());
            };
            let conffile = conffiles.contains(path.as_bytes());
            let place = self.place(package, path.as_bytes(), conffile)?;
            if self.lower.triggers.is_interesting(&place.diverted) {
                part.triggers.insert(place.diverted.clone());
            }
            let (mut claim, mut md5) = (Claim::Ours, None);
            let (name, real) = (place.name.clone(), place.real.clone());
            match &entry.kind {
                EntryKind::Directory => self.make_folder(index, &entry, &place)?,
                EntryKind::Symlink(_) | EntryKind::Hardlink(_) => {
                    part.links.push(Link { position: part.entries.len(), entry, place });
                }
                EntryKind::File { .. } | EntryKind::Fifo => {
                    let digest = digests || (conffile && self.bare);
                    (claim, md5) = self.make_file(index, &entry, &place, content, digest)?;
                }
            }
            part.entries.push(Placed { name, real, md5, claim });
            Ok(())
        })?;
        Ok(part)
    }

    /// Digests are asked for where the package brings none, and where files are shared.
    fn needs_digests(&self, package: &Package) -> bool {
        package.deb.control_file("md5sums").is_none()
            || self.packages.iter().any(|other| package.is_sibling(other))
            || self.lower.database.packages.iter().any(|installed| package.is_sibling_of(installed))
    }

    fn claims(&self) -> MutexGuard<'_, Claims<'a>> {
        self.claims.lock().expect("no thread panics")
    }

    /// Where the file of a package goes: diverted, and through the links of the root.
    fn place(&self, package: &Package, path: &[u8], conffile: bool) -> Result<Place> {
        let name = [b"/", path].concat();
        if self.lower.diversions.is_target(&name) {
            let shown = String::from_utf8_lossy(&name);
            return Err(Error::new(Kind::Conflict, format!("`{shown}` of `{}` is taken", package.name))
                .detail("another package's file is diverted to it (`dpkg-divert --list` names it)"));
        }
        let diverted = self.lower.diversions.place(&name, &package.name).to_vec();
        let mut real = self.root.real(&diverted[1..])?;
        if conffile && !self.bare {
            // An administrator may have made the conffile a link; what it leads to is replaced.
            real = self.root.follow(&real)?;
        }
        Ok(Place { name, diverted, real, conffile })
    }

    /// Where a file is written: a conffile waits beside its place.
    fn target(&self, place: &Place) -> Vec<u8> {
        let suffix = if place.conffile && !self.bare { NEW } else { b"" };
        [&place.real[..], suffix].concat()
    }

    fn attributes(&self, entry: &Entry, place: &Place) -> Attributes {
        self.lower.overrides.get(&place.name).copied().unwrap_or_else(|| Attributes {
            uid: self.lower.users.id(&entry.owner.name).unwrap_or(entry.owner.id),
            gid: self.lower.groups.id(&entry.group.name).unwrap_or(entry.group.id),
            mode: entry.mode,
        })
    }

    fn metadata(&self, real: &[u8]) -> Option<Metadata> {
        fs::symlink_metadata(self.root.on_disk(real)).ok()
    }

    fn is_folder(&self, real: &[u8]) -> bool {
        self.metadata(real).is_some_and(|metadata| metadata.is_dir())
    }

    /// Makes the folder of an entry. A folder, or a link to one, that was there before stays.
    fn make_folder(&self, index: usize, entry: &Entry, place: &Place) -> Result<()> {
        let mut claims = self.claims();
        let is_link = self.metadata(&place.real).is_some_and(|metadata| metadata.is_symlink());
        if is_link && self.is_folder(&self.root.follow(&place.real)?) {
            return Ok(());
        }
        self.ensure_folder(&mut claims, index, &place.real, self.attributes(entry, place))
    }

    /// Makes a folder and those above it, unless they are there.
    fn ensure_folder(
        &self,
        claims: &mut Claims<'_>,
        index: usize,
        real: &[u8],
        own: Attributes,
    ) -> Result<()> {
        match claims.nodes.get_mut(real) {
            Some(Node::Folder { package, attributes, .. }) => {
                if index < *package {
                    (*package, *attributes) = (index, own);
                }
                return Ok(());
            }
            Some(Node::File { package }) => {
                let package = *package;
                claims.clash(real, index, package);
                return Ok(());
            }
            None => {}
        }
        let found = self.metadata(real);
        let made = !found.as_ref().is_some_and(Metadata::is_dir);
        if made {
            if found.is_some() {
                if claims.claim_from_root(index, real) != Claim::Ours {
                    return Ok(());
                }
                remove(&self.root.on_disk(real))?;
            }
            self.ensure_parent(claims, real)?;
            fs::create_dir(self.root.on_disk(real))?;
        }
        claims.nodes.insert(real.to_vec(), Node::Folder { package: index, attributes: own, made });
        Ok(())
    }

    fn ensure_parent(&self, claims: &mut Claims<'_>, real: &[u8]) -> Result<()> {
        match real.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => self.ensure_folder(claims, NOBODY, &real[..slash], IMPLIED),
            None => Ok(()),
        }
    }

    /// Removes what stands where a file or link will stand, and makes the folders above; `false` if
    /// a folder stands there that is not the old version's.
    fn make_room(&self, claims: &mut Claims<'_>, index: usize, target: &[u8]) -> Result<bool> {
        self.ensure_parent(claims, target)?;
        let on_disk = self.root.on_disk(target);
        if !self.is_folder(target) {
            remove(&on_disk)?;
            return Ok(true);
        }
        let is_old = |owner: &usize| self.lower.upgraded.get(owner) == Some(&index);
        let old = self.lower.owners.get(target).is_some_and(|owners| owners.iter().all(is_old));
        if old {
            fs::remove_dir_all(on_disk)?;
        } else {
            claims.clash_with_folder(target, index);
        }
        Ok(old)
    }

    /// Writes a file or pipe, unless another's stays.
    fn make_file(
        &self,
        index: usize,
        entry: &Entry,
        place: &Place,
        content: &mut dyn Read,
        digest: bool,
    ) -> Result<(Claim, Option<String>)> {
        let size = if let EntryKind::File { size } = entry.kind { size } else { 0 };
        let mut content = Content { reader: content, left: size, name: &place.name };
        let attributes = self.attributes(entry, place);
        let target = self.target(place);
        let on_disk = self.root.on_disk(&target);
        // Until the file is there nobody else may claim the path.
        let mut claims = self.claims();
        let claim = claims.claim(index, &place.real);
        match claim {
            Claim::Theirs => return Ok((claim, None)),
            Claim::Shared => {
                drop(claims);
                return Ok((claim, Some(content.digest()?)));
            }
            Claim::Ours if !self.make_room(&mut claims, index, &target)? => return Ok((Claim::Theirs, None)),
            Claim::Ours => {}
        }
        if entry.kind == EntryKind::Fifo {
            mknodat(CWD, &on_disk, FileType::Fifo, Mode::empty(), 0)
                .map_err(|error| io_error(error, &on_disk))?;
            lchown(&on_disk, Some(attributes.uid), Some(attributes.gid))?;
            fs::set_permissions(&on_disk, Permissions::from_mode(attributes.mode))?;
            set_mtime(&on_disk, entry.mtime)?;
            return Ok((claim, None));
        }
        let file = fs::File::create_new(on_disk)?;
        drop(claims);
        Ok((claim, content.write(file, attributes, entry.mtime, digest)?))
    }

    /// Makes a link, unless another's stays.
    fn make_link(&self, index: usize, link: &Link) -> Result<Claim> {
        let Link { entry, place, .. } = link;
        if let EntryKind::Symlink(text) = &entry.kind
            && self.is_folder_already(text, place)?
        {
            return Ok(Claim::Ours);
        }
        let mut claims = self.claims();
        let claim = claims.claim(index, &place.real);
        match claim {
            Claim::Theirs => return Ok(claim),
            Claim::Shared => {
                self.check_shared_link(&mut claims, index, link);
                return Ok(claim);
            }
            Claim::Ours => {}
        }
        let target = self.target(place);
        if !self.make_room(&mut claims, index, &target)? {
            return Ok(Claim::Theirs);
        }
        let on_disk = self.root.on_disk(&target);
        match &entry.kind {
            EntryKind::Symlink(text) => {
                symlinkat(&text[..], CWD, &on_disk).map_err(|error| io_error(error, &on_disk))?;
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
        Ok(claim)
    }

    /// A link over a folder that was there before, or over a link to the folder that it names
    /// itself, leaves what is there.
    fn is_folder_already(&self, text: &[u8], place: &Place) -> Result<bool> {
        let Some(found) = self.metadata(&place.real) else { return Ok(false) };
        if found.is_dir() {
            return Ok(!matches!(
                self.claims().nodes.get(&place.real),
                Some(Node::Folder { made: true, .. })
            ));
        }
        if !found.is_symlink() {
            return Ok(false);
        }
        let parent = place.real.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let base = if text.starts_with(b"/") { 0 } else { parent };
        let new = self.root.follow(&[&place.real[..base], text].concat())?;
        Ok(self.root.follow(&place.real)? == new && self.is_folder(&new))
    }

    fn check_shared_link(&self, claims: &mut Claims<'_>, index: usize, link: &Link) {
        let EntryKind::Symlink(text) = &link.entry.kind else { return };
        let found = readlinkat(CWD, self.root.on_disk(&link.place.real), Vec::new());
        if !found.is_ok_and(|found| found.as_bytes() == text) {
            claims.differs(&link.place.real, index);
        }
    }

    /// Where the file is that a hard link names.
    fn first_link(&self, claims: &Claims<'_>, index: usize, file: &[u8]) -> Result<Vec<u8>> {
        let package = &self.packages[index];
        let conffile = package.conffiles.iter().any(|conffile| conffile.path.as_bytes() == file);
        let place = self.place(package, file, conffile)?;
        match claims.nodes.get(&place.real) {
            Some(Node::File { package }) if *package == index => Ok(self.target(&place)),
            _ => {
                let (path, name) = (String::from_utf8_lossy(file), package.full_name());
                Err(Error::new(
                    Kind::Input,
                    format!("`{name}` has a hard link to `/{path}`, which is none of its files"),
                ))
            }
        }
    }

    /// Gives the folders that were made their owners and modes, now that all who ship them are
    /// known and nothing more is written into them.
    fn set_folders(&self) -> Result<()> {
        for (real, node) in &self.claims().nodes {
            if let Node::Folder { attributes, made: true, .. } = node {
                let on_disk = self.root.on_disk(real);
                chown(&on_disk, Some(attributes.uid), Some(attributes.gid))?;
                fs::set_permissions(&on_disk, Permissions::from_mode(attributes.mode))?;
            }
        }
        Ok(())
    }

    /// Drops from the lists what others have, and compares what is shared.
    fn finish(&self, parts: Vec<Part>) -> Result<Unpacked> {
        let mut claims = self.claims();
        let (mut entries, mut triggers) = (Vec::new(), BTreeSet::new());
        for (index, mut part) in parts.into_iter().enumerate() {
            part.entries.retain(|placed| match (placed.claim, claims.nodes.get(&placed.real)) {
                (Claim::Theirs, _) => false,
                (Claim::Ours, Some(Node::File { package })) => *package == index,
                _ => true,
            });
            for placed in part.entries.iter().filter(|placed| placed.claim == Claim::Shared) {
                let found = md5_of(&self.root.on_disk(&placed.real))?;
                if placed.md5.is_some() && placed.md5 != found {
                    claims.differs(&placed.real, index);
                }
            }
            triggers.append(&mut part.triggers);
            entries.push(part.entries);
        }
        claims.report()?;
        Ok(Unpacked { entries, lost: std::mem::take(&mut claims.lost), triggers })
    }
}

impl Part {
    /// A hard link has the content of the file that it names.
    fn md5_of_link(&self, link: &Link) -> Option<String> {
        let EntryKind::Hardlink(file) = &link.entry.kind else { return None };
        let first = self.entries.iter().find(|placed| placed.name.get(1..) == Some(file.as_bytes()));
        first.and_then(|first| first.md5.clone())
    }
}
