//! Pushing an image to a registry: what it lacks, straight from where the bytes are, and the tag
//! last, so that it never names an image that is not whole.

use std::io::{Cursor, Read};
use std::str::FromStr;
use std::sync::mpsc::Sender;

use assemble_layers::BlobDigest;

use super::mounts::Mounts;
use super::upload::{Amount, Outcome, Source, Uploads, distinct};
use crate::oci::{Assembled, Reference};
use crate::realise::Event;
use crate::registry::{Access, Client, Manifest, Put, Remote, SETTLING, Seen, Which};
use crate::store::{Packed, Store};
use crate::{Error, Kind, Result};

/// Where an image goes: a tag, and maybe the digest that it must have had there before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// With a tag and without a digest.
    pub reference: Reference,
    pub condition: Condition,
}

/// When a tag may be moved. One that has the image already is left as it is, whatever is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Always,
    Absent,
    /// It points to this image.
    Was(BlobDigest),
}

impl FromStr for Destination {
    type Err = Error;

    /// `NAME:TAG`, or `NAME:TAG@sha256:…`, where the digest is what the tag must point to now.
    fn from_str(text: &str) -> Result<Self> {
        let mut reference: Reference = text.parse()?;
        let condition = reference.digest.take().map_or(Condition::Always, Condition::Was);
        if reference.tag.is_none() {
            return Err(Error::new(Kind::Usage, format!("`{text}` names no tag"))
                .hint("`NAME:TAG@sha256:…` moves a tag that still points to that digest"));
        }
        Ok(Self { reference, condition })
    }
}

/// An image as a registry takes it.
pub struct Parts {
    pub manifest: Manifest,
    pub config: Packed,
    pub layers: Vec<Packed>,
}

impl Parts {
    fn blobs(&self) -> impl Iterator<Item = Packed> {
        self.layers.iter().copied().chain([self.config])
    }
}

/// An image that was built. Its layers are hashed as they are sent, by the store's own reader.
pub struct Built<'a> {
    pub store: &'a Store,
    pub image: &'a Assembled,
    /// Puts those layers into the store that are asked for and not there.
    pub obtain: &'a Obtain<'a>,
}

/// See [`Built::obtain`].
pub type Obtain<'a> = dyn Fn(&dyn Fn(BlobDigest) -> bool) -> Result<()> + Sync + 'a;

/// For images whose layers are all in the store.
///
/// # Errors
/// None.
pub fn nothing_to_obtain(_: &dyn Fn(BlobDigest) -> bool) -> Result<()> {
    Ok(())
}

impl Built<'_> {
    pub fn parts(&self) -> Parts {
        let Assembled { config, manifest, media_type, layers, .. } = self.image;
        Parts {
            manifest: Manifest {
                digest: manifest.digest,
                media_type: media_type.to_string(),
                bytes: manifest.bytes.clone(),
            },
            config: Packed { digest: config.digest, size: config.bytes.len() as u64 },
            layers: layers.iter().map(|layer| layer.packed).collect(),
        }
    }
}

impl Source for Built<'_> {
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>> {
        if digest == self.image.config.digest {
            return Ok(Box::new(Cursor::new(self.image.config.bytes.clone())));
        }
        if !self.store.has_blob(digest) {
            (self.obtain)(&|wanted| wanted == digest)?;
        }
        let layer = self.image.layers.iter().find(|layer| layer.packed.digest == digest);
        Ok(match layer {
            Some(layer) => Box::new(self.store.open_packed(layer.packed)?),
            None => Box::new(self.store.open_blob(digest)?),
        })
    }
}

/// What a push came to. The manifest is not counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    pub reference: Reference,
    pub sent: Amount,
    /// Taken by the registry from another of its repositories.
    pub mounted: Amount,
    /// In the repository already.
    pub present: Amount,
}

/// One image on its way to any number of registries.
pub struct Push<'a> {
    pub client: &'a Client,
    pub source: &'a dyn Source,
    pub parts: &'a Parts,
    /// Where it is remembered which repositories hold what.
    pub memory: Option<&'a Store>,
    pub events: Sender<Event>,
}

impl Push<'_> {
    /// Pushes to each destination in order.
    ///
    /// # Errors
    /// The first that failed; its tag is where it was.
    pub fn run(&self, destinations: &[Destination]) -> Result<Vec<Pushed>> {
        destinations.iter().map(|destination| self.one(destination)).collect()
    }

    fn one(&self, destination: &Destination) -> Result<Pushed> {
        let repository = &destination.reference.repository;
        let remote = self.client.repository(repository, Access::Push)?;
        let ours = self.parts.manifest.digest;
        let before = destination.check(&remote, ours)?;
        let mut mounts = Mounts::read(self.memory);
        let uploads = Uploads::new(&remote, self.source, &mounts, self.events.clone());
        let transfer = Transfer { push: self, remote: &remote, uploads: &uploads };
        let is_there = before.as_ref().is_some_and(|seen| seen.digest == ours);
        // A registry that has the manifest took what it names, and may have lost it.
        if is_there || remote.see(Which::Digest(ours))?.is_some() {
            uploads.lost(self.parts.blobs())?;
        } else {
            transfer.missing()?;
        }
        if !is_there {
            transfer.publish(destination)?;
        }
        let outcomes = uploads.outcomes();
        mounts.remember(self.memory, repository, outcomes.keys().copied())?;
        Ok(Pushed::new(destination.reference.clone(), outcomes.into_values()))
    }
}

impl Destination {
    fn tag(&self) -> &str {
        self.reference.tag.as_deref().unwrap_or_default()
    }

    /// What the tag points to now, if it may be moved to `ours`.
    fn check(&self, remote: &Remote<'_>, ours: BlobDigest) -> Result<Option<Seen>> {
        let seen = remote.see(Which::Tag(self.tag()))?;
        let found = seen.as_ref().map(|seen| seen.digest);
        let allowed = match self.condition {
            Condition::Always => true,
            Condition::Absent => found.is_none(),
            Condition::Was(digest) => found == Some(digest),
        };
        if allowed || found == Some(ours) { Ok(seen) } else { Err(self.moved(found)) }
    }

    fn moved(&self, found: Option<BlobDigest>) -> Error {
        let found = found.map_or("nothing".to_owned(), |digest| format!("`{digest}`"));
        let error = match self.condition {
            Condition::Was(digest) => Error::new(Kind::Conflict, format!("`{}` has moved", self.reference))
                .detail(format!("expected `{digest}`"))
                .detail(format!("   found {found}")),
            _ => Error::new(Kind::Conflict, format!("`{}` is there already", self.reference))
                .detail(format!("it points to {found}")),
        };
        error.hint("the tag was left as it is; look at what is there, and push over that")
    }
}

impl Pushed {
    fn new(reference: Reference, outcomes: impl Iterator<Item = (Outcome, u64)>) -> Self {
        let nothing = Amount::default();
        let mut this = Self { reference, sent: nothing, mounted: nothing, present: nothing };
        for (outcome, bytes) in outcomes {
            let amount = match outcome {
                Outcome::Present => &mut this.present,
                Outcome::Mounted => &mut this.mounted,
                Outcome::Uploaded => &mut this.sent,
            };
            *amount = amount.and(bytes);
        }
        this
    }
}

/// One image on its way to one repository.
struct Transfer<'a> {
    push: &'a Push<'a>,
    remote: &'a Remote<'a>,
    uploads: &'a Uploads<'a>,
}

impl Transfer<'_> {
    /// Whatever the repository lacks, the configuration last.
    fn missing(&self) -> Result<()> {
        self.uploads.all(self.push.parts.layers.iter().copied())?;
        self.uploads.all([self.push.parts.config])
    }

    /// Moves the tag, which is asked about once more where it may not have been moved by others.
    fn publish(&self, destination: &Destination) -> Result<()> {
        let manifest = &self.push.parts.manifest;
        let mut pauses = SETTLING.iter();
        loop {
            let before = match destination.condition {
                Condition::Always => None,
                _ => Some(destination.check(self.remote, manifest.digest)?),
            };
            let expected = before.as_ref().map(Option::as_ref);
            let tag = Which::Tag(destination.tag());
            let put = self.remote.put_manifest(tag, &manifest.media_type, &manifest.bytes, expected);
            let put = match put {
                Err(error) if !error.passes() => self.decide(destination, error)?,
                put => put?,
            };
            match put {
                Put::Done => return Ok(()),
                // By another job, maybe, to this very image.
                Put::Moved => match self.remote.see(tag)?.map(|seen| seen.digest) {
                    Some(found) if found == manifest.digest => return Ok(()),
                    found => return Err(destination.moved(found)),
                },
                // It said that it had them, or that it had mounted them: they are sent all the same.
                Put::BlobsMissing(digests, why) => {
                    if let Some(pause) = pauses.next() {
                        std::thread::sleep(*pause);
                        self.resend(&digests)?;
                        continue;
                    }
                    let message = format!("`{}` loses blobs that it was sent", destination.reference);
                    return Err(Error::new(Kind::Network, message)
                        .detail(why)
                        .hint("the registry is at fault; no tag was moved"));
                }
            }
        }
    }

    /// To have lost a race is no refusal, whatever a registry answers to it: what the tag points to now
    /// decides. Tags that cannot be moved are refused in the same way.
    fn decide(&self, destination: &Destination, refused: Error) -> Result<Put> {
        let seen = self.remote.see(Which::Tag(destination.tag()))?;
        match seen.map(|seen| seen.digest) {
            Some(found) if found == self.push.parts.manifest.digest => Ok(Put::Done),
            found => Err(found.map_or(refused.clone(), |found| {
                refused.detail(format!("`{}` points to `{found}`", destination.reference))
            })),
        }
    }

    /// Sends what a registry had promised to have: all of it, where it does not say which it means.
    fn resend(&self, digests: &[BlobDigest]) -> Result<()> {
        let named = |blob: &Packed| digests.is_empty() || digests.contains(&blob.digest);
        distinct(self.push.parts.blobs()).filter(named).try_for_each(|blob| self.uploads.send(blob, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let one: Destination = format!("r.example/a:b@{digest}").parse().unwrap();
        assert_eq!(one.condition, Condition::Was(digest.parse().unwrap()));
        assert_eq!(one.reference.to_string(), "r.example/a:b");
        let latest: Destination = "r.example/a".parse().unwrap();
        assert_eq!((latest.tag(), latest.condition), ("latest", Condition::Always));
        assert!(format!("r.example/a@{digest}").parse::<Destination>().is_err());
    }
}
