//! What a builder reads: that it is here, and is what its name says.

use std::collections::BTreeSet;

use assemble_layers::{BlobDigest, Builder, DiffId, NodeId, Tree};

use super::{Had, Realisation, Realised, at_once, lock};
use crate::Result;

impl Realisation<'_> {
    /// Puts the files among the inputs into the store.
    pub(super) fn fetch_inputs(&self, node: NodeId) -> Result<()> {
        let inputs = self.graph.node(node).builder.inputs();
        let fetches = inputs.into_iter().filter_map(|input| match &self.graph.node(*input).builder {
            Builder::Fetch(fetch) => Some(fetch),
            _ => None,
        });
        self.downloads.all(&fetches.collect::<Vec<_>>()).map(drop)
    }

    /// Makes the trees among the inputs real, their contents present, all at once.
    pub(super) fn obtain_trees(&self, node: NodeId) -> Result<()> {
        let is_tree = |input: &NodeId| !matches!(self.graph.node(*input).builder, Builder::Fetch(_));
        let inputs = self.graph.node(node).builder.inputs();
        let trees: BTreeSet<_> = inputs.into_iter().copied().filter(is_tree).collect();
        at_once(trees.into_iter(), |tree| self.tree_with_content(tree).map(drop))
    }

    /// A tree that a builder can read: every content of it is a file of the store.
    pub(super) fn tree_with_content(&self, node: NodeId) -> Result<Realised> {
        let realised = self.tree(node)?;
        if self.obtain_content(&realised)? {
            return Ok(realised);
        }
        let mut result = lock(&self.results[node.index()]);
        if let Builder::ImageLayer(layer) = &self.graph.node(node).builder {
            self.unpack_image_layer(layer)?;
            return Ok(realised);
        }
        // Another thread may have built it meanwhile.
        let mut promised = result.clone().unwrap_or(Ok(realised))?;
        while !self.obtain_content(&promised)? {
            let built = self.keep_promise(node, &promised);
            *result = Some(built.clone());
            promised = built?;
        }
        Ok(promised)
    }

    /// Whether every blob of the tree is here now: fetched, substituted, or never gone.
    fn obtain_content(&self, realised: &Realised) -> Result<bool> {
        let Some(tree) = self.engine.store.tree(realised.diff_id)? else { return Ok(false) };
        if realised.had != Had::Built {
            self.discard_corrupt_blobs(&tree)?;
        }
        let missing: Vec<BlobDigest> =
            tree.blobs().into_iter().filter(|blob| !self.engine.store.has_blob_file(*blob)).collect();
        let files = self.graph.nodes().filter_map(|(_, node)| match &node.builder {
            Builder::Fetch(fetch) if missing.contains(&BlobDigest(fetch.sha256)) => Some(fetch),
            _ => None,
        });
        self.downloads.all(&files.collect::<Vec<_>>())?;
        for blob in missing {
            if !self.engine.store.has_blob_file(blob)
                && !self.engine.substitute(blob, Some(realised.key), realised.cost)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hashes what a builder is about to read, once a walk. What was built just now has been.
    fn discard_corrupt_blobs(&self, tree: &Tree) -> Result<()> {
        let store = self.engine.store;
        for blob in tree.blobs() {
            if lock(&self.intact).contains(&blob) || !store.has_blob_file(blob) {
                continue;
            }
            let is_intact = store.is_intact(blob)?;
            let mut intact = lock(&self.intact);
            // What another thread has found as well, and has made again, is not removed.
            if is_intact || store.is_intact(blob)? {
                intact.insert(blob);
            } else if store.has_blob_file(blob) {
                self.engine.warn(format!("the blob `{blob}` is corrupt in the store, and is made again"));
                store.discard_blob(blob)?;
            }
        }
        Ok(())
    }

    /// Removes the inputs of a failed build whose bytes are no longer what their names say; whether
    /// there were any, so that it pays to try again.
    pub(super) fn discard_corrupt_inputs(&self, node: NodeId) -> Result<bool> {
        let mut found = false;
        for input in self.graph.node(node).builder.inputs() {
            let Builder::Fetch(fetch) = &self.graph.node(*input).builder else { continue };
            let digest = BlobDigest(fetch.sha256);
            let path = self.engine.store.blob_file(digest);
            if path.exists() && !self.engine.store.is_intact(digest)? {
                self.engine.warn(format!("`{}` is corrupt in the store, and is fetched again", fetch.file));
                self.engine.store.discard_blob(digest)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// Removes what a tree refers to and what is no longer what its name says; whether there was
    /// any, so that it pays to try again.
    pub(super) fn discard_corrupt_content(&self, diff_id: DiffId) -> Result<bool> {
        let corrupt = self.corrupt_content(diff_id)?;
        for blob in &corrupt {
            self.engine.warn(format!("the blob `{blob}` is corrupt in the store, and is made again"));
            self.engine.store.discard_blob(*blob)?;
        }
        Ok(!corrupt.is_empty())
    }

    /// Whether all that a tree refers to is still what its name says.
    pub(super) fn is_content_intact(&self, diff_id: DiffId) -> Result<bool> {
        Ok(self.corrupt_content(diff_id)?.is_empty())
    }

    fn corrupt_content(&self, diff_id: DiffId) -> Result<Vec<BlobDigest>> {
        let store = self.engine.store;
        let mut corrupt = Vec::new();
        for blob in store.required_tree(diff_id)?.blobs() {
            if store.has_blob_file(blob) && !store.is_intact(blob)? {
                corrupt.push(blob);
            }
        }
        Ok(corrupt)
    }
}
