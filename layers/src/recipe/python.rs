//! The Python of an image, and the project itself.

use std::rc::Rc;

use super::distributions::{Collection, ProjectInstall, Tools};
use super::packages::require_set;
use super::part::{AnyPart, Expansion, Laid, Part, handle};
use super::words::{folder, texts};
use super::{Download, Packages, RecipeError, Result};
use crate::front_end::FrontEnd;
use crate::lock::{DebianSet, Requirements, Standalone};
use crate::wheels::sdist::Build;
use crate::{application, standalone};

/// What Poetry is asked with beside the image's own packages; in no image.
const LOCKING: [&str; 2] = ["python3-pip", "python3-venv"];

/// The Python of an image.
#[derive(Clone)]
pub struct Python(Rc<Interpreter>);

#[derive(Clone)]
struct Interpreter {
    system: Packages,
    /// What it is unpacked from; Debian's packages bring it where there is none.
    standalone: Option<Download>,
}

impl Python {
    /// That of Debian's packages, of which `system` or what it stands on brings `python3`.
    pub fn of(system: &Packages) -> Self {
        Self(Rc::new(Interpreter { system: system.clone(), standalone: None }))
    }

    /// One that needs no more of Debian than its C library: an `install_only` archive of
    /// python-build-standalone, which is laid below `/usr/local`, over `system`, an image or packages. Its
    /// version is whatever the archive has; its pip is left out. Where the archive cannot be had,
    /// `assemble lock --python system` takes the one that `system` brings.
    pub fn standalone(system: &Packages, archive: &Download) -> Self {
        Self(Rc::new(Interpreter { system: system.clone(), standalone: Some(archive.clone()) }))
    }

    /// pip, Poetry and others, which are installed before the project: `["pip", "poetry"]`.
    pub fn tools<T: Into<String>>(&self, tools: impl IntoIterator<Item = T>) -> Tools {
        Tools::new(self, texts(tools))
    }

    /// What `poetry install` installs of the project's `pyproject.toml`: its required groups, and those that
    /// [`ProjectInstall::with`] names. Versions are those of the project's `poetry.lock`; where it has none,
    /// `assemble lock` has Poetry resolve them.
    pub fn poetry_install(&self) -> ProjectInstall {
        ProjectInstall::new(self, FrontEnd::Poetry)
    }

    /// What `uv sync` installs by the project's `uv.lock`: its required groups, and those that
    /// [`ProjectInstall::with`] names.
    pub fn uv_sync(&self) -> ProjectInstall {
        ProjectInstall::new(self, FrontEnd::Uv)
    }

    /// What the project's `pylock.toml` has (PEP 751), which many tools write.
    pub fn pylock_install(&self) -> ProjectInstall {
        ProjectInstall::new(self, FrontEnd::Pylock)
    }

    /// Other distributions, by the name of what they are for, resolved by themselves.
    pub fn collection<T: Into<String>>(
        &self,
        name: &str,
        distributions: impl IntoIterator<Item = T>,
    ) -> Collection {
        Collection::new(self, name, texts(distributions))
    }

    /// The project's manifest alone, in the application's folder (absolute), so that it can lie below what
    /// changes often.
    pub fn manifest(&self, folder: &str) -> Manifest {
        Manifest(Rc::new(ManifestData { folder: folder.to_owned() }))
    }

    /// The project's files in a folder (absolute), and the project itself installed as Poetry's editable
    /// install does it.
    pub fn application(&self, folder: &str) -> Application {
        Application(Rc::new(ApplicationData { python: self.clone(), folder: folder.to_owned() }))
    }

    pub(super) fn part(&self) -> AnyPart {
        AnyPart::of(&self.0)
    }

    /// How what has no wheel is built: by its own backend, over the packages that have this Python.
    pub(super) fn build(&self, expansion: &mut Expansion<'_>) -> Result<Build> {
        let root = expansion.root(&[self.part()])?;
        Ok(Build::new(expansion.lock, root)?)
    }
}

/// What is locked together has one Python: its wheels and their folders are those of that version.
fn one_python(is_one: bool) -> Result<()> {
    if is_one {
        return Ok(());
    }
    Err(RecipeError(
        "the recipes share a lock, and have two Pythons: let them name one, of the same packages".to_owned(),
    ))
}

impl From<Python> for AnyPart {
    fn from(python: Python) -> Self {
        python.part()
    }
}

impl Part for Interpreter {
    fn over(&self) -> Vec<AnyPart> {
        vec![(&self.system).into()]
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let over = self.system.registry_image().map(|image| image.name().to_owned());
        let above = self.system.chain();
        let of_debian =
            |set: &DebianSet| LOCKING.iter().all(|package| set.packages.iter().any(|it| it == package));
        let locking = requirements.debian.sets.iter().any(of_debian);
        let python = &mut requirements.python;
        let Some(archive) = self.standalone.as_ref().filter(|_| !python.system) else {
            one_python(python.standalone.is_none())?;
            let name = self.system.set_name("locking");
            let set = DebianSet { name, essential: false, packages: texts(LOCKING), over, above };
            let known = requirements.debian.sets.iter().find(|known| known.name == set.name);
            one_python(known.is_none_or(|known| *known == set))?;
            return require_set(requirements, set);
        };
        let file = archive.name().to_owned();
        one_python(!locking && python.standalone.as_ref().is_none_or(|known| known.file == file))?;
        python.standalone.get_or_insert(Standalone { file, over, above });
        AnyPart::from(archive).require(requirements)
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let Some(python) = &expansion.lock.requirements.python.standalone else { return Ok(Vec::new()) };
        let layer = standalone::layer(&mut expansion.graph, expansion.lock, python)?;
        Ok(vec![Laid { layer, low: true }])
    }
}

/// See [`Python::manifest`].
#[derive(Clone)]
pub struct Manifest(Rc<ManifestData>);

struct ManifestData {
    folder: String,
}

handle!(Manifest);

impl Part for ManifestData {
    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let layer = application::manifest(&mut expansion.graph, expansion.project, folder(&self.folder)?)?;
        Ok(vec![layer.into()])
    }
}

/// See [`Python::application`].
#[derive(Clone)]
pub struct Application(Rc<ApplicationData>);

struct ApplicationData {
    python: Python,
    folder: String,
}

handle!(Application);

impl Part for ApplicationData {
    fn over(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let Expansion { graph, lock, project, .. } = expansion;
        Ok(vec![application::layer(graph, lock, project, folder(&self.folder)?)?.into()])
    }
}
