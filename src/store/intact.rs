//! Whether what the store holds is what its names say: a disk may have lost a bit, a power failure the
//! end of a file.

use std::io;

use assemble_layers::BlobDigest;
use assemble_layers::digest::Hasher;
use fs_err::File;

use super::{BlobReader, Packed, Store};
use crate::{Error, Kind, Result};

impl Store {
    /// Whether a blob is here as one file and has the bytes that its name says. It is read whole.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn is_intact(&self, digest: BlobDigest) -> Result<bool> {
        let mut hasher = Hasher::new();
        let mut file = match File::open(self.blob_file(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        io::copy(&mut file, &mut hasher)?;
        Ok(BlobDigest(hasher.finish()) == digest)
    }

    /// Opens a blob that must have a size. Where it has another, what is corrupt of it goes, and what is
    /// not stays: the size was recorded wrongly then.
    ///
    /// # Errors
    /// As [`Store::open_blob`]; another size.
    pub fn open_packed(&self, Packed { digest, size }: Packed) -> Result<BlobReader> {
        let blob = self.open_blob(digest)?;
        if blob.size() == size {
            return Ok(blob);
        }
        let how = format!("has {} bytes in the store, and should have {size}", blob.size());
        let error = Error::new(Kind::Store, format!("the blob `{digest}` {how}"));
        Err(match self.discard_corrupt(digest)?.is_empty() {
            false => error.hint("it was removed; run the command again, and it is made again"),
            true => error.detail("it is what its digest says: it was recorded with a wrong size"),
        })
    }

    /// Removes what of a blob is not what its name says: the file, or those of the files that it is ranges
    /// of. It is fetched or built again then.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn discard_corrupt(&self, digest: BlobDigest) -> Result<Vec<BlobDigest>> {
        let mut corrupt = Vec::new();
        if self.has_blob_file(digest) {
            if self.is_intact(digest)? {
                return Ok(corrupt);
            }
            corrupt.push(digest);
        } else if let Some((sources, _)) = self.spliced_sources(digest) {
            for source in sources {
                if self.has_blob_file(source) && !self.is_intact(source)? {
                    corrupt.push(source);
                }
            }
            // Else the ranges themselves are wrong.
            if corrupt.is_empty() {
                corrupt.push(digest);
            }
        }
        corrupt.iter().try_for_each(|blob| self.discard_blob(*blob))?;
        Ok(corrupt)
    }

    /// What is said where the bytes of a blob are not what its name says. In a store of its own, what is
    /// corrupt goes.
    pub(super) fn corrupt_blob(&self, digest: BlobDigest) -> Error {
        let error = Error::new(Kind::Store, format!("the blob `{digest}` is corrupt in the store"));
        let error = error.detail(format!("the store is `{}`", self.folder.display()));
        if self.remove.is_none() {
            return error;
        }
        match self.discard_corrupt(digest) {
            Err(why) => error.detail(why).hint("remove its file in `blobs`, and run the command again"),
            Ok(gone) => {
                let files = gone.iter().map(|blob| blob.hex().to_string()).collect::<Vec<_>>().join("`, `");
                error.hint(format!("`{files}` was removed; run the command again, and it is made again"))
            }
        }
    }
}
