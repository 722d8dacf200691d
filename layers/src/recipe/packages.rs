//! Debian's packages, and images of registries that they are installed over.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::words::{agree, inside, texts};
use super::{Files, RecipeError, Result};
use crate::image::Layer;
pub use crate::lock::ThirdPartyArchive;
use crate::lock::{DebianSet, Requirements};
use crate::{base_image, debian};

/// An archive of Debian's packages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Archive {
    release: String,
    suites: Vec<String>,
    components: Vec<String>,
    third_party: Vec<ThirdPartyArchive>,
}

impl ThirdPartyArchive {
    /// A flat one, `deb URL /` as apt's sources have it; `name` is the recipe's word for it. `keys` are those
    /// that it may be signed with, armoured: `include_str!("vendor.asc")`. Nobody else's count for it, and
    /// they count for nobody else.
    pub fn new(name: &str, url: &str, keys: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: format!("{}/", url.trim_end_matches('/')),
            suites: Vec::new(),
            components: Vec::new(),
            priority: None,
            keys: keys.trim().to_owned(),
        }
    }

    /// One with suites, and these of them: `deb URL stable main`.
    #[must_use]
    pub fn suites<S: Into<String>, C: Into<String>>(
        mut self,
        suites: impl IntoIterator<Item = S>,
        components: impl IntoIterator<Item = C>,
    ) -> Self {
        (self.suites, self.components) = (texts(suites), texts(components));
        self
    }

    /// Its packages go before or behind others of the same name, as apt's preferences say it: 500 is what
    /// Debian's have.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = Some(priority);
        self
    }

    fn check(&self) -> Result<()> {
        let wrong = |how: &str| Err(RecipeError(format!("the archive `{}` {how}", self.name)));
        let host =
            self.url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        match () {
            () if self.name.is_empty() || self.name.contains(['/', '`']) => wrong("has no name that is one"),
            () if !self.url.starts_with("http://") && !self.url.starts_with("https://") => {
                wrong("has an address that is neither http nor https")
            }
            () if host.contains('@') => {
                wrong("has a login in its address: the lock would, too; netrc or `--url-mirror` may have one")
            }
            () if !self.keys.starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----") => {
                wrong("has keys that are not armoured: `gpg --export --armor KEY` writes them so")
            }
            () if self.suites.is_empty() != self.components.is_empty() => {
                wrong("has suites without components, or components without suites")
            }
            () => Ok(()),
        }
    }
}

impl Archive {
    /// A release of Debian's own archive, `bookworm`, with its updates and security updates; `main`.
    pub fn debian(release: &str) -> Self {
        Self {
            release: release.to_owned(),
            suites: ["", "-updates", "-security"].map(|suffix| format!("{release}{suffix}")).to_vec(),
            components: vec!["main".to_owned()],
            third_party: Vec::new(),
        }
    }

    /// With the packages of an archive that is not Debian's beside its own. Of one name the newest is taken,
    /// as apt does it.
    #[must_use]
    pub fn and(mut self, archive: &ThirdPartyArchive) -> Self {
        self.third_party.push(archive.clone());
        self
    }

    /// With these components, `contrib` and `non-free` for instance, and no others.
    #[must_use]
    pub fn components<T: Into<String>>(mut self, components: impl IntoIterator<Item = T>) -> Self {
        self.components = texts(components);
        self
    }

    /// The essential packages and these, over nothing: the lowest that an image can be made of.
    /// `usr-is-merged` among them has `/bin` and `/lib` be links before the first package.
    pub fn essential<T: Into<String>>(&self, packages: impl IntoIterator<Item = T>) -> Packages {
        Packages::new(self, Below::Nothing, texts(packages))
    }

    /// An image of a registry, to install this archive's packages over. Its own apt sources say where they
    /// come from.
    pub fn over(&self, image: &RegistryImage) -> Packages {
        Packages::new(self, Below::Image(image.clone()), Vec::new())
    }
}

/// An image of a registry that is built upon.
#[derive(Clone)]
pub struct RegistryImage(Rc<Registry>);

struct Registry {
    name: String,
    reference: String,
}

impl RegistryImage {
    /// `NAME:TAG`, `NAME@DIGEST` or both. `name` is the recipe's word for it: `--base-image NAME=…` names
    /// another one.
    pub fn new(name: &str, reference: &str) -> Self {
        Self(Rc::new(Registry { name: name.to_owned(), reference: reference.to_owned() }))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }
}

handle!(RegistryImage);

impl Part for Registry {
    fn registry_image(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let known = requirements.base.insert(self.name.clone(), self.reference.clone());
        agree(known.is_none_or(|known| known == self.reference), "image", &self.name)
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let image = base_image::locked(expansion.lock, &self.name)?;
        Ok(base_image::layers(&mut expansion.graph, image).into_iter().map(Laid::from).collect())
    }
}

/// Packages that are installed together, as one layer.
#[derive(Clone)]
pub struct Packages(Rc<Set>);

#[derive(Clone)]
struct Set {
    archive: Archive,
    below: Below,
    packages: Vec<String>,
    title: Option<String>,
    without: Vec<String>,
    told: Told,
}

/// What packages are installed over.
#[derive(Clone)]
enum Below {
    Nothing,
    Image(RegistryImage),
    Packages(Packages),
}

impl Packages {
    fn new(archive: &Archive, below: Below, packages: Vec<String>) -> Self {
        let told = Told::default();
        Self(Rc::new(Set {
            archive: archive.clone(),
            below,
            packages,
            title: None,
            without: Vec::new(),
            told,
        }))
    }

    /// More packages over these, as a layer of their own: as `apt-get install --no-install-recommends`
    /// chooses them.
    pub fn install<T: Into<String>>(&self, packages: impl IntoIterator<Item = T>) -> Self {
        let below = match &self.0.below {
            Below::Image(image) if self.0.is_bare_image() => Below::Image(image.clone()),
            _ => Below::Packages(self.clone()),
        };
        Self::new(&self.0.archive, below, texts(packages))
    }

    /// What `apt-get` reads in a container: the addresses of the archive, as its `apt` ships them for an example.
    pub fn apt_sources(&self) -> Files {
        let files = Files::new("apt sources");
        files.copy("/etc/apt/sources.list", self, "/usr/share/doc/apt/examples/sources.list")
    }

    /// What people call the layer, where it is another word than the lock's.
    #[must_use]
    pub fn titled(mut self, title: &str) -> Self {
        Rc::make_mut(&mut self.0).title = Some(title.to_owned());
        self
    }

    /// Without these files, and what the packages' scripts leave in these folders: the data folder of a
    /// database, whose bytes are made by chance, is made at a container's first start then.
    #[must_use]
    pub fn without<T: Into<String>>(mut self, paths: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).without.extend(texts(paths));
        self
    }

    /// The image of a registry that all of it stands on, if there is one.
    pub fn registry_image(&self) -> Option<&RegistryImage> {
        self.0.registry_image()
    }

    /// The lock's name for a set over the same image: one over an image has the image's name in its own.
    pub(super) fn set_name(&self, name: &str) -> String {
        self.0.set_name(name)
    }

    /// The sets that something over these packages is over, lowest first.
    pub(super) fn chain(&self) -> Vec<String> {
        self.0.chain()
    }
}

handle!(@named Packages);

impl From<Packages> for AnyPart {
    fn from(packages: Packages) -> Self {
        match &packages.0.below {
            Below::Image(image) if packages.0.is_bare_image() => image.into(),
            _ => Self::of(&packages.0),
        }
    }
}

impl Set {
    fn name(&self) -> String {
        let given = self.told.name.clone();
        given.unwrap_or_else(|| match self.below {
            Below::Nothing => "base".to_owned(),
            _ => self.packages.join(" "),
        })
    }

    /// The lock's name for these packages.
    fn set(&self) -> String {
        self.set_name(&self.name())
    }

    fn set_name(&self, name: &str) -> String {
        self.registry_image().map_or(name.to_owned(), |image| format!("{name} over {}", image.name()))
    }

    fn registry_image(&self) -> Option<&RegistryImage> {
        match &self.below {
            Below::Nothing => None,
            Below::Image(image) => Some(image),
            Below::Packages(packages) => packages.registry_image(),
        }
    }

    /// The sets below it, lowest first.
    fn below(&self) -> Vec<String> {
        match &self.below {
            Below::Packages(packages) => packages.chain(),
            Below::Nothing | Below::Image(_) => Vec::new(),
        }
    }

    fn chain(&self) -> Vec<String> {
        let mut chain = self.below();
        if !self.is_bare_image() {
            chain.push(self.set());
        }
        chain
    }

    /// Whether it is an image over which nothing is installed.
    fn is_bare_image(&self) -> bool {
        matches!(self.below, Below::Image(_)) && self.packages.is_empty()
    }

    fn is_essential(&self) -> bool {
        matches!(self.below, Below::Nothing)
    }

    fn history(&self) -> String {
        match self.is_essential() {
            true => format!("essential packages, {}", self.packages.join(", ")),
            false => format!("apt-get install --no-install-recommends {}", self.packages.join(" ")),
        }
    }
}

impl Part for Set {
    fn over(&self) -> Vec<AnyPart> {
        match &self.below {
            Below::Nothing => Vec::new(),
            Below::Image(image) => vec![image.into()],
            Below::Packages(packages) => vec![packages.into()],
        }
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        require_archive(requirements, &self.archive)?;
        if self.packages.is_empty() && !self.is_essential() {
            return Err(RecipeError(format!("the packages over `{}` are none", self.below().join("`, `"))));
        }
        let set = DebianSet {
            name: self.set(),
            essential: self.is_essential(),
            packages: self.packages.clone(),
            over: self.registry_image().map(|image| image.name().to_owned()),
            above: self.below(),
        };
        require_set(requirements, set)
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let over = expansion.root(&self.over())?;
        let name = self.set();
        if !expansion.lock.requirements.debian.sets.iter().any(|set| set.name == name) {
            return Err(RecipeError(format!("the lock has no set of packages `{name}`")));
        }
        let title = match (&self.title, self.is_essential()) {
            (Some(title), _) => title.clone(),
            (None, true) => format!("debian {}", self.archive.release),
            (None, false) => self.name(),
        };
        let without: Result<_> = self.without.iter().map(|path| inside(path)).collect();
        let debian = &expansion.lock.debian;
        let tree = debian::unpack_set_without(&mut expansion.graph, debian, &name, &title, &over, without?);
        let step = self.told.step.clone().unwrap_or_else(|| self.name());
        let created_by = self.told.history.clone().unwrap_or_else(|| self.history());
        Ok(vec![Layer { tree, step, created_by }.into()])
    }
}

/// Adds an archive; all of an image's packages come from one.
fn require_archive(requirements: &mut Requirements, archive: &Archive) -> Result<()> {
    let debian = &mut requirements.debian;
    if debian.suites.is_empty() {
        debian.architecture = "amd64".to_owned();
        debian.suites.clone_from(&archive.suites);
        debian.components.clone_from(&archive.components);
        debian.third_party.clone_from(&archive.third_party);
        archive.third_party.iter().try_for_each(ThirdPartyArchive::check)?;
        let mut names = BTreeSet::new();
        if let Some(twice) = archive.third_party.iter().find(|it| !names.insert(&it.name)) {
            return agree(false, "archive", &twice.name);
        }
    }
    let (known, own) = ((&debian.suites, &debian.components), (&archive.suites, &archive.components));
    if known == own && debian.third_party == archive.third_party {
        return Ok(());
    }
    if known == own {
        return Err(RecipeError(
            "the recipes share a lock, and name different third-party archives".to_owned(),
        ));
    }
    Err(RecipeError(format!(
        "the recipes take packages from two archives: {} ({}) and {} ({})",
        debian.suites.join(" "),
        debian.components.join(" "),
        archive.suites.join(" "),
        archive.components.join(" ")
    )))
}

/// Adds a set, which may be there already.
pub(super) fn require_set(requirements: &mut Requirements, set: DebianSet) -> Result<()> {
    let sets = &mut requirements.debian.sets;
    match sets.iter().find(|known| known.name == set.name) {
        Some(known) => agree(*known == set, "set of packages", &set.name),
        None => {
            sets.push(set);
            Ok(())
        }
    }
}
