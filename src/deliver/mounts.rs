//! Which repositories are known to hold which blobs, so that a registry can be asked to mount them
//! instead of being sent them. Kept in the store; a memory that is wrong or lost costs bytes, no more.

use std::collections::BTreeSet;

use assemble_layers::BlobDigest;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::oci::Repository;
use crate::store::Store;

const NOTE: &str = "repositories";
/// As many are remembered, the last ones used.
const REPOSITORIES: usize = 32;

/// The last one used comes first.
#[derive(Default, Serialize, Deserialize)]
pub struct Mounts(Vec<Holding>);

#[derive(Serialize, Deserialize)]
struct Holding {
    repository: String,
    /// Those of the last image that was pushed there or pulled from there.
    blobs: BTreeSet<BlobDigest>,
}

impl Mounts {
    pub fn read(store: Option<&Store>) -> Self {
        store.and_then(|store| store.note(NOTE)).unwrap_or_default()
    }

    /// A repository of the same registry that holds the blob.
    pub fn holder(&self, digest: BlobDigest, for_repository: &Repository) -> Option<Repository> {
        let holding = self.0.iter().filter(|holding| holding.blobs.contains(&digest));
        let mut repositories = holding.filter_map(|holding| holding.repository.parse::<Repository>().ok());
        repositories
            .find(|it| it.registry() == for_repository.registry() && it.path() != for_repository.path())
    }

    /// Remembers what a repository holds, for this run and the next.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remember(
        &mut self,
        store: Option<&Store>,
        repository: &Repository,
        blobs: impl IntoIterator<Item = BlobDigest>,
    ) -> Result<()> {
        let repository = repository.qualified();
        self.0.retain(|holding| holding.repository != repository);
        self.0.insert(0, Holding { repository, blobs: blobs.into_iter().collect() });
        self.0.truncate(REPOSITORIES);
        store.map_or(Ok(()), |store| store.put_note(NOTE, self))
    }
}

#[cfg(test)]
mod tests {
    use assemble_layers::Sha256;

    use super::*;

    #[test]
    fn the_last_repository_of_the_same_registry_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), crate::sandbox::remove_folder).unwrap();
        let blob = BlobDigest(Sha256::of(b"blob"));
        let name = |text: &str| text.parse::<Repository>().unwrap();
        let mut mounts = Mounts::read(Some(&store));
        for repository in ["r.example/a", "r.example/b", "other.example/c", "r.example/d"] {
            let blobs = if repository.ends_with('d') { vec![] } else { vec![blob] };
            mounts.remember(Some(&store), &name(repository), blobs).unwrap();
        }
        let mounts = Mounts::read(Some(&store));
        let holder = |repository| mounts.holder(blob, &name(repository)).map(|it| it.to_string());
        assert_eq!(holder("r.example/e").as_deref(), Some("r.example/b"));
        assert_eq!(holder("r.example/b").as_deref(), Some("r.example/a"));
        assert_eq!(holder("third.example/e"), None);
    }

    #[test]
    fn memory_is_small() {
        let mut mounts = Mounts::default();
        for number in 0..100 {
            mounts.remember(None, &format!("r.example/{number}").parse().unwrap(), []).unwrap();
        }
        assert_eq!(mounts.0.len(), REPOSITORIES);
    }
}
