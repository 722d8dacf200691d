//! A team's own images in one file: a small real one, with every builder in it.
//!
//! ```text
//! cargo run --example small -- lock  --project examples/small
//! cargo run --example small -- image --project examples/small --output small.tar
//! ```
//!
//! That is all there is to a team's own program: a value that implements [`Recipes`], and a `main`
//! that hands it to the command line. A recipe reads no file and knows no address. It is given the
//! lock and the project's files as data, and answers with data: derivations (what to make) and
//! layers (in which order an image has them). The engine does the rest.

use std::process::ExitCode;

use assemble_layers::derivation::{Effort, Output, Run};
use assemble_layers::image::{Config, Image, Layer, Meant};
use assemble_layers::lock::{DebianRequirements, DebianSet, Lock, PythonRequirements, Requirements};
use assemble_layers::recipe::{Base, RecipeError, Recipes, Variant};
use assemble_layers::sdist::Build;
use assemble_layers::{Builder, Graph, NodeId, Project, application, base_image, debian, wheels};

fn main() -> ExitCode {
    assemble::cli::main(&Small)
}

/// The recipes. They have no state: everything is in the lock and in the project.
struct Small;

/// The one image; another would be another name here, and another arm in [`Recipes::image`].
const VARIANT: &str = "tiny";

/// Where the application lives in the image.
const FOLDER: &str = "/app";

/// The image that it is built upon with `--base registry`: any Debian with Python's packages in its
/// archive. `assemble base` makes one of the archive's; `--base-image tiny=NAME:TAG` names another.
const BASE: &str = "registry.example/team/small-base:tiny";

/// Groups of `pyproject.toml` beside the required ones, as for `poetry install --with`.
const WITH: [&str; 1] = ["notebook"];

/// Wheels of this size or more, in bytes, have a layer of their own: here it is numpy.
const LARGE: u64 = 5_000_000;

impl Recipes for Small {
    fn variants(&self) -> Vec<Variant> {
        vec![Variant {
            name: VARIANT,
            description: "Debian, Python, Poetry, and one small wheel of every kind",
        }]
    }

    fn default_variant(
        &self,
        _environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<&'static str, RecipeError> {
        Ok(VARIANT)
    }

    /// What `assemble lock` resolves. Nobody writes down a version here: that is the lock's.
    fn requirements(&self, base: Base) -> Requirements {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let over = (base == Base::Registry).then_some(VARIANT);
        let set = |name: &str, essential, packages: &[&str]| DebianSet {
            name: name.to_owned(),
            essential,
            packages: texts(packages),
            over: over.map(str::to_owned),
        };
        let mut sets = vec![
            set("system", false, &["python3", "tini"]),
            // In no image: Poetry is asked on a Debian that has these as well.
            set("locking", false, &["python3-pip", "python3-venv"]),
        ];
        if base == Base::Archive {
            sets.insert(0, set("base", true, &["apt", "ca-certificates", "usr-is-merged"]));
        }
        Requirements {
            debian: DebianRequirements {
                architecture: "amd64".to_owned(),
                suites: texts(&["bookworm", "bookworm-updates", "bookworm-security"]),
                components: texts(&["main"]),
                // Each is resolved over those before it, and is a layer of its own.
                sets,
            },
            python: PythonRequirements { tools: texts(&["pip", "poetry"]), ..PythonRequirements::default() },
            // Repositories that are compiled; `recipes/src/layers/pytorch.rs` has one.
            git: [].into(),
            gpu: Vec::new(),
            base: over.map(|variant| (variant.to_owned(), BASE.to_owned())).into_iter().collect(),
        }
    }

    fn manifests(&self) -> Vec<&'static str> {
        application::MANIFEST.to_vec()
    }

    fn image(&self, _variant: &str, lock: &Lock, project: &Project) -> Result<Image, RecipeError> {
        let mut graph = Graph::default();

        // Derivations: each says what it is made from, none says when. Independent ones run at once.
        let Lowest { mut root, image, debian } = lowest(&mut graph, lock);
        let system = debian::unpack_set(&mut graph, &lock.debian, "system", "python and tini", &root);
        // What has no wheel is built by its own backend, in a root of these.
        root.push(system);
        let build = Build::new(lock, root)?;
        let tools = wheels::tools(&mut graph, lock, &build)?;
        let installed = wheels::poetry_install(&mut graph, lock, &WITH, LARGE, &build)?;
        let manifest = application::manifest(&mut graph, project, FOLDER)?;
        let application = application::layer(&mut graph, lock, project, FOLDER)?;

        // Layers, lowest first: what seldom changes lies low, for an engine that gets another layer
        // must unpack all that lie above it again.
        let mut layers = image;
        layers.extend(installed.large);
        layers.extend(debian);
        layers.push(layer("system", system, "apt-get install --no-install-recommends python3 tini"));
        layers.push(tools);
        layers.extend(installed.small);
        layers.push(manifest);
        layers.push(application);
        Ok(Image {
            name: "small".to_owned(),
            variant: VARIANT.to_owned(),
            graph,
            layers,
            config: config(),
            promises: Vec::new(),
            created: lock.created,
            // Two layers with one file, or one with a private key, would be errors: nothing of the kind is
            // meant here.
            meant: Meant::default(),
        })
    }

    /// What `assemble base` makes, for others to build upon.
    fn base_image(&self, _variant: &str, lock: &Lock) -> Result<Image, RecipeError> {
        let mut graph = Graph::default();
        let layers = lowest(&mut graph, lock).debian;
        let config = Config { command: vec!["/bin/bash".to_owned()], ..config() };
        let config = Config { entrypoint: Vec::new(), working_directory: String::new(), ..config };
        let (name, variant) = ("small-base".to_owned(), VARIANT.to_owned());
        let image = Image { name, variant, graph, layers, config, ..Image::default() };
        Ok(Image { created: lock.created, ..image })
    }
}

/// What everything else lies over.
struct Lowest {
    /// What packages are installed over.
    root: Vec<NodeId>,
    /// A registry's image, below all other layers.
    image: Vec<Layer>,
    /// Debian, of its packages.
    debian: Vec<Layer>,
}

fn lowest(graph: &mut Graph, lock: &Lock) -> Lowest {
    if let Some(base) = lock.base.get(VARIANT) {
        let image = base_image::layers(graph, base);
        return Lowest { root: image.iter().map(|layer| layer.tree).collect(), image, debian: Vec::new() };
    }
    let base = debian::unpack_set(graph, &lock.debian, "base", "debian 12", &[]);
    let sources = graph.add("apt sources", apt_sources(base));
    let debian = |tree, created_by| layer("debian", tree, created_by);
    Lowest {
        root: vec![base],
        image: Vec::new(),
        debian: vec![
            debian(base, "essential packages, apt, ca-certificates"),
            debian(sources, "cp /usr/share/doc/apt/examples/sources.list /etc/apt/sources.list"),
        ],
    }
}

/// The builder of last resort, a command in the sandbox: what it changed is the layer. Debian's apt
/// ships its addresses as an example; copied into place, `apt-get` works in the container.
fn apt_sources(base: NodeId) -> Builder<NodeId> {
    let command = ["cp", "/usr/share/doc/apt/examples/sources.list", "/etc/apt/sources.list"];
    Builder::Run(Run {
        root: vec![base],
        files: Vec::new(),
        command: command.map(str::to_owned).to_vec(),
        environment: [].into(),
        working_directory: "/".to_owned(),
        output: Output::Difference,
        effort: Effort::default(),
    })
}

fn layer(step: &str, tree: NodeId, created_by: &str) -> Layer {
    Layer { tree, step: step.to_owned(), created_by: created_by.to_owned() }
}

/// What a container starts with.
fn config() -> Config {
    Config {
        environment: [("PATH", "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin"), ("LANG", "C.UTF-8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        entrypoint: vec!["/usr/bin/tini".to_owned(), "--".to_owned()],
        command: vec!["small".to_owned()],
        working_directory: FOLDER.to_owned(),
        ..Config::default()
    }
}
