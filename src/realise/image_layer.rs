//! Layers of a base image: known before they are here, fetched where somebody reads them.

use std::io::{BufReader, Read};
use std::time::Duration;

use assemble_layers::derivation::ImageLayer;
use assemble_layers::{BlobDigest, Key};

use super::{Event, Had, Realisation, Realised, RealisedLayer};
use crate::Result;
use crate::bounded::Limited;
use crate::pack::image_layer;
use crate::store::Packed;

/// Progress is told in steps of as many bytes.
const STEP: u64 = 1 << 20;

/// The tree, which need not be here.
pub(super) fn realised(layer: &ImageLayer, key: Key) -> Realised {
    Realised {
        diff_id: layer.diff_id,
        size: layer.size,
        had: Had::Base,
        took: Duration::ZERO,
        key,
        cost: Duration::ZERO,
    }
}

pub(super) fn as_layer(layer: &ImageLayer) -> RealisedLayer {
    RealisedLayer {
        diff_id: layer.diff_id,
        packed: Packed { digest: layer.digest, size: layer.size },
        compression: layer.compression,
        had: Had::Base,
        took: Duration::ZERO,
    }
}

impl Realisation<'_> {
    /// Puts the packed layer into the store.
    pub(super) fn fetch_image_layer(&self, layer: &ImageLayer) -> Result<()> {
        let store = self.engine.store;
        if store.has_blob(layer.digest) || self.engine.substitute(layer.digest, None, Duration::ZERO) {
            return Ok(());
        }
        let _permit = self.downloads.connection();
        let file = format!("{} {}", layer.repository, &layer.digest.hex()[..12]);
        self.engine.fetcher.image_layer(layer, &mut |reader| {
            let (mut done, size, events) = (0, layer.size, self.engine.events.clone());
            let file = file.clone();
            let mut told = Told(reader, move |read| {
                if done / STEP != (done + read) / STEP {
                    let _ = events.send(Event::Downloading { file: file.clone(), done: done + read, size });
                }
                done += read;
            });
            store.put_verified(&mut told, layer.digest)
        })?;
        self.engine.send(Event::Downloaded { file, size: layer.size });
        Ok(())
    }

    /// Puts the layer's tree and its content into the store.
    pub(super) fn unpack_image_layer(&self, layer: &ImageLayer) -> Result<()> {
        let (store, tar) = (self.engine.store, BlobDigest(layer.diff_id.0));
        if !store.has_blob_file(tar) {
            self.fetch_image_layer(layer)?;
            let packed = BufReader::with_capacity(1 << 18, store.open_blob(layer.digest)?);
            // Nobody says how large the tar is: its digest is compared when it has ended.
            let what = format!("the layer `{}` of `{}`", layer.digest, layer.repository);
            let unpacked = image_layer::unpacked(packed)?;
            let mut unpacked = Limited::to_room(unpacked, store.folder(), what)?;
            store.put_reader(&mut unpacked, tar).map_err(|error| {
                error.within(format!(
                    "the layer `{}` of `{}` is not what its image says",
                    layer.digest, layer.repository
                ))
            })?;
        }
        let tree = image_layer::read(BufReader::with_capacity(1 << 18, store.open_blob(tar)?), tar);
        let tree =
            tree.map_err(|error| error.within(format!("`{}` of `{}`", layer.digest, layer.repository)))?;
        store.put_tree(layer.diff_id, &tree)
    }
}

/// Tells how much is read.
struct Told<'a, F>(&'a mut dyn Read, F);

impl<F: FnMut(u64)> Read for Told<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        (self.1)(read as u64);
        Ok(read)
    }
}
