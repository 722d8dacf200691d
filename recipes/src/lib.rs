//! SpectralMC's two images, declared as layers. One file for each thing that has a name.

pub mod binary;
pub mod gpu;
pub mod layers;
pub mod source;

use assemble_layers::image::{Config, Layer, Meant};
use assemble_layers::lock::{DebianRequirements, DebianSet, Lock, PythonRequirements, Requirements};
use assemble_layers::recipe::{Base, RecipeError, Recipes, Variant};
use assemble_layers::{Graph, Image, Project, application};

/// Where the application lives in the images.
pub const FOLDER: &str = "/spectralmc";

/// The original build's own bases, by variant: the indexes that NVIDIA's tags pointed to.
const NVIDIA: [(&str, &str); 2] = [
    (
        binary::VARIANT,
        "nvidia/cuda:12.8.1-devel-ubuntu22.04\
         @sha256:a99a1860ba8e2916e5c3e73b72ec4c4301653a84586e05bfc9a2aa2d58027e97",
    ),
    (
        source::VARIANT,
        "nvidia/cuda:11.8.0-cudnn8-devel-ubuntu22.04\
         @sha256:8f9dd0d09d3ad3900357a1cf7f887888b5b74056636cd6ef03c160c3cd4b1d95",
    ),
];

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

    fn requirements(&self, base: Base) -> Requirements {
        Requirements {
            debian: DebianRequirements {
                architecture: "amd64".to_owned(),
                suites: texts(&["bookworm", "bookworm-updates", "bookworm-security"]),
                // Without `contrib`, NVIDIA's packages want what is not there.
                components: texts(&["main", "contrib", "non-free"]),
                sets: sets(base),
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
            base: match base {
                Base::Archive => [].into(),
                Base::Registry => {
                    NVIDIA.map(|(variant, image)| (variant.to_owned(), image.to_owned())).into()
                }
            },
        }
    }

    fn python(&self, base: Base) -> Option<&'static str> {
        Some(match base {
            Base::Archive => "3.11",
            Base::Registry => "3.10",
        })
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

    fn base_image(&self, variant: &str, lock: &Lock) -> Result<Image, RecipeError> {
        match variant {
            binary::VARIANT => binary::base_image(lock),
            source::VARIANT => source::base_image(lock),
            _ => Err(RecipeError(format!("there is no variant `{variant}`"))),
        }
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Debian's packages, by what they are for.
fn sets(base: Base) -> Vec<DebianSet> {
    let set = |name: &str, essential, packages: &[&str], over: Option<&str>| DebianSet {
        name: layers::base::set(name, over),
        essential,
        packages: texts(packages),
        over: over.map(str::to_owned),
    };
    let system = |over| set(layers::system::SET, false, &layers::system::PACKAGES, over);
    // Not in any image: what the lock is made with, and where pip says its default index.
    let locking = |over| set("locking", false, &["python3-pip", "python3-venv"], over);
    let build = |over| set(layers::pytorch::SET, false, &layers::pytorch::PACKAGES, over);
    let toolchain = |packages, over| set(layers::cuda11::SET, false, packages, over);
    match base {
        Base::Archive => vec![
            set(layers::base::SET, true, &layers::base::PACKAGES, None),
            system(None),
            locking(None),
            toolchain(&layers::cuda11::PACKAGES, None),
            build(None),
        ],
        Base::Registry => {
            let (binary, source) = (Some(binary::VARIANT), Some(source::VARIANT));
            let compilers = toolchain(&layers::cuda11::COMPILERS, source);
            vec![system(binary), locking(binary), system(source), compilers, build(source)]
        }
    }
}

/// An image of what lies under a variant.
fn base_image(
    lock: &Lock,
    variant: &str,
    graph: Graph,
    layers: Vec<Layer>,
    environment: Vec<(String, String)>,
) -> Image {
    let config = Config { environment, command: vec!["/bin/bash".to_owned()], ..Config::default() };
    Image {
        name: "spectralmc-base".to_owned(),
        variant: variant.to_owned(),
        graph,
        layers,
        config,
        promises: Vec::new(),
        created: lock.created,
        meant: Meant::default(),
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
