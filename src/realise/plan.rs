//! What realising would do, without doing it.

use std::time::Duration;

use assemble_layers::derivation::Fetch;
use assemble_layers::{BlobDigest, Builder, DiffId, Graph, Image, NodeId};

use super::lookup::{Identity, Lookup};
use super::{Engine, Had};
use crate::net::without_logins;
use crate::store::{Outcome, Packed, Record};
use crate::{Error, Kind, Result};

/// What would happen to one layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It is a base image's, and is fetched where somebody reads it.
    Base,
    /// Its blob is in the store.
    Reuse,
    /// Its record is in a cache.
    Substitute,
    /// Its tree is known, and would be packed again.
    Pack,
    /// Its key is known, and nobody has its record.
    Build,
    /// Its key depends on the result of the derivation named here, which is not built yet.
    Undecided { until: String },
}

/// One layer of a plan.
#[derive(Clone, Debug)]
pub struct Planned {
    pub name: String,
    pub step: String,
    pub state: State,
    /// Of the packed layer, in bytes, where it is known.
    pub size: Option<u64>,
    /// What it would fetch: files, and bytes in all.
    pub fetch: (usize, u64),
}

/// A derivation that is no layer: what layers are made from.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    pub state: State,
    /// What it is made from, or by: a repository and its commit; a command and its environment.
    pub about: Vec<String>,
}

/// What realising an image would do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub layers: Vec<Planned>,
    /// Files that are fetched are not among them.
    pub steps: Vec<Step>,
}

/// A layer that was made: what it holds, and its packed form where that is known.
pub type Made = (DiffId, Option<Packed>);

impl Engine<'_> {
    /// Looks up what is there; builds and fetches nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn plan(&self, image: &Image) -> Result<Plan> {
        let lookup = Lookup::new(self);
        let image = &self.known_whole(image, &lookup)?;
        let layers = image.layers.iter().map(|layer| {
            let (state, size) = self.state(&lookup, &image.graph, layer.tree)?;
            let fetch = match state {
                State::Build | State::Undecided { .. } | State::Pack => self.to_fetch(image, layer.tree),
                State::Base | State::Reuse | State::Substitute => (0, 0),
            };
            let name = image.graph.node(layer.tree).name.clone();
            Ok(Planned { name, step: layer.step.clone(), state, size, fetch })
        });
        let layers = layers.collect::<Result<_>>()?;
        let is_layer = |node: NodeId| image.layers.iter().any(|layer| layer.tree == node);
        let below = image.graph.nodes().filter(|(id, node)| {
            !is_layer(*id) && !matches!(node.builder, Builder::Fetch(_) | Builder::ImageLayer(_))
        });
        let steps = below.map(|(id, node)| {
            let name = node.name.clone();
            Ok(Step { name, state: step_state(&lookup, &image.graph, id)?, about: about(&node.builder) })
        });
        Ok(Plan { layers, steps: steps.collect::<Result<_>>()? })
    }

    /// The image with its layers as they were mended, where all of them are known.
    fn known_whole(&self, image: &Image, lookup: &Lookup<'_>) -> Result<Image> {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let Identity::Known(digest, _) = lookup.identity(&image.graph, layer.tree)? else {
                return Ok(image.clone());
            };
            layers.push(DiffId(digest));
        }
        Ok(self.mended(image, &layers))
    }

    /// An image that was made, as it was made, and its layers.
    ///
    /// # Errors
    /// One was not; those of the store.
    pub fn made(&self, image: &Image) -> Result<(Image, Vec<Made>)> {
        let lookup = Lookup::new(self);
        let image = self.known_whole(image, &lookup)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let Identity::Known(digest, _) = lookup.identity(&image.graph, layer.tree)? else {
                let (variant, layer) = (&image.variant, &image.graph.node(layer.tree).name);
                return Err(Error::new(
                    Kind::Usage,
                    format!("`{variant}` was not built: `{layer}` is not there"),
                )
                .hint(format!("`assemble image --variant {variant}` builds it")));
            };
            if let Builder::ImageLayer(base) = &image.graph.node(layer.tree).builder {
                layers.push((base.diff_id, Some(Packed { digest: base.digest, size: base.size })));
                continue;
            }
            let packed = match self.record(self.packing_key(DiffId(digest)), Duration::ZERO)? {
                Some((Record { outcome: Outcome::Packed(packed), .. }, _)) => Some(packed),
                _ => None,
            };
            layers.push((DiffId(digest), packed));
        }
        Ok((image, layers))
    }

    fn state(&self, lookup: &Lookup<'_>, graph: &Graph, node: NodeId) -> Result<(State, Option<u64>)> {
        if let Builder::ImageLayer(layer) = &graph.node(node).builder {
            return Ok((State::Base, Some(layer.size)));
        }
        let (diff_id, had) = match lookup.identity(graph, node)? {
            Identity::Known(digest, had) => (DiffId(digest), had),
            Identity::Unknown { first } => return Ok((unknown(graph, node, first), None)),
        };
        Ok(match self.record(self.packing_key(diff_id), Duration::ZERO)? {
            Some((record, found)) => match record.outcome {
                Outcome::Packed(packed) if found == Had::Substituted => {
                    (State::Substitute, Some(packed.size))
                }
                Outcome::Packed(packed) if self.store.has_blob(packed.digest) => {
                    (State::Reuse, Some(packed.size))
                }
                Outcome::Packed(packed) => (State::Pack, Some(packed.size)),
                Outcome::Tree { .. } | Outcome::Listing { .. } => (State::Pack, None),
            },
            None if had == Had::Substituted => (State::Substitute, None),
            None => (State::Pack, None),
        })
    }

    /// The files below a derivation that the store has not.
    fn to_fetch(&self, image: &Image, node: NodeId) -> (usize, u64) {
        let inputs = image.graph.node(node).builder.inputs();
        let missing = inputs.into_iter().filter_map(|input| match &image.graph.node(*input).builder {
            Builder::Fetch(fetch) if !self.has(fetch) => Some(fetch.size),
            _ => None,
        });
        missing.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }

    fn has(&self, fetch: &Fetch) -> bool {
        self.store.has_blob_file(BlobDigest(fetch.sha256))
    }
}

fn step_state(lookup: &Lookup<'_>, graph: &Graph, node: NodeId) -> Result<State> {
    Ok(match lookup.identity(graph, node)? {
        Identity::Known(_, Had::Substituted) => State::Substitute,
        Identity::Known(..) => State::Reuse,
        Identity::Unknown { first } => unknown(graph, node, first),
    })
}

/// The state of a derivation that is not known until `first` is built.
fn unknown(graph: &Graph, node: NodeId, first: NodeId) -> State {
    match first == node {
        true => State::Build,
        false => State::Undecided { until: graph.node(first).name.clone() },
    }
}

/// What a person wants to know of a derivation beside its name.
fn about(builder: &Builder<NodeId>) -> Vec<String> {
    match builder {
        Builder::Git(git) => vec![format!("{} at {}", without_logins(&git.url), git.commit)],
        Builder::Run(run) => {
            // A script in the command's arguments is no line.
            let plain = run.command.iter().take_while(|argument| !argument.contains('\n'));
            let command = plain.cloned().collect::<Vec<_>>().join(" ");
            let variables = run.environment.iter().map(|(name, value)| format!("{name}={value}"));
            std::iter::once(command).chain(variables).collect()
        }
        _ => Vec::new(),
    }
}
