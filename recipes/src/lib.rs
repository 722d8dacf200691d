//! SpectralMC's two images, declared as layers. One file for each thing that has a name.

pub mod binary;
pub mod gpu;
pub mod layers;
pub mod source;

use assemble_layers::image::Config;
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
        vec![
            Variant { name: binary::VARIANT, description: binary::DESCRIPTION },
            Variant { name: source::VARIANT, description: source::DESCRIPTION },
        ]
    }

    /// `BUILD_FROM_SOURCE`, as the original build had it.
    fn default_variant(
        &self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<&'static str, RecipeError> {
        match environment("BUILD_FROM_SOURCE").as_deref() {
            None | Some("" | "false") => Ok(binary::VARIANT),
            Some("true") => Ok(source::VARIANT),
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
                // Without `contrib`, NVIDIA's packages want what is not there.
                components: texts(&["main", "contrib", "non-free"]),
                sets: vec![
                    set(layers::base::SET, true, &layers::base::PACKAGES),
                    set(layers::system::SET, false, &layers::system::PACKAGES),
                    // Not in any image: what the lock is made with, and where pip says its default index.
                    set("locking", false, &["python3-pip", "python3-venv"]),
                    set(layers::cuda11::SET, false, &layers::cuda11::PACKAGES),
                    set(layers::pytorch::SET, false, &layers::pytorch::PACKAGES),
                ],
            },
            python: PythonRequirements {
                tools: texts(&TOOLS),
                collections: [
                    (layers::cuda::COLLECTION.to_owned(), texts(&layers::cuda::DISTRIBUTIONS)),
                    (layers::cuda11::COLLECTION.to_owned(), texts(&layers::cuda11::DISTRIBUTIONS)),
                    (layers::pytorch::COLLECTION.to_owned(), texts(&layers::pytorch::DISTRIBUTIONS)),
                ]
                .into(),
            },
            git: [(layers::pytorch::SOURCE.to_owned(), layers::pytorch::source())].into(),
            gpu: vec![gpu::requirement()],
        }
    }

    fn manifests(&self) -> Vec<&'static str> {
        application::MANIFEST.to_vec()
    }

    fn image(&self, variant: &str, lock: &Lock, project: &Project) -> Result<Image, RecipeError> {
        match variant {
            binary::VARIANT => binary::image(lock, project),
            source::VARIANT => source::image(lock, project),
            _ => Err(RecipeError(format!("there is no variant `{variant}`"))),
        }
    }
}

/// What a container of either variant starts with; `environment` is CUDA's.
fn config(lock: &Lock, variant: &str, description: &str, mut environment: Vec<(String, String)>) -> Config {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    environment.extend([
        variable("LANG", "C.UTF-8"),
        variable("PYTHONUNBUFFERED", "1"),
        variable("PYTHONPATH", FOLDER),
        variable("PYTHONPYCACHEPREFIX", "/opt/pycache"),
    ]);
    let label = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    Config {
        environment,
        entrypoint: ["/usr/bin/tini", "--"].map(str::to_owned).to_vec(),
        command: ["sleep", "infinity"].map(str::to_owned).to_vec(),
        working_directory: FOLDER.to_owned(),
        exposed_ports: vec!["6006/tcp".to_owned()],
        labels: [
            label("title", "spectralmc"),
            label("version", lock.python.root.as_ref().map_or("", |root| &root.version)),
            label("description", description),
            ("dev.assemble.variant".to_owned(), variant.to_owned()),
            ("dev.assemble.substituted-indexes".to_owned(), lock.python.substituted().join(",")),
        ]
        .into(),
    }
}
