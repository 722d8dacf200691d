//! What a promised library is for, where its distribution came from another index.
//!
//! A recipe promises what the file of the manifest's own source carries. Another index serves another
//! build under the same version, so what can be promised of that is not known before the file is read;
//! and a promise must be known before anything is built, for it is in the image's labels and decides
//! `--variant auto`. So the file is read while locking, once: it is locked by its digest, and so is
//! what was read. Where nothing is substituted, the recipe's word stands, and building checks it.

use assemble_layers::BlobDigest;
use assemble_layers::derivation::{Fetch, Origin};
use assemble_layers::lock::{Distribution, GpuCode, GpuRequirement, Lock};

use crate::inspect::gpu;
use crate::pack::{Contents, zip};
use crate::realise::Engine;
use crate::{Error, Kind, Result};

/// Reads what `lock` needs read; `known` may have it already.
///
/// # Errors
/// A file that is served nowhere, or that has no such library or no device code.
pub fn read(engine: &Engine<'_>, lock: &Lock, known: Option<&Lock>) -> Result<Vec<GpuCode>> {
    let needed = lock.requirements.gpu.iter().filter_map(|it| Some((it, lock.substituted(it)?)));
    let codes = needed.map(|(requirement, distribution)| {
        match known.and_then(|known| recorded(known, requirement, distribution)) {
            Some(code) => Ok(code.clone()),
            None => read_wheel(engine, requirement, distribution),
        }
    });
    codes.collect()
}

/// What a lock has recorded of a library in this very file.
fn recorded<'a>(
    lock: &'a Lock,
    requirement: &GpuRequirement,
    distribution: &Distribution,
) -> Option<&'a GpuCode> {
    let same =
        |code: &&GpuCode| code.library == requirement.library && code.sha256 == distribution.file.sha256;
    lock.gpu.iter().find(same)
}

/// The libraries of which a lock must have recorded something, and has not.
pub fn unread(lock: &Lock) -> impl Iterator<Item = &str> {
    let unread = lock.requirements.gpu.iter().filter(|requirement| {
        lock.substituted(requirement).is_some_and(|file| recorded(lock, requirement, file).is_none())
    });
    unread.map(|requirement| requirement.library.as_str())
}

fn read_wheel(
    engine: &Engine<'_>,
    requirement: &GpuRequirement,
    distribution: &Distribution,
) -> Result<GpuCode> {
    let file = &distribution.file;
    let library = &requirement.library;
    let wrong = |how: String| {
        Error::new(Kind::Input, format!("`{}` {how}", file.name)).hint(format!(
            "the recipe promises which GPUs `{library}` is for; another index may serve a build with it"
        ))
    };
    let origin = Origin::Python { project: distribution.name.clone(), source: distribution.source.clone() };
    let fetch = Fetch { file: file.name.clone(), sha256: file.sha256, size: file.size, origin };
    let path = engine.fetch(&fetch)?;
    let blob = BlobDigest(file.sha256);
    let members = zip::members(&path, blob, &file.name)?;
    let found = members.iter().find(|(path, _)| path.name() == library.as_bytes());
    let (path, member) = found.ok_or_else(|| wrong(format!("has no `{library}`")))?;
    let file_of = |blob| engine.store.blob_file(blob);
    let working = engine.store.working_folder()?;
    let mut contents = Contents::new(&file_of);
    let (code, unsound) = gpu::of_content(path, &member.content, &mut contents, working.path())?;
    if let Some(how) = unsound {
        return Err(wrong(format!("has a `{library}` that cannot be read: {how}")));
    }
    match code.targets() {
        targets if targets.is_empty() => Err(wrong(format!("has a `{library}` without code for any GPU"))),
        targets => Ok(GpuCode { library: library.clone(), sha256: file.sha256, targets }),
    }
}
