//! An image as a recipe declares it: its parts, what a container of it starts with, what is promised.

use std::collections::{BTreeMap, BTreeSet};

use super::container;
use super::part::{AnyPart, Expansion, Laid};
use super::words::{inside, owned, texts};
use super::{RecipeError, Result};
use crate::base_image;
use crate::gpu::{Promise, Target};
use crate::image::{Config, Healthcheck, Layer, Meant};
use crate::lock::{GpuRequirement, Lock, Requirements};
use crate::platform::Platform;
use crate::project::Project;
use crate::{Builder, Image, NodeId};

/// An image, declared. Layers may be named in any order: what they stand on is added below them, and what
/// seldom changes lies low, for an engine that gets another layer unpacks all that lie above it again.
#[derive(Clone)]
pub struct ImageRecipe {
    name: String,
    parts: Vec<AnyPart>,
    as_named: bool,
    config: Config,
    gpus: Vec<Gpus>,
    owners: Vec<(String, Owner)>,
    private_keys: Vec<String>,
    platform: String,
    base: Option<Box<ImageRecipe>>,
    /// Labels that were given two values.
    twice: Vec<String>,
}

/// Whose word counts at a path.
#[derive(Clone)]
enum Owner {
    Part(AnyPart),
    /// The layer of one distribution of a part.
    Distribution(AnyPart, String),
}

/// Which GPUs an image is for, by a library of it.
#[derive(Clone, Debug)]
pub struct Gpus {
    library: String,
    distribution: Option<String>,
    targets: Vec<Target>,
}

impl Gpus {
    /// The library has code for these.
    pub fn of_library(library: &str, targets: impl Into<Vec<Target>>) -> Self {
        Self { library: library.to_owned(), distribution: None, targets: targets.into() }
    }

    /// The library comes in a distribution's wheel, and has code for these; where the wheel comes from
    /// another index than its source's, what was read in that one when it was locked.
    pub fn of_distribution(distribution: &str, library: &str, targets: impl Into<Vec<Target>>) -> Self {
        Self { distribution: Some(distribution.to_owned()), ..Self::of_library(library, targets) }
    }

    fn require(&self, requirements: &mut Requirements) {
        let Some(distribution) = self.distribution.clone() else { return };
        let asked = GpuRequirement { distribution, library: self.library.clone() };
        if !requirements.gpu.contains(&asked) {
            requirements.gpu.push(asked);
        }
    }

    fn promise(&self, lock: &Lock) -> Promise {
        match self.distribution {
            Some(_) => lock.promise(&self.library, &self.targets),
            None => Promise::new(&self.library, self.targets.clone()),
        }
    }
}

impl ImageRecipe {
    /// An image without layers. `name` is what engines and archives call it.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            parts: Vec::new(),
            as_named: false,
            config: Config::default(),
            gpus: Vec::new(),
            owners: Vec::new(),
            private_keys: Vec::new(),
            platform: Platform::default().to_string(),
            base: None,
            twice: Vec::new(),
        }
    }

    /// What its programs run on, as OCI names it; `linux/amd64` unless it is said, and so far nothing else.
    #[must_use]
    pub fn platform(mut self, platform: &str) -> Self {
        platform.clone_into(&mut self.platform);
        self
    }

    /// Adds a part's layers.
    #[must_use]
    pub fn layer(mut self, part: impl Into<AnyPart>) -> Self {
        self.parts.push(part.into());
        self
    }

    /// Adds the layers of parts of one kind.
    #[must_use]
    pub fn layers<P: Into<AnyPart>>(mut self, parts: impl IntoIterator<Item = P>) -> Self {
        self.parts.extend(parts.into_iter().map(Into::into));
        self
    }

    /// Keeps the layers in the order in which they were named; what one stands on must come before it.
    #[must_use]
    pub fn in_this_order(mut self) -> Self {
        self.as_named = true;
        self
    }

    /// Sets variables of the environment, over those of an image that is built upon; in order, for a later
    /// value may be meant to be read after an earlier one.
    #[must_use]
    pub fn env<'v>(mut self, variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Self {
        self.config.environment.extend(owned(variables));
        self
    }

    /// The program that a container starts, and its first arguments.
    #[must_use]
    pub fn entrypoint<T: Into<String>>(mut self, entrypoint: impl IntoIterator<Item = T>) -> Self {
        self.config.entrypoint = texts(entrypoint);
        self
    }

    /// The arguments of the entrypoint, or the command where there is none.
    #[must_use]
    pub fn command<T: Into<String>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.config.command = texts(command);
        self
    }

    /// Where a container starts: absolute.
    #[must_use]
    pub fn folder(mut self, folder: &str) -> Self {
        folder.clone_into(&mut self.config.working_directory);
        self
    }

    /// Who a container runs as: `1000`, `1000:1000` or a name of the image's `passwd`.
    #[must_use]
    pub fn user(mut self, user: impl ToString) -> Self {
        self.config.user = Some(user.to_string());
        self
    }

    /// A port that it listens on: `6006`, `53/udp`.
    #[must_use]
    pub fn port(mut self, port: &str) -> Self {
        let port = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
        if !self.config.exposed_ports.contains(&port) {
            self.config.exposed_ports.push(port);
        }
        self
    }

    /// A folder whose content outlives a container: absolute.
    #[must_use]
    pub fn volume(mut self, folder: &str) -> Self {
        self.config.volumes.push(folder.to_owned());
        self
    }

    /// The signal that asks it to end: `SIGINT`.
    #[must_use]
    pub fn stop_signal(mut self, signal: &str) -> Self {
        signal.clone_into(&mut self.config.stop_signal);
        self
    }

    /// How an engine finds out whether it is well; Docker's, and in no specification of OCI's.
    #[must_use]
    pub fn healthcheck(mut self, healthcheck: Healthcheck) -> Self {
        self.config.healthcheck = Some(healthcheck);
        self
    }

    /// What a `docker build` upon it runs its commands with; Docker's, as [`ImageRecipe::healthcheck`].
    #[must_use]
    pub fn shell<T: Into<String>>(mut self, shell: impl IntoIterator<Item = T>) -> Self {
        self.config.shell = texts(shell);
        self
    }

    /// A label of the image, and an annotation of its manifest.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        let before = self.config.labels.insert(name.to_owned(), value.to_owned());
        self.twice.extend(before.filter(|before| before != value).map(|_| name.to_owned()));
        self
    }

    /// Promises which GPUs it is for; an image that does not keep it is an error.
    #[must_use]
    pub fn gpus(mut self, gpus: Gpus) -> Self {
        self.gpus.push(gpus);
        self
    }

    /// Where two layers hold `path`, or something in that folder, the one of this part counts.
    #[must_use]
    pub fn counts(mut self, path: &str, part: impl Into<AnyPart>) -> Self {
        self.owners.push((path.to_owned(), Owner::Part(part.into())));
        self
    }

    /// As [`ImageRecipe::counts`], of one distribution that a part installs, in a layer of its own.
    #[must_use]
    pub fn counts_of(mut self, path: &str, part: impl Into<AnyPart>, distribution: &str) -> Self {
        self.owners.push((path.to_owned(), Owner::Distribution(part.into(), distribution.to_owned())));
        self
    }

    /// A private key that the image may hold, or a folder of them.
    #[must_use]
    pub fn private_key(mut self, path: &str) -> Self {
        self.private_keys.push(path.to_owned());
        self
    }

    /// What `assemble base` makes: what lies under this image, for others to build upon.
    #[must_use]
    pub fn base(mut self, base: Self) -> Self {
        self.base = Some(Box::new(base));
        self
    }

    /// Adds what its parts ask the lock for.
    ///
    /// # Errors
    /// Parts that ask for two things under one name; what no container can start with.
    pub(super) fn require(&self, requirements: &mut Requirements) -> Result<()> {
        container::check(&self.config)?;
        self.built_for()?;
        if let Some(name) = self.twice.first() {
            return Err(RecipeError(format!("the recipe gives the label `{name}` two values")));
        }
        if self.parts.is_empty() {
            return Err(RecipeError(format!("the image `{}` has no layer", self.name)));
        }
        self.check_order()?;
        AnyPart::with_all_needed(&self.parts).iter().try_for_each(|part| part.require(requirements))?;
        self.gpus.iter().for_each(|gpus| gpus.require(requirements));
        self.base.iter().try_for_each(|base| base.require(requirements))
    }

    fn built_for(&self) -> Result<Platform> {
        let wrong = |error| RecipeError(format!("the platform of the image `{}`: {error}", self.name));
        self.platform.parse().map_err(wrong)
    }

    /// What was named in an order of its own stands above what it is made over.
    fn check_order(&self) -> Result<()> {
        if !self.as_named {
            return Ok(());
        }
        for (at, part) in self.parts.iter().enumerate() {
            let below = AnyPart::with_all_below(std::slice::from_ref(part));
            let place = |lower: &AnyPart| self.parts.iter().position(|named| named.is(lower));
            if let Some(later) = below.iter().filter_map(place).find(|place| *place > at) {
                return Err(RecipeError(format!(
                    "`in_this_order` of `{}` names as number {} what is made over number {}: name that before it",
                    self.name,
                    at + 1,
                    later + 1
                )));
            }
        }
        Ok(())
    }

    /// The image, by what the lock and the project say.
    ///
    /// # Errors
    /// A lock or a project that lacks something.
    pub(super) fn expand(self, variant: &str, lock: &Lock, project: &Project) -> Result<Image> {
        let mut expansion = Expansion::new(&self.parts, lock, project);
        expansion.graph.platform = self.built_for()?;
        let layers = self.ordered(&mut expansion)?;
        let meant = self.meant(&mut expansion, &layers)?;
        let base = self.registry_image()?;
        let mut config = self.config;
        if let Some(base) = base {
            let image = base_image::locked(lock, &base)?;
            config.environment = base_image::environment(image, config.environment);
        }
        Ok(Image {
            name: self.name,
            variant: variant.to_owned(),
            promises: self.gpus.iter().map(|gpus| gpus.promise(lock)).collect(),
            graph: expansion.graph,
            layers,
            config,
            created: lock.created,
            meant,
        })
    }

    /// The image that others build upon.
    pub(super) fn into_base(self) -> Option<Self> {
        self.base.map(|base| *base)
    }

    /// Labels every image: what it is, of which version, and where its distributions came from instead.
    pub(super) fn described(mut self, variant: &str, description: &str, lock: &Lock) -> Self {
        let version = lock.python.root.as_ref().map_or("", |root| &root.version);
        let own = [
            ("org.opencontainers.image.title", self.name.as_str()),
            ("org.opencontainers.image.version", version),
            ("org.opencontainers.image.description", description),
            ("dev.assemble.variant", variant),
            ("dev.assemble.substituted-indexes", &lock.python.substituted().join(",")),
        ];
        let mut labels: BTreeMap<_, _> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        labels.append(&mut self.config.labels);
        self.config.labels = labels;
        self
    }

    /// The recipe's word for the image of a registry that all of it stands on, if it does.
    fn registry_image(&self) -> Result<Option<String>> {
        let parts = AnyPart::with_all_below(&self.parts);
        let names: BTreeSet<_> = parts.iter().filter_map(AnyPart::registry_image).collect();
        let mut names = names.into_iter();
        match (names.next(), names.next()) {
            (Some(one), Some(other)) => {
                let message = format!("`{}` stands on two images, `{one}` and `{other}`", self.name);
                Err(RecipeError(message + ": build upon one of them"))
            }
            (name, _) => Ok(name.map(str::to_owned)),
        }
    }

    fn ordered(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Layer>> {
        let mut laid: Vec<Laid> = Vec::new();
        for part in AnyPart::with_all_below(&self.parts) {
            let layers = expansion.layers(&part)?;
            laid.extend(layers);
        }
        let mut met = BTreeSet::new();
        laid.retain(|laid| met.insert(laid.layer.tree));
        if !self.as_named {
            // Layers that are alike in this stay as they were named; of one part, the largest is the lowest.
            laid.sort_by_key(|laid| match &expansion.graph.node(laid.layer.tree).builder {
                Builder::ImageLayer(_) => 0,
                _ if laid.low => 1,
                _ => 2,
            });
        }
        Ok(laid.into_iter().map(|laid| laid.layer).collect())
    }

    fn meant(&self, expansion: &mut Expansion<'_>, layers: &[Layer]) -> Result<Meant> {
        let mut meant = Meant::default();
        for (path, owner) in &self.owners {
            let (part, distribution) = match owner {
                Owner::Part(part) => (part, None),
                Owner::Distribution(part, distribution) => (part, Some(distribution)),
            };
            let mut trees = expansion.trees(part)?;
            let first_word = |tree: &NodeId| expansion.graph.node(*tree).name.split(' ').next();
            trees.retain(|tree| distribution.is_none_or(|name| first_word(tree) == Some(name)));
            let [tree] = trees[..] else {
                let hint = match distribution {
                    Some(name) => {
                        format!("`{name}` has no layer of its own: `alone([\"{name}\"])` gives it one")
                    }
                    None => "its part has several layers, or none".to_owned(),
                };
                return Err(RecipeError(format!("whose `{path}` counts is not said by one layer: {hint}")));
            };
            if !layers.iter().any(|layer| layer.tree == tree) {
                let name = &expansion.graph.node(tree).name;
                return Err(RecipeError(format!(
                    "`{name}` is to count at `{path}`, and is no layer of the image"
                )));
            }
            meant.owners.insert(inside(path)?, tree);
        }
        meant.private_keys = self.private_keys.iter().map(|path| inside(path)).collect::<Result<_>>()?;
        Ok(meant)
    }
}
