//! Parts: what a recipe names, what it asks the lock for, and what it becomes.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::Result;
use crate::image::Layer;
use crate::lock::{Lock, Requirements};
use crate::project::Project;
use crate::{Graph, NodeId};

/// What a handle can do because it stands for a part that its copies share: be one part among others, and,
/// with `named`, take its words from the recipe.
macro_rules! handle {
    ($handle:ident) => {
        impl From<$handle> for AnyPart {
            fn from(handle: $handle) -> Self {
                Self::of(&handle.0)
            }
        }
    };
    ($handle:ident, named) => {
        handle!($handle);
        handle!(@named $handle);
    };
    (@named $handle:ident) => {
        impl Named for $handle {
            fn told(&mut self) -> &mut Told {
                &mut Rc::make_mut(&mut self.0).told
            }
        }
    };
}
pub(super) use handle;

/// Something that a recipe names.
pub trait Part {
    /// What it stands on: whoever has it in a root or in an image has these, too.
    fn over(&self) -> Vec<AnyPart> {
        Vec::new()
    }

    /// What it is made with and no image needs for it.
    fn made_with(&self) -> Vec<AnyPart> {
        Vec::new()
    }

    /// The recipe's word for the image of a registry that it is, if it is one.
    fn registry_image(&self) -> Option<&str> {
        None
    }

    /// Whether it is the tools that share the project's environment: what they have is not installed again.
    fn is_tools(&self) -> bool {
        false
    }

    /// Adds what it asks the lock for.
    ///
    /// # Errors
    /// Another part asks for something else under the same name.
    fn require(&self, _requirements: &mut Requirements) -> Result<()> {
        Ok(())
    }

    /// What it becomes, lowest first.
    ///
    /// # Errors
    /// A lock or a project that lacks something that it needs, in words.
    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>>;
}

/// A part of any kind. Its copies are the same part.
#[derive(Clone)]
pub struct AnyPart(Rc<dyn Part>);

impl AnyPart {
    /// The part that a handle stands for.
    pub fn of<P: Part + 'static>(handle: &Rc<P>) -> Self {
        Self(Rc::clone(handle) as Rc<dyn Part>)
    }

    /// Whether both are handles of one part.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.id() == other.id()
    }

    fn id(&self) -> *const () {
        Rc::as_ptr(&self.0).cast()
    }

    /// What these parts stand on, and themselves; each once, and after what it stands on.
    pub(super) fn with_all_below(parts: &[Self]) -> Vec<Self> {
        Self::closure(parts, &|part| part.0.over())
    }

    /// What these parts stand on or are made with, and themselves.
    pub(super) fn with_all_needed(parts: &[Self]) -> Vec<Self> {
        Self::closure(parts, &|part| [part.0.over(), part.0.made_with()].concat())
    }

    fn closure(parts: &[Self], next: &dyn Fn(&Self) -> Vec<Self>) -> Vec<Self> {
        let (mut met, mut all) = (HashSet::new(), Vec::new());
        // A part, and whether what it needs stands in `all` already.
        let mut waiting: Vec<_> = parts.iter().rev().map(|part| (part.clone(), false)).collect();
        while let Some((part, is_ready)) = waiting.pop() {
            if is_ready {
                all.push(part);
            } else if met.insert(part.id()) {
                let needed = next(&part);
                waiting.push((part, true));
                waiting.extend(needed.into_iter().rev().map(|part| (part, false)));
            }
        }
        all
    }

    pub(super) fn registry_image(&self) -> Option<&str> {
        self.0.registry_image()
    }

    pub(super) fn is_tools(&self) -> bool {
        self.0.is_tools()
    }

    pub(super) fn require(&self, requirements: &mut Requirements) -> Result<()> {
        self.0.require(requirements)
    }
}

impl<P: Into<Self> + Clone> From<&P> for AnyPart {
    fn from(part: &P) -> Self {
        part.clone().into()
    }
}

/// What a part says of its layers: the name by which people and the lock know it, the step that it belongs
/// to, and what a person would have typed, for the image's history.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The part's name, of its layer too.
    pub name: Option<String>,
    /// The step that its layers belong to.
    pub step: Option<String>,
    /// What the image's history shows.
    pub history: Option<String>,
}

/// A part whose words a recipe can choose.
pub trait Named: Sized {
    #[doc(hidden)]
    fn told(&mut self) -> &mut Told;

    /// Gives it a name.
    #[must_use]
    fn named(mut self, name: &str) -> Self {
        self.told().name = Some(name.to_owned());
        self
    }

    /// Says to which step its layers belong: those of one step are a line of the summary.
    #[must_use]
    fn step(mut self, step: &str) -> Self {
        self.told().step = Some(step.to_owned());
        self
    }

    /// Says what the image's history shows.
    #[must_use]
    fn history(mut self, created_by: &str) -> Self {
        self.told().history = Some(created_by.to_owned());
        self
    }
}

/// A layer, and whether it seldom changes though it stands on nothing: such a one lies low in an image.
#[derive(Clone, Debug)]
pub struct Laid {
    /// The layer.
    pub layer: Layer,
    /// Whether it lies low.
    pub low: bool,
}

impl From<Layer> for Laid {
    fn from(layer: Layer) -> Self {
        Self { layer, low: false }
    }
}

/// From parts to derivations, by what the lock and the project say.
pub struct Expansion<'a> {
    /// The derivations so far.
    pub graph: Graph,
    /// What is locked.
    pub lock: &'a Lock,
    /// The project's files.
    pub project: &'a Project,
    /// Whether the image has the tools in the project's environment.
    pub(super) has_tools: bool,
    /// What parts became. A part is known by its address, and is kept so that no other one gets that.
    known: HashMap<*const (), (AnyPart, Vec<Laid>)>,
}

impl<'a> Expansion<'a> {
    /// For an image of these parts.
    pub(super) fn new(parts: &[AnyPart], lock: &'a Lock, project: &'a Project) -> Self {
        let has_tools = AnyPart::with_all_below(parts).iter().any(AnyPart::is_tools);
        Self { graph: Graph::default(), lock, project, has_tools, known: HashMap::new() }
    }

    /// A part's layers, lowest first.
    ///
    /// # Errors
    /// Those of [`Part::expand`].
    pub fn layers(&mut self, part: &AnyPart) -> Result<Vec<Laid>> {
        if let Some((_, known)) = self.known.get(&part.id()) {
            return Ok(known.clone());
        }
        let layers = part.0.expand(self)?;
        self.known.insert(part.id(), (part.clone(), layers.clone()));
        Ok(layers)
    }

    /// A part's trees, lowest first.
    ///
    /// # Errors
    /// Those of [`Part::expand`].
    pub fn trees(&mut self, part: &AnyPart) -> Result<Vec<NodeId>> {
        Ok(self.layers(part)?.into_iter().map(|laid| laid.layer.tree).collect())
    }

    /// The trees of a root that has these parts, and what they stand on.
    ///
    /// # Errors
    /// Those of [`Part::expand`].
    pub fn root(&mut self, parts: &[AnyPart]) -> Result<Vec<NodeId>> {
        let mut root = Vec::new();
        for part in AnyPart::with_all_below(parts) {
            let trees = self.trees(&part)?;
            root.extend(trees.into_iter().filter(|tree| !root.contains(tree)).collect::<Vec<_>>());
        }
        Ok(root)
    }
}
