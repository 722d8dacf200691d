//! The recipes of a program, as the engine asks for them.

use std::collections::BTreeSet;

use super::{Base, ImageRecipe, PythonFrom, RecipeError, Recipes, Result, Variant};
use crate::application;
use crate::image::Image;
use crate::lock::{Lock, Requirements};
use crate::project::Project;

/// What declares an image, upon a base.
type Declare = dyn Fn(Base) -> Result<ImageRecipe> + Sync;

/// One image that can be built, and what declares it.
pub struct Declared {
    variant: Variant,
    declare: Box<Declare>,
}

/// An image by its name, with a line about it, and the function that declares it.
pub fn variant(
    name: &'static str,
    description: &'static str,
    declare: impl Fn(Base) -> Result<ImageRecipe> + Sync + 'static,
) -> Declared {
    Declared { variant: Variant { name, description }, declare: Box::new(declare) }
}

/// The images that a team's program can build; they share a lock.
pub struct Program {
    declared: Vec<Declared>,
    default: Option<Box<DefaultVariant>>,
    pythons: fn(Base) -> Option<&'static str>,
}

/// Which variant is meant where none is named, by what the environment says.
type DefaultVariant = dyn Fn(&dyn Fn(&str) -> Option<String>) -> Result<&'static str> + Sync;

impl<const COUNT: usize> From<[Declared; COUNT]> for Program {
    fn from(declared: [Declared; COUNT]) -> Self {
        Self::new(declared)
    }
}

impl Program {
    /// The first of them is built where none is named.
    pub fn new(declared: impl IntoIterator<Item = Declared>) -> Self {
        Self { declared: declared.into_iter().collect(), default: None, pythons: |_| None }
    }

    /// Which variant is built where none is named, by what the environment says.
    #[must_use]
    pub fn default_by(
        mut self,
        choose: impl Fn(&dyn Fn(&str) -> Option<String>) -> Result<&'static str> + Sync + 'static,
    ) -> Self {
        self.default = Some(Box::new(choose));
        self
    }

    /// Says which Python a base brings, `3.11`, so that a project which needs another can be told where
    /// there is one.
    #[must_use]
    pub fn pythons(mut self, version: fn(Base) -> Option<&'static str>) -> Self {
        self.pythons = version;
        self
    }

    /// A variant's name is one, and is its image's tag (OCI distribution-spec, "Pulling manifests").
    fn check_names(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for Declared { variant: Variant { name, .. }, .. } in &self.declared {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            if !(1..=128).contains(&name.len()) || !name.bytes().all(plain) || name.starts_with(['.', '-']) {
                return Err(RecipeError(format!(
                    "`{name}` is no name of a variant: it is the tag of its image"
                )));
            }
            if !names.insert(name) {
                return Err(RecipeError(format!("two variants are called `{name}`")));
            }
        }
        Ok(())
    }

    fn required(&self, base: Base, python: PythonFrom) -> Result<Requirements> {
        let mut requirements = Requirements::default();
        requirements.python.system = python == PythonFrom::System;
        self.check_names()?;
        for Declared { variant, declare } in &self.declared {
            let required = declare(base).and_then(|image| image.require(&mut requirements));
            required.map_err(|error| RecipeError(format!("the recipe of `{}`: {error}", variant.name)))?;
        }
        Ok(requirements)
    }

    fn find(&self, name: &str) -> Result<&Declared> {
        let found = self.declared.iter().find(|declared| declared.variant.name == name);
        found.ok_or_else(|| RecipeError(format!("there is no variant `{name}`")))
    }
}

impl Recipes for Program {
    fn variants(&self) -> Vec<Variant> {
        self.declared.iter().map(|declared| declared.variant.clone()).collect()
    }

    fn default_variant(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<&'static str> {
        match (&self.default, &self.declared[..]) {
            (Some(choose), _) => choose(environment),
            (None, [first, ..]) => Ok(first.variant.name),
            (None, []) => Err(RecipeError("the program declares no image".to_owned())),
        }
    }

    fn requirements(&self, base: Base, python: PythonFrom) -> Result<Requirements> {
        let own = self.required(base, PythonFrom::Recipe)?;
        match python {
            PythonFrom::Recipe => Ok(own),
            PythonFrom::System if own.python.standalone.is_some() => self.required(base, python),
            PythonFrom::System => Err(RecipeError(
                "the recipes name no Python of their own that another could stand in for".to_owned(),
            )),
        }
    }

    fn python(&self, base: Base) -> Option<&'static str> {
        (self.pythons)(base)
    }

    fn manifests(&self) -> Vec<&'static str> {
        application::MANIFEST.to_vec()
    }

    fn image(&self, name: &str, base: Base, lock: &Lock, project: &Project) -> Result<Image> {
        let Declared { variant, declare } = self.find(name)?;
        declare(base)?.described(name, variant.description, lock).expand(name, lock, project)
    }

    fn base_image(&self, name: &str, base: Base, lock: &Lock) -> Result<Image> {
        let missing = || RecipeError(format!("the recipe of `{name}` declares no base of its own"));
        let below = (self.find(name)?.declare)(base)?.into_base().ok_or_else(missing)?;
        below.expand(name, lock, &Project::default())
    }
}
