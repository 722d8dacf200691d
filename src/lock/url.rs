//! Files at the addresses that recipes name: what they are today.

use assemble_layers::BlobDigest;
use assemble_layers::lock::UrlFile;

use crate::Result;
use crate::fetch::Fetcher;
use crate::store::Store;

/// A file is not larger, in bytes.
const LARGEST: u64 = 64 << 30;

/// Fetches the file at an address, and says what it is. It is in the store then.
///
/// # Errors
/// Those of the network and the disk.
pub(super) fn look(fetcher: &Fetcher, store: &Store, url: &str) -> Result<UrlFile> {
    let working = store.working_folder()?;
    let path = working.path().join("file");
    let mut file = fs_err::File::options().read(true).write(true).create_new(true).open(&path)?;
    let sha256 = fetcher.copy(url, LARGEST, &mut file)?;
    let size = file.metadata()?.len();
    store.adopt(&path, BlobDigest(sha256))?;
    Ok(UrlFile { sha256, size })
}
