//! Debian packages, unpacked into a root natively and configured by its own dpkg.
//!
//! dpkg unpacks one package at a time and syncs as it goes; unpacking is decompression, which a
//! core per package does at once. So unpacking is done here, after deb(5) and dpkg 1.21's
//! `src/main/{unpack,archives}.c`, and the database is left as dpkg would have left it; what only
//! scripts can do is left to one `dpkg --configure -a`.
//!
//! A root with a database is worked on in dpkg's order, step by step instead of package by package:
//!
//! 1. the old versions' `prerm upgrade`, then every `preinst`, before any file of the set is there;
//!    a set whose preinsts pre-depend on the set itself goes in [`package::waves`];
//! 2. all files ([`files`]), the old versions' `postrm upgrade`, what is [`obsolete`];
//! 3. the database ([`record`]), with the triggers that the files set off;
//! 4. `dpkg --configure -a`, which runs them.
//!
//! An empty root has nothing that could run a preinst. There everything is unpacked first, conffiles
//! in their places; then every preinst runs, base-passwd is configured, for scripts want users, and
//! then the rest. debootstrap and mmdebstrap go the same way.
//!
//! # What differs from dpkg
//!
//! Compared, entry by entry, with what mmdebstrap and apt make of the same files (91 packages from
//! nothing, 106 more over them, 19 upgrades over 140), and with dpkg in the tests:
//!
//! - Times of folders, and of what is written while packages are configured, are those of the build;
//!   whoever captures the root gives them one constant. The merged-/usr links have it already.
//! - From nothing in one go, ids that scripts ask for (`_ssh`, `crontab`) follow dpkg's order of
//!   configuring, which is another than apt's in two goes. The same set gives the same ids.
//! - `triggers/File`, `triggers/NAME` and `extended_states` hold the same lines in the order of names,
//!   not of unpacking.
//! - A package without `md5sums` gets one as dpkg would write it, but without files that another
//!   package of the set takes over.
//! - Packages that lose all files to others do not disappear. Breaks and Conflicts are the resolver's
//!   business: nothing is deconfigured or removed.
//! - While scripts run, `status` says of a package what it was before, not `half-installed`.
//! - A changed conffile is kept without a question (`--force-confdef --force-confold`).
//! - Two packages that ship one path under two names, through a link of the root, are a conflict;
//!   dpkg does not see it. So are a folder and a link to be made at one path, which dpkg settles by
//!   order.
//! - PAX headers, devices and bzip2 are refused. `.dpkg-tmp` backups are not made: on an error the
//!   root is thrown away.

mod claims;
mod content;
mod database;
mod files;
mod obsolete;
mod package;
mod record;
mod relation;
mod root;
mod scripts;
mod stanza;
mod triggers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::thread;

use fs_err as fs;

use self::claims::Lower;
use self::database::{Accounts, Database, Diversions, STATUS};
use self::files::Unpacker;
use self::obsolete::Left;
use self::package::Package;
use self::record::Record;
use self::root::Root;
use self::scripts::{NoServices, Scripts};
use self::triggers::FileTriggers;
use super::{Command, DebFile};
use crate::Result;

/// Unpacks and configures `packages`, whose `files` are open, in the folder `root`, which holds a Debian
/// root or nothing. `execute` runs a command in it, with `/proc` and `/dev` there. On an error the root is of no
/// further use.
///
/// # Errors
/// A package is broken, two of them want one path, or a script fails.
pub fn unpack(
    root: &Path,
    packages: &[DebFile],
    files: Vec<fs::File>,
    execute: &mut dyn FnMut(&Command) -> Result<()>,
) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let packages = package::open_all(packages, files, threads)?;
    let root = Root::new(root);
    let database = Database::read(&root)?;
    // An upgrade leaves it as it is whether somebody asked for the package.
    let is_new = |package: &&Package| {
        let old = database.find(&package.name, &package.architecture).map(|old| &database.packages[old]);
        !old.is_some_and(|old| old.is_present()) || !package.automatic
    };
    let set: Vec<_> =
        packages.iter().filter(is_new).map(|package| (package.name.clone(), package.automatic)).collect();
    let mut scripts = Scripts::new(&root, execute, &packages, &database);
    let native = if database.is_empty() {
        bootstrap(&mut scripts, &packages, threads)?
    } else {
        add(&mut scripts, packages, &database, threads)?
    };
    database::write_automatic(&root, &set, &native)
}

/// Makes a root out of nothing; returns its architecture.
fn bootstrap(scripts: &mut Scripts<'_, '_>, packages: &[Package], threads: usize) -> Result<String> {
    let root = scripts.root;
    let architectures = packages.iter().map(|package| &package.architecture);
    let native = architectures.clone().find(|one| *one != "all").map_or("all", String::as_str).to_owned();
    make_merged_folders(root, &native)?;
    make_database(root, &native)?;
    unpack_files(root, packages, Database::default(), threads)?.write(root, packages)?;
    let services = NoServices::begin(root)?;
    for package in packages {
        scripts.run_new(package, "preinst", &["install"])?;
    }
    if packages.iter().any(|package| package.name == "base-passwd") {
        scripts.configure(&["--force-depends", "base-passwd"])?;
    }
    scripts.configure(&["-a"])?;
    services.end()?;
    Ok(native)
}

/// Adds packages to a root; returns its architecture.
fn add(
    scripts: &mut Scripts<'_, '_>,
    packages: Vec<Package>,
    database: &Database,
    threads: usize,
) -> Result<String> {
    let root = scripts.root;
    let dpkg = database.packages.iter().find(|package| package.name == "dpkg");
    let native = dpkg.map_or_else(String::new, |dpkg| dpkg.architecture.clone());
    let services = NoServices::begin(root)?;
    for wave in package::waves(packages, &|relation| database.meets(relation)) {
        let database = Database::read(root)?;
        for package in &wave {
            run_before(scripts, package, &database)?;
        }
        let record = unpack_files(root, &wave, database, threads)?;
        for (old, index) in &record.lower.upgraded {
            let old = &record.lower.database.packages[*old];
            scripts.run_old(&wave[*index], "postrm", &old.full_name(), &old.version)?;
        }
        let record = record.remove_old(root, &wave)?;
        record.write(root, &wave)?;
        scripts.configure(&["-a"])?;
    }
    services.end()?;
    Ok(native)
}

/// Runs what dpkg runs before it touches a package's files.
fn run_before(scripts: &mut Scripts<'_, '_>, package: &Package, database: &Database) -> Result<()> {
    let old = database.find(&package.name, &package.architecture).map(|index| &database.packages[index]);
    match old {
        Some(old) if old.is_present() => {
            if old.is_configured() || old.state == "half-configured" {
                scripts.run_old(package, "prerm", &old.full_name(), &old.version)?;
            }
            scripts.run_new(package, "preinst", &["upgrade", &old.version, &package.version])
        }
        Some(old) if old.state == "config-files" => {
            scripts.run_new(package, "preinst", &["install", &old.version, &package.version])
        }
        _ => scripts.run_new(package, "preinst", &["install"]),
    }
}

/// Unpacks a set's files over what is installed.
fn unpack_files(root: &Root, packages: &[Package], mut database: Database, threads: usize) -> Result<Record> {
    root.forget();
    database.read_files(root)?;
    let (users, groups) = (Accounts::read(root, "etc/passwd")?, Accounts::read(root, "etc/group")?);
    let diversions = Diversions::read(root)?;
    let mut lower = Lower {
        overrides: database::read_overrides(root, &users, &groups)?,
        triggers: FileTriggers::read(root)?,
        owners: owners(root, &database, &diversions)?,
        upgraded: BTreeMap::new(),
        diversions,
        users,
        groups,
        database,
    };
    for (index, package) in packages.iter().enumerate() {
        let old = lower.database.find(&package.name, &package.architecture);
        lower.upgraded.extend(old.map(|old| (old, index)));
    }
    let unpacked = Unpacker::new(root, packages, &lower).unpack(threads)?;
    root.forget();
    let left = packages.iter().map(|_| Left::default()).collect();
    Ok(Record { lower, unpacked, left })
}

/// Whose the files of the root are, by their real paths.
fn owners(root: &Root, database: &Database, diversions: &Diversions) -> Result<HashMap<Vec<u8>, Vec<usize>>> {
    let mut owners: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (index, package) in database.packages.iter().enumerate() {
        for name in package.files.iter().filter(|name| name.len() > 1 && *name != b"/.") {
            let real = root.real(&diversions.place(name, &package.name)[1..])?;
            owners.entry(real).or_default().push(index);
        }
    }
    Ok(owners)
}

/// Merged-/usr: its folders, and the links to them. Packages of Debian 12 still ship paths in
/// `/bin`; the links are the bootstrapper's to make, and all entries go through them.
fn make_merged_folders(root: &Root, architecture: &str) -> Result<()> {
    let is_64 = matches!(architecture, "amd64" | "i386" | "loong64" | "mips64el" | "ppc64" | "ppc64el");
    let names = ["bin", "sbin", "lib"].into_iter().chain(is_64.then_some("lib64"));
    for name in names {
        let target = format!("usr/{name}");
        root.make_folder(&target)?;
        let link = root.file(name)?;
        if fs::symlink_metadata(&link).is_err() {
            fs::os::unix::fs::symlink(target, &link)?;
            content::set_mtime(&link, assemble_layers::tree::MTIME)?;
        }
    }
    Ok(())
}

/// A database without packages.
fn make_database(root: &Root, architecture: &str) -> Result<()> {
    for folder in ["alternatives", "info", "parts", "triggers", "updates"] {
        root.make_folder(&format!("var/lib/dpkg/{folder}"))?;
    }
    root.write("var/lib/dpkg/info/format", b"1\n")?;
    root.write("var/lib/dpkg/arch", format!("{architecture}\n").as_bytes())?;
    root.write(STATUS, b"")
}

/// Whether dpkg's `status` can be read: for `fuzzing`.
pub(crate) fn reads_stanzas(bytes: &[u8]) -> bool {
    stanza::Stanza::parse_all(bytes, "status").is_ok()
}
