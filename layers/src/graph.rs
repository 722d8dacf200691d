//! Derivations and what they need of each other.

use crate::derivation::Builder;
use crate::digest::{Key, Sha256};
use crate::platform::Platform;

/// A derivation's place in its [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(usize);

impl NodeId {
    /// Its number, from 0 on.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A derivation: a builder whose inputs are other derivations.
#[derive(Clone, Debug)]
pub struct Node {
    /// What a person calls it: `torch 2.7.1`.
    pub name: String,
    pub builder: Builder<NodeId>,
}

/// Derivations of an image. Each refers to earlier ones only, so there are no cycles.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// What all of them are built for; it is in their keys.
    pub platform: Platform,
    nodes: Vec<Node>,
}

impl Graph {
    /// Adds a derivation, or finds the equal one that is there.
    pub fn add(&mut self, name: impl Into<String>, builder: Builder<NodeId>) -> NodeId {
        if let Some(known) = self.nodes.iter().position(|node| node.builder == builder) {
            return NodeId(known);
        }
        self.nodes.push(Node { name: name.into(), builder });
        NodeId(self.nodes.len() - 1)
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// A derivation with each input by what it is. `came_to` is asked about those that must be built first.
    ///
    /// # Errors
    /// The first that `came_to` returns.
    pub fn resolve<E>(
        &self,
        id: NodeId,
        mut came_to: impl FnMut(NodeId) -> Result<Sha256, E>,
    ) -> Result<Builder<Sha256>, E> {
        let builder = &self.node(id).builder;
        builder.try_map(|input| self.node(*input).builder.fixed_output().map_or_else(|| came_to(*input), Ok))
    }

    /// The key of a derivation; see [`Graph::resolve`].
    ///
    /// # Errors
    /// The first that `came_to` returns.
    pub fn key<E>(&self, id: NodeId, came_to: impl FnMut(NodeId) -> Result<Sha256, E>) -> Result<Key, E> {
        Ok(self.resolve(id, came_to)?.key(self.platform))
    }

    /// Every derivation, inputs before what needs them.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index), node))
    }
}
