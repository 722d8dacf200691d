//! What is compiled from source: a repository's files, and the wheel that a command makes of them.

use std::rc::Rc;

use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::words::{agree, inside};
use super::{RecipeError, Result};
use crate::Builder;
use crate::derivation::{ANY_TAGS, Git, Layout, UnpackWheels, WheelInput};
use crate::digest::Commit;
use crate::image::Layer;
use crate::lock::{GitSource, Requirements};
use crate::python::{PIP, Scheme};

/// The files of a repository at a commit, submodules included.
#[derive(Clone)]
pub struct GitFiles(Rc<Repository>);

struct Repository {
    name: String,
    url: String,
    commit: String,
    folder: String,
}

impl GitFiles {
    /// The repository at `url` at a commit, in a folder (absolute). `name` is the recipe's word for it:
    /// `--source NAME=…` names another repository.
    pub fn new(name: &str, url: &str, commit: &str, folder: &str) -> Self {
        let [name, url, commit, folder] = [name, url, commit, folder].map(str::to_owned);
        Self(Rc::new(Repository { name, url, commit, folder }))
    }
}

handle!(GitFiles);

impl Part for Repository {
    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let wrong = |_| RecipeError(format!("`{}` of the source `{}` is no commit", self.commit, self.name));
        let commit: Commit = self.commit.parse().map_err(wrong)?;
        let source = GitSource { url: self.url.clone(), commit };
        let known = requirements.git.insert(self.name.clone(), source.clone());
        agree(known.is_none_or(|known| known == source), "source", &self.name)
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let missing = || RecipeError(format!("the lock has no source `{}`", self.name));
        let source = expansion.lock.requirements.git.get(&self.name).ok_or_else(missing)?;
        let GitSource { url, commit } = source.clone();
        let name = format!("{} source", self.name);
        let git = Git { url, commit, folder: inside(&self.folder)? };
        let tree = expansion.graph.add(&name, Builder::Git(git));
        let created_by = format!("git clone {}; git checkout {}", self.url, self.commit);
        Ok(vec![Layer { tree, step: name, created_by }.into()])
    }
}

/// A wheel that a command leaves in its output folder, unpacked below a prefix of its own.
#[derive(Clone)]
pub struct Wheel(Rc<Built>);

#[derive(Clone)]
struct Built {
    distribution: String,
    version: String,
    command: AnyPart,
    prefix: String,
    told: Told,
}

impl Wheel {
    /// The one wheel of that name and version that `command` leaves, below `prefix` (absolute). No pip and
    /// no Poetry knows of it there.
    pub fn new(distribution: &str, version: &str, command: impl Into<AnyPart>, prefix: &str) -> Self {
        let [distribution, version, prefix] = [distribution, version, prefix].map(str::to_owned);
        let (command, told) = (command.into(), Told::default());
        Self(Rc::new(Built { distribution, version, command, prefix, told }))
    }
}

handle!(Wheel, named);

impl Built {
    fn scheme(&self, expansion: &Expansion<'_>) -> Result<Scheme> {
        let folder = |below: &str| inside(&format!("{}{below}", self.prefix));
        Ok(Scheme {
            library: folder("")?,
            scripts: folder("/bin")?,
            data: folder("")?,
            headers: folder("/include")?,
            interpreter: Scheme::of(expansion.lock, PIP)?.interpreter,
            installer: "assemble\n".to_owned(),
        })
    }
}

impl Part for Built {
    fn made_with(&self) -> Vec<AnyPart> {
        vec![self.command.clone()]
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let Self { distribution, version, .. } = self;
        let [file] = expansion.trees(&self.command)?[..] else {
            return Err(RecipeError(format!(
                "the wheel of `{distribution}` is made by what is not one step"
            )));
        };
        let wheel =
            WheelInput { filename: format!("{distribution}-{version}{ANY_TAGS}"), file, requested: false };
        let layout = Layout::Site(self.scheme(expansion)?);
        let name = self.told.name.clone().unwrap_or_else(|| format!("{distribution} {version}"));
        let unpacked = UnpackWheels { wheels: vec![wheel], layout };
        let tree = expansion.graph.add(&name, Builder::UnpackWheels(unpacked));
        let step = self.told.step.clone().unwrap_or_else(|| name.clone());
        let created_by = self.told.history.clone().unwrap_or_else(|| format!("{name} in {}", self.prefix));
        Ok(vec![Layer { tree, step, created_by }.into()])
    }
}
