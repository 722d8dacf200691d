//! `assemble base`: what lies under an image, as an image for others to build upon.

use assemble_layers::lock::{Lock, Requirements};
use assemble_layers::recipe::{Base, PythonFrom, RecipeError, Recipes, Variant};
use assemble_layers::{Image, Project};

use super::image::{self, Arguments};
use crate::{Error, Kind, Result};

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    match arguments.base() {
        Base::Archive => image::run(&BaseImages(recipes), arguments),
        Base::Registry => Err(Error::new(Kind::Usage, "a registry's base is an image already")
            .hint("`skopeo copy` takes it elsewhere; without `--base registry` the archive's is made")),
    }
}

/// The recipes' bases in place of their images.
struct BaseImages<'a>(&'a dyn Recipes);

impl Recipes for BaseImages<'_> {
    fn variants(&self) -> Vec<Variant> {
        self.0.variants()
    }

    fn default_variant(
        &self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<&'static str, RecipeError> {
        self.0.default_variant(environment)
    }

    fn requirements(&self, base: Base, python: PythonFrom) -> Result<Requirements, RecipeError> {
        self.0.requirements(base, python)
    }

    fn python(&self, base: Base) -> Option<&'static str> {
        self.0.python(base)
    }

    fn manifests(&self) -> Vec<&'static str> {
        self.0.manifests()
    }

    fn image(
        &self,
        variant: &str,
        base: Base,
        lock: &Lock,
        _project: &Project,
    ) -> Result<Image, RecipeError> {
        self.0.base_image(variant, base, lock)
    }

    fn base_image(&self, variant: &str, base: Base, lock: &Lock) -> Result<Image, RecipeError> {
        self.0.base_image(variant, base, lock)
    }
}
