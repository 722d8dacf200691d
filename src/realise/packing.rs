//! Layers: a tree that is real, packed, and in the store where somebody needs its bytes.

use std::time::{Duration, Instant};

use assemble_layers::image::Layer;
use assemble_layers::pack::Compression;
use assemble_layers::{Builder, DiffId, Image, Key, NodeId, Pack, Packer};

use super::{Engine, Event, Had, Realisation, Realised, at_once, image_layer, lock};
use crate::pack::{Contents, gzip};
use crate::store::{Findings, Outcome, Packed, Record};
use crate::{Error, Kind, Result};

/// A layer whose bytes are known, and where to have them: the store has it, packed, or a cache or a
/// base image's registry.
#[derive(Clone, Debug)]
pub struct RealisedLayer {
    pub diff_id: DiffId,
    pub packed: Packed,
    pub compression: Compression,
    pub had: Had,
    pub took: Duration,
}

impl Engine<'_> {
    /// The key of packing a tree.
    pub(super) fn packing_key(&self, tree: DiffId) -> Key {
        Pack { tree, packer: self.packer }.key()
    }

    /// Puts the layers that `wanted` takes into the store, packed, whatever that needs.
    ///
    /// # Errors
    /// As [`Engine::realise`]; a base image's registry that does not serve a layer. A layer that only a
    /// cache's record knew, and that was built to other bytes: [`Engine::is_current`] tells that the image
    /// is to be made anew.
    pub fn obtain(
        &self,
        image: &Image,
        layers: &[RealisedLayer],
        wanted: impl Fn(&RealisedLayer) -> bool,
    ) -> Result<()> {
        let lacking = |layer: &RealisedLayer| wanted(layer) && !self.store.has_blob(layer.packed.digest);
        let nodes = image.layers.iter().zip(layers).filter(|(_, layer)| lacking(layer));
        let nodes: Vec<_> = nodes.map(|(declared, _)| declared.tree).collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let run = Realisation::new(self, &image.graph);
        at_once(nodes.into_iter(), |node| run.layer_in_store(node)).map(|_: Vec<()>| ())?;
        match layers.iter().find(|layer| lacking(layer)) {
            None => Ok(()),
            Some(layer) => {
                let error = format!("the layer `{}` was built again, to other bytes", layer.packed.digest);
                Err(Error::new(Kind::Build, error).hint("run it again: what was built now is in the store"))
            }
        }
    }

    /// Puts one layer into the store, packed, if it is not there.
    ///
    /// # Errors
    /// As [`Engine::obtain`].
    pub fn obtain_layer(&self, image: &Image, layer: &Layer, packed: Packed) -> Result<()> {
        match self.store.has_blob(packed.digest) {
            true => Ok(()),
            false => Realisation::new(self, &image.graph).layer_in_store(layer.tree),
        }
    }
}

impl Realisation<'_> {
    /// A layer: its tree, and what the tree packed is; where a cache has that it may stay `elsewhere`.
    pub(super) fn layer(&self, node: NodeId, elsewhere: bool) -> Result<RealisedLayer> {
        let realised = self.tree(node)?;
        if let Builder::ImageLayer(layer) = &self.graph.node(node).builder {
            return Ok(image_layer::as_layer(layer));
        }
        let (packed, had, took) = self.packed(node, &realised, elsewhere)?;
        Ok(RealisedLayer {
            diff_id: realised.diff_id,
            packed,
            compression: self.engine.packer.compression(),
            had: realised.had.max(had),
            took: realised.took + took,
        })
    }

    fn layer_in_store(&self, node: NodeId) -> Result<()> {
        if let Builder::ImageLayer(layer) = &self.graph.node(node).builder {
            let _turn = lock(&self.results[node.index()]);
            return self.fetch_image_layer(layer);
        }
        let realised = self.tree(node)?;
        self.packed(node, &realised, false).map(|_| ())
    }

    fn packed(&self, node: NodeId, realised: &Realised, elsewhere: bool) -> Result<(Packed, Had, Duration)> {
        let key = self.engine.packing_key(realised.diff_id);
        if let Some((Record { outcome: Outcome::Packed(packed), .. }, had)) =
            self.engine.record(key, realised.cost)?
        {
            match self.engine.store.blob_size(packed.digest)? {
                Some(size) if size == packed.size => return Ok((packed, Had::Reused, Duration::ZERO)),
                Some(size) => {
                    self.engine.warn(format!(
                        "the layer `{}` has {size} bytes in the store, and was recorded with {}: it is made again",
                        packed.digest, packed.size
                    ));
                    self.engine.store.discard_corrupt(packed.digest)?;
                    self.engine.store.forget(key)?;
                    return self.pack_now(node, realised, elsewhere);
                }
                None => {}
            }
            if elsewhere && had == Had::Substituted {
                return Ok((packed, had, Duration::ZERO));
            }
            let started = Instant::now();
            if self.engine.substitute(packed.digest, Some(key), realised.cost) {
                let name = self.graph.node(node).name.clone();
                self.put_packed(key, name, packed, started.elapsed())?;
                return Ok((packed, Had::Substituted, started.elapsed()));
            }
        }
        self.pack_now(node, realised, elsewhere)
    }

    fn pack_now(
        &self,
        node: NodeId,
        realised: &Realised,
        elsewhere: bool,
    ) -> Result<(Packed, Had, Duration)> {
        let content = self.tree_with_content(node)?;
        if content.diff_id != realised.diff_id {
            // It came to something else than was promised, which may be packed somewhere.
            return self.packed(node, &content, elsewhere);
        }
        let key = self.engine.packing_key(content.diff_id);
        let realised = content;
        let _permit = self.work.acquire(self.urgencies[node.index()] - 1);
        let started = Instant::now();
        let name = &self.graph.node(node).name;
        self.engine.send(Event::Packing { name: name.clone(), size: realised.size });
        let packed = match self.pack(realised) {
            Err(_) if self.discard_corrupt_content(realised.diff_id)? => {
                self.pack(self.tree_with_content(node)?)
            }
            result => result,
        }?;
        self.put_packed(key, name.clone(), packed, started.elapsed())?;
        self.engine.send(Event::Packed { name: name.clone() });
        Ok((packed, Had::Built, started.elapsed()))
    }

    fn put_packed(&self, key: Key, name: String, packed: Packed, took: Duration) -> Result<()> {
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let builder = format!("pack {}", self.engine.packer.version());
        let outcome = Outcome::Packed(packed);
        let record = Record { builder, name, outcome, milliseconds, findings: Findings::default() };
        self.engine.store.put_record(key, &record)
    }

    fn pack(&self, Realised { diff_id, had, .. }: Realised) -> Result<Packed> {
        let store = self.engine.store;
        let tree = store.required_tree(diff_id)?;
        let working = store.working_folder()?;
        let literal = working.path().join("literal");
        let file_of = |blob| store.blob_file(blob);
        let mut contents = Contents::new(&file_of);
        let output = std::io::BufWriter::with_capacity(1 << 20, fs_err::File::create(&literal)?);
        let packing = match self.engine.packer {
            Packer::Gzip(settings) => gzip::pack(&tree, settings, &mut contents, output, self.engine.jobs)?,
        };
        let sound = match packing.diff_id {
            Some(found) => found == diff_id,
            // What was spliced was copied unread. Whoever built the tree just now has read it.
            None => had == Had::Built || self.is_content_intact(diff_id)?,
        };
        if !sound {
            return Err(Error::new(
                Kind::Store,
                format!("what the store holds of the tree `{diff_id}` is not that tree"),
            ));
        }
        store.adopt(&literal, packing.literal)?;
        if let Some(spliced) = packing.spliced() {
            store.put_spliced(packing.digest, &spliced)?;
        }
        Ok(Packed { digest: packing.digest, size: packing.size })
    }
}
