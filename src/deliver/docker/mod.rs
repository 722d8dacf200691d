//! Loading an image into a Docker engine (or podman), without the layers that it holds already.
//!
//! Docker's classic store, and podman, keep layers unpacked and know each by its chainID, a digest over
//! the diffIDs of it and of all below it: what an image there has in common with ours *from the bottom
//! up* need not be sent. containerd's store keeps the blobs: what *any* whole image there has in common
//! with ours need not be sent; that it packed those layers to the same bytes is likely, not certain.
//!
//! So what the engine says it holds is a guess, and is found out to be right or wrong afterwards:
//!
//! 1. An archive without those layers is loaded, and without any name.
//! 2. The answer is read to its end, and the engine is asked for the image by its digest: its layers
//!    must be ours, and containerd's store must say that it has every blob.
//! 3. On any doubt the whole archive follows, and is judged the same way.
//! 4. Only then the image gets its names: no name ever stands for a broken one.

mod endpoint;
mod engine;
mod http;
mod tls;

pub use engine::Engine;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::mpsc::Sender;

use assemble_layers::{BlobDigest, DiffId};

use super::archive::Stream;
use super::push::Built;
use crate::oci::{Assembled, Reference};
use crate::realise::Event;
use crate::{Error, Kind, Result};
use engine::{Held, Kept};

/// What might be sent, in bytes, while an engine answers one question about what it holds: containerd's
/// store takes some 15 ms for an image, to ask for and to list.
const QUESTION: u64 = 256 << 10;

/// What is between two reports on how far sending is, in bytes.
const STEP: u64 = 1 << 20;

/// What loading came to, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// All that was sent, headers of the archive included, however often it took.
    pub sent: u64,
    /// Of layers, packed, that were not.
    pub spared: u64,
}

/// Loads an image, whole, and then gives it its names.
///
/// # Errors
/// The engine's; those of the store.
pub fn load(
    engine: &Engine,
    built: &Built<'_>,
    names: &[Reference],
    events: &Sender<Event>,
) -> Result<Loaded> {
    let loading = Loading { engine, built, image: built.image, names, events };
    let (id, loaded) = loading.ensure()?;
    for name in names {
        engine.tag(id, name)?;
    }
    Ok(loaded)
}

struct Loading<'a> {
    engine: &'a Engine,
    built: &'a Built<'a>,
    image: &'a Assembled,
    names: &'a [Reference],
    events: &'a Sender<Event>,
}

/// How sure it is that an image can run, and can be saved and pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Whole,
    /// It is there, and the engine cannot say whether all of it is.
    Unknown,
}

impl Loading<'_> {
    /// Makes the engine hold the image, and says under which digest.
    fn ensure(&self) -> Result<(BlobDigest, Loaded)> {
        if let Some((id, Trust::Whole)) = self.found()? {
            let all = self.blobs(&vec![true; self.image.layers.len()], true);
            return Ok((id, Loaded { sent: 0, spared: self.size_of(&all) }));
        }
        let mut sent = 0;
        match self.spared() {
            Ok(spared) if !spared.is_empty() => {
                self.obtain(&spared)?;
                match self.load_rest(&spared, &mut sent) {
                    Ok(id) => return Ok((id, Loaded { sent, spared: self.size_of(&spared) })),
                    Err(error) if error.kind() != Kind::Network => return Err(error),
                    Err(doubt) => self.warn(&doubt),
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() != Kind::Network => return Err(error),
            Err(doubt) => self.warn(&doubt),
        }
        self.obtain(&BTreeSet::new())?;
        self.send(&BTreeSet::new(), &mut sent)?;
        match self.found()? {
            Some((id, _)) => Ok((id, Loaded { sent, spared: 0 })),
            None => Err(self.not_held()),
        }
    }

    /// Has all layers here but those that are not sent. What goes wrong is no fault of the engine's.
    fn obtain(&self, spared: &BTreeSet<BlobDigest>) -> Result<()> {
        (self.built.obtain)(&|digest| !spared.contains(&digest))
    }

    /// Sends what the engine seems to lack.
    fn load_rest(&self, spared: &BTreeSet<BlobDigest>, sent: &mut u64) -> Result<BlobDigest> {
        self.send(spared, sent)?;
        match self.found()? {
            Some((id, Trust::Whole)) => Ok(id),
            _ => Err(self.not_held()),
        }
    }

    fn not_held(&self) -> Error {
        Error::new(Kind::Network, "the engine took the image and does not have it whole")
            .detail(format!("manifest {}, configuration {}", self.image.manifest.digest, self.image.config.digest))
            .hint("the engine's own log says more; `assemble image --output FILE.tar` writes the image to a file")
    }

    fn warn(&self, doubt: &Error) {
        let reason = doubt.details().first().map_or(doubt.message(), String::as_str);
        let text = format!("not without the layers that the engine seems to hold, so all are sent: {reason}");
        let _ = self.events.send(Event::Warning(text));
    }

    /// The image, if the engine holds it and does not say that something is missing. The classic store
    /// and podman know it by its configuration, containerd's store by its manifest.
    fn found(&self) -> Result<Option<(BlobDigest, Trust)>> {
        let (config, manifest) = (self.image.config.digest, self.image.manifest.digest);
        for id in [config, manifest] {
            let ours = |held: &Held| held.id == id && held.layers.iter().eq(self.diff_ids());
            match self.engine.image(&id.to_string())?.filter(ours).map(|held| held.kept) {
                None | Some(Kept::Blobs { whole: false }) => {}
                Some(Kept::Unpacked) if id == manifest => return Ok(Some((id, Trust::Unknown))),
                Some(Kept::Unpacked | Kept::Blobs { whole: true }) => return Ok(Some((id, Trust::Whole))),
            }
        }
        Ok(None)
    }

    fn diff_ids(&self) -> impl Iterator<Item = &DiffId> {
        self.image.layers.iter().map(|layer| &layer.diff_id)
    }

    /// The blobs that the engine seems to need no more. What has our names is likely the image's last
    /// state, so it is asked for first; the others as long as they may spare more than asking costs.
    fn spared(&self) -> Result<BTreeSet<BlobDigest>> {
        let mut held = vec![false; self.image.layers.len()];
        for name in self.names {
            if let Some(other) = self.engine.image(&name.to_string())? {
                self.mark_shared(&other, &mut held);
            }
        }
        let mut left = self.size_of(&self.blobs(&held, false));
        if left > QUESTION {
            for id in self.engine.images()? {
                let Some(rest) = left.checked_sub(QUESTION) else { break };
                left = rest;
                if let Some(other) = self.engine.image(&id.to_string())? {
                    self.mark_shared(&other, &mut held);
                    left = left.min(self.size_of(&self.blobs(&held, false)));
                }
            }
        }
        // One blob may be two layers.
        Ok(self.blobs(&held, true).difference(&self.blobs(&held, false)).copied().collect())
    }

    /// The blobs of the layers that are held, or of those that are not.
    fn blobs(&self, held: &[bool], wanted: bool) -> BTreeSet<BlobDigest> {
        let layers = self.image.layers.iter().zip(held).filter(|(_, held)| **held == wanted);
        layers.map(|(layer, _)| layer.packed.digest).collect()
    }

    fn mark_shared(&self, other: &Held, held: &mut [bool]) {
        match other.kept {
            Kept::Unpacked => {
                let common = self.diff_ids().zip(&other.layers).take_while(|(ours, theirs)| ours == theirs);
                held[..common.count()].fill(true);
            }
            Kept::Blobs { whole: false } => {}
            Kept::Blobs { whole: true } => {
                let theirs: BTreeSet<_> = other.layers.iter().collect();
                for (ours, held) in self.diff_ids().zip(held) {
                    *held |= theirs.contains(ours);
                }
            }
        }
    }

    fn size_of(&self, blobs: &BTreeSet<BlobDigest>) -> u64 {
        let sizes: BTreeMap<_, _> =
            self.image.layers.iter().map(|layer| (layer.packed.digest, layer.packed.size)).collect();
        sizes.iter().filter(|(digest, _)| blobs.contains(digest)).map(|(_, size)| size).sum()
    }

    fn send(&self, spared: &BTreeSet<BlobDigest>, sent: &mut u64) -> Result<()> {
        let archive = Stream::without(self.image, spared)?;
        let size = archive.size()?;
        let result = self.engine.load(size, &mut |out| {
            let mut progress = Progress { out, done: 0, size, reported: None, events: self.events };
            let result = archive.write(self.built.store, &mut progress);
            *sent += progress.done;
            result
        });
        let _ = self.events.send(Event::Sent);
        result
    }
}

/// Counts what is written, and says how far it is.
struct Progress<'a> {
    out: &'a mut dyn Write,
    done: u64,
    size: u64,
    reported: Option<u64>,
    events: &'a Sender<Event>,
}

impl Write for Progress<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.done += written as u64;
        if self.reported.is_none_or(|reported| self.done >= reported + STEP) || self.done == self.size {
            self.reported = Some(self.done);
            let _ = self.events.send(Event::Sending { done: self.done, size: self.size });
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
