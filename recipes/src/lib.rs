//! SpectralMC's two images, declared as layers. One file for each thing that has a name.

pub mod binary;
pub mod gpu;
pub mod layers;

use assemble_layers::lock::{DebianRequirements, DebianSet, Lock, PythonRequirements, Requirements};
use assemble_layers::recipe::{RecipeError, Recipes, Variant};
use assemble_layers::{Image, Project, application};

/// Where the application lives in the images.
pub const FOLDER: &str = "/spectralmc";

/// What pip installs before the project.
const TOOLS: [&str; 4] = ["pip", "setuptools", "wheel", "poetry"];

/// The recipes of this repository.
pub struct SpectralMc;

impl Recipes for SpectralMc {
    fn variants(&self) -> Vec<Variant> {
        vec![Variant { name: binary::VARIANT, description: binary::DESCRIPTION }]
    }

    /// `BUILD_FROM_SOURCE`, as the original build had it.
    fn default_variant(
        &self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<&'static str, RecipeError> {
        match environment("BUILD_FROM_SOURCE").as_deref() {
            None | Some("" | "false") => Ok(binary::VARIANT),
            Some("true") => Ok("source"),
            Some(other) => {
                Err(RecipeError(format!("`BUILD_FROM_SOURCE` is `{other}`, neither `true` nor `false`")))
            }
        }
    }

    fn requirements(&self) -> Requirements {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let set = |name: &str, essential, packages: &[&str]| DebianSet {
            name: name.to_owned(),
            essential,
            packages: texts(packages),
        };
        Requirements {
            debian: DebianRequirements {
                architecture: "amd64".to_owned(),
                suites: texts(&["bookworm", "bookworm-updates", "bookworm-security"]),
                components: texts(&["main"]),
                sets: vec![
                    set(layers::base::SET, true, &layers::base::PACKAGES),
                    set(layers::system::SET, false, &layers::system::PACKAGES),
                    // Not in any image: what the lock is made with, and where pip says its default index.
                    set("locking", false, &["python3-pip", "python3-venv"]),
                ],
            },
            python: PythonRequirements {
                tools: texts(&TOOLS),
                collections: [(layers::cuda::COLLECTION.to_owned(), texts(&layers::cuda::DISTRIBUTIONS))]
                    .into(),
            },
            gpu: vec![gpu::requirement()],
        }
    }

    fn manifests(&self) -> Vec<&'static str> {
        application::MANIFEST.to_vec()
    }

    fn image(&self, variant: &str, lock: &Lock, project: &Project) -> Result<Image, RecipeError> {
        match variant {
            binary::VARIANT => binary::image(lock, project),
            _ => Err(RecipeError(format!("there is no variant `{variant}`"))),
        }
    }
}
