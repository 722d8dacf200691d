//! The packages of a set: what their control files say.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::thread;

use assemble_layers::tree::TreePath;
use fs_err::File;

use super::database::{Installed, full_name};
use super::relation::Relation;
use super::stanza::Stanza;
use crate::pack::deb::Deb;
use crate::sandbox::DebFile;
use crate::{Error, Kind, Result};

/// A package to be unpacked.
pub struct Package {
    pub deb: Deb,
    pub control: Stanza,
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// `Multi-Arch: same`: several architectures of it stand side by side.
    pub same: bool,
    pub automatic: bool,
    pub conffiles: Vec<Conffile>,
    pub triggers: Vec<Trigger>,
    replaces: Vec<Vec<Relation>>,
}

/// A line of `conffiles` (deb-conffiles(5)).
pub struct Conffile {
    pub path: TreePath,
    pub remove_on_upgrade: bool,
}

/// A line of `triggers` (deb-triggers(5)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trigger {
    pub name: String,
    pub interest: bool,
    pub wait: bool,
}

/// Opens all packages, on all cores, and sorts them by name and architecture: the order in which
/// files were given must not show.
pub fn open_all(debs: &[DebFile], files: Vec<File>, threads: usize) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    let opened: Vec<Result<Vec<Package>>> = thread::scope(|scope| {
        let mut files = files.into_iter();
        let chunks = debs.chunks(debs.len().div_ceil(threads).max(1));
        let threads: Vec<_> = chunks
            .map(|chunk| {
                let files: Vec<File> = files.by_ref().take(chunk.len()).collect();
                let open = |(deb, file)| Package::open(deb, file);
                scope.spawn(move || chunk.iter().zip(files).map(open).collect())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    for chunk in opened {
        packages.extend(chunk?);
    }
    packages.sort_by(|one, other| one.identity().cmp(&other.identity()));
    if let Some(pair) = packages.windows(2).find(|pair| pair[0].identity() == pair[1].identity()) {
        return Err(Error::new(Kind::Input, format!("the set holds `{}` twice", pair[0].full_name())));
    }
    Ok(packages)
}

impl Package {
    fn open(file: &DebFile, opened: File) -> Result<Self> {
        let deb = Deb::read(opened)?;
        let origin = file.path.display().to_string();
        let text = |name: &str| deb.control_file(name).map(|file| &file.content[..]).unwrap_or_default();
        let control = Stanza::parse(text("control"), &origin)?;
        let package = Self {
            name: control.text("Package"),
            version: control.text("Version"),
            architecture: control.text("Architecture"),
            same: control.text("Multi-Arch") == "same",
            automatic: file.automatic,
            conffiles: parse_conffiles(text("conffiles"), &origin)?,
            triggers: parse_triggers(text("triggers"), &origin)?,
            replaces: Relation::parse_field(&control.text("Replaces")),
            control,
            deb,
        };
        package.check(file)?;
        Ok(package)
    }

    /// Names become names of files, and lines of lists.
    fn check(&self, file: &DebFile) -> Result<()> {
        let plain = |text: &str| {
            text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.~:_".contains(&byte))
        };
        let named = |text: &str| plain(text) && !text.contains([':', '_', '~']);
        let path = file.path.display();
        if !named(&self.name) || !named(&self.architecture) || !plain(&self.version) {
            return Err(Error::new(
                Kind::Input,
                format!("`{path}` has no proper name, version and architecture"),
            ));
        }
        if self.name != file.package {
            return Err(Error::new(Kind::Input, format!("`{path}` is not the package `{}`", file.package))
                .detail(format!("it says that it is `{}`", self.name)));
        }
        Ok(())
    }

    fn identity(&self) -> (&str, &str) {
        (&self.name, &self.architecture)
    }

    /// The name as dpkg's database has it: with the architecture where several may stand together.
    pub fn full_name(&self) -> String {
        full_name(&self.name, &self.architecture, self.same)
    }

    /// Whether this package may overwrite files of the one named.
    pub fn replaces(&self, name: &str, version: &str) -> bool {
        self.replaces.iter().flatten().any(|relation| relation.matches(name, version))
    }

    pub fn is_sibling(&self, other: &Self) -> bool {
        self.name == other.name && self.same && other.same && self.architecture != other.architecture
    }

    /// Whether the installed package is this one for another architecture, side by side with it.
    pub fn is_sibling_of(&self, installed: &Installed) -> bool {
        self.name == installed.name
            && self.same
            && installed.same
            && installed.is_present()
            && self.architecture != installed.architecture
    }

    fn relations(&self, field: &str) -> Vec<Vec<Relation>> {
        Relation::parse_field(&self.control.text(field))
    }

    fn provides(&self, relation: &Relation) -> bool {
        relation.matches(&self.name, &self.version)
            || self.relations("Provides").iter().flatten().any(|provided| provided.name == relation.name)
    }
}

fn parse_conffiles(text: &[u8], origin: &str) -> Result<Vec<Conffile>> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty());
    let conffiles = lines.map(|line| {
        let flagged = line.strip_prefix(b"remove-on-upgrade ");
        let path = flagged.unwrap_or(line).trim_ascii_start().strip_prefix(b"/");
        let path = path.ok_or_else(|| {
            let line = String::from_utf8_lossy(line);
            Error::new(Kind::Input, format!("`{origin}` has a conffile without an absolute path, `{line}`"))
        })?;
        Ok(Conffile { path: TreePath::new(path)?, remove_on_upgrade: flagged.is_some() })
    });
    conffiles.collect()
}

/// Reads `triggers`; what dpkg has for unknown is an error, as there.
pub fn parse_triggers(text: &[u8], origin: &str) -> Result<Vec<Trigger>> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let triggers = lines.map(|line| {
        let mut words = line.split_whitespace();
        let (directive, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (verb, wait) = match directive.strip_suffix("-noawait") {
            Some(verb) => (verb, false),
            None => (directive.strip_suffix("-await").unwrap_or(directive), true),
        };
        let graphic = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        // A name that is no path becomes the name of a file.
        let sound = graphic && (TreePath::new(name.strip_prefix('/').unwrap_or(name)).is_ok());
        let sound = sound && (name.starts_with('/') || !name.contains('/'));
        match verb {
            "interest" | "activate" if sound => {
                Ok(Trigger { name: name.to_owned(), interest: verb == "interest", wait })
            }
            _ => Err(Error::new(Kind::Input, format!("`{origin}` has an unknown trigger line, `{line}`"))),
        }
    });
    triggers.collect()
}

/// The order in which to unpack big packages first, so that no core is left with one at the end.
pub fn biggest_first(packages: &[Package]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..packages.len()).collect();
    order.sort_by_key(|index| (Reverse(packages[*index].deb.data_size()), *index));
    order
}

/// Splits a set so that each preinst finds what its package pre-depends on configured.
///
/// `installed` says whether the root meets a relation already. A pre-dependency on this set puts
/// what it names, and all that that depends on, into an earlier wave; nearly every set is one wave.
/// Packages without a preinst do not mind: nothing of them runs before all is configured.
pub fn waves(packages: Vec<Package>, installed: &dyn Fn(&Relation) -> bool) -> Vec<Vec<Package>> {
    let mut early: BTreeSet<usize> = BTreeSet::new();
    let mut reached = Vec::new();
    for package in packages.iter().filter(|package| package.deb.control_file("preinst").is_some()) {
        reached.extend(needed(package, &["Pre-Depends"], &packages, installed));
    }
    while let Some(index) = reached.pop() {
        if early.insert(index) {
            reached.extend(needed(&packages[index], &["Pre-Depends", "Depends"], &packages, installed));
        }
    }
    if early.is_empty() || early.len() == packages.len() {
        return vec![packages];
    }
    let indexed = packages.into_iter().enumerate();
    let (first, rest): (Vec<_>, Vec<_>) = indexed.partition(|(index, _)| early.contains(index));
    let mut all = waves(first.into_iter().map(|(_, package)| package).collect(), installed);
    all.push(rest.into_iter().map(|(_, package)| package).collect());
    all
}

/// The packages of the set that meet a package's relations which the root does not meet.
fn needed(
    package: &Package,
    fields: &[&str],
    packages: &[Package],
    installed: &dyn Fn(&Relation) -> bool,
) -> Vec<usize> {
    let groups = fields.iter().flat_map(|field| package.relations(field));
    let unmet = groups.filter(|group| !group.iter().any(installed));
    let providers = unmet.flat_map(|group| {
        let provides = |candidate: &Package| group.iter().any(|relation| candidate.provides(relation));
        packages
            .iter()
            .enumerate()
            .filter(|(_, one)| provides(one))
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
    });
    providers.collect()
}
