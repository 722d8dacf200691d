//! Reading what a tree's entries refer to.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use assemble_layers::digest::Hasher;
use assemble_layers::{BlobDigest, Content, Sha256, TreePath};
use flate2::{Decompress, FlushDecompress, Status};
use fs_err::File;

use crate::{Error, Kind, Result};

/// The most that is read into memory whole, in bytes.
pub const LARGEST_IN_MEMORY: u64 = 64 << 20;

/// How much is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// Opens the files of blobs, each once.
pub struct Contents<'a> {
    file_of: &'a dyn Fn(BlobDigest) -> PathBuf,
    names: HashMap<BlobDigest, String>,
    open: HashMap<BlobDigest, Arc<File>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<'a> Contents<'a> {
    /// `file_of` says where a blob's file is.
    pub fn new(file_of: &'a dyn Fn(BlobDigest) -> PathBuf) -> Self {
        let (names, open) = (HashMap::new(), HashMap::new());
        Self { file_of, names, open, input: vec![0; BUFFER], output: vec![0; BUFFER] }
    }

    /// Blobs whose files are open already, and no others.
    pub fn of_open(files: HashMap<BlobDigest, File>) -> Self {
        let open = files.into_iter().map(|(digest, file)| (digest, Arc::new(file))).collect();
        // Any other blob has an empty name, which names no file.
        Self { open, ..Self::new(&|_| PathBuf::new()) }
    }

    /// What errors call an archive; else it is its file.
    pub fn name(&mut self, blob: BlobDigest, name: &str) {
        self.names.insert(blob, name.to_owned());
    }

    /// The file of a blob.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn file(&mut self, blob: BlobDigest) -> Result<Arc<File>> {
        if let Some(file) = self.open.get(&blob) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open((self.file_of)(blob))?);
        self.open.insert(blob, Arc::clone(&file));
        Ok(file)
    }

    /// Gives the file's bytes to `take`, piece by piece, and checks what can be checked: that a
    /// deflate stream ends where it should and has the size and the CRC-32 that its archive says.
    ///
    /// # Errors
    /// A blob that is not there, or is not what it was said to be; those of `take`.
    pub fn read(
        &mut self,
        path: &TreePath,
        content: &Content,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let file = self.file(content.blob())?;
        match *content {
            Content::Plain { offset, length, .. } => {
                for_each_piece(&file, offset, length, &mut self.input, take)
            }
            Content::Deflated { offset, length, crc32, size, .. } => {
                let name = self.names.get(&content.blob()).cloned();
                let archive = name.unwrap_or_else(|| file.path().display().to_string());
                let claim = Claim { path, archive, length, crc32, size };
                inflate(&file, offset, &claim, &mut self.input, &mut self.output, take)
            }
        }
    }

    /// As [`Contents::read`], into memory: for small files, of [`LARGEST_IN_MEMORY`] at most.
    ///
    /// # Errors
    /// As [`Contents::read`]; a file that is larger.
    pub fn to_vec(&mut self, path: &TreePath, content: &Content) -> Result<Vec<u8>> {
        if content.size() > LARGEST_IN_MEMORY {
            return Err(Error::new(
                Kind::Input,
                format!("`{path}` is larger than {LARGEST_IN_MEMORY} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        self.read(path, content, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The digest of the file's bytes.
    ///
    /// # Errors
    /// As [`Contents::read`].
    pub fn digest(&mut self, path: &TreePath, content: &Content) -> Result<Sha256> {
        let mut hasher = Hasher::new();
        self.read(path, content, &mut |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok(hasher.finish())
    }

    /// Gives `length` bytes of a blob as they are stored.
    ///
    /// # Errors
    /// A blob that is not there or shorter; those of `take`.
    pub fn read_stored(
        &mut self,
        blob: BlobDigest,
        offset: u64,
        length: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let file = self.file(blob)?;
        for_each_piece(&file, offset, length, &mut self.input, take)
    }
}

/// Gives `left` bytes of a file from `offset` on to `take`, a buffer at a time.
pub(super) fn for_each_piece(
    file: &File,
    mut offset: u64,
    mut left: u64,
    buffer: &mut [u8],
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.file().read_at(&mut buffer[..wanted], offset)?;
        if read == 0 {
            return Err(Error::new(
                Kind::Store,
                format!("`{}` is shorter than it was", file.path().display()),
            )
            .hint("remove it, and run the command again: it is fetched or built again"));
        }
        take(&buffer[..read])?;
        offset += read as u64;
        left -= read as u64;
    }
    Ok(())
}

/// What an archive says of a deflated member.
struct Claim<'a> {
    path: &'a TreePath,
    archive: String,
    length: u64,
    crc32: u32,
    size: u64,
}

impl Claim<'_> {
    fn broken(&self, how: impl Into<String>) -> Error {
        Error::new(Kind::Input, format!("`{}` of `{}` is not what its archive says", self.path, self.archive))
            .detail(how.into())
    }
}

fn inflate(
    file: &File,
    offset: u64,
    claim: &Claim<'_>,
    input: &mut [u8],
    output: &mut [u8],
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut inflater = Decompress::new(false);
    let mut crc32 = crc32fast::Hasher::new();
    let mut ended = false;
    for_each_piece(file, offset, claim.length, input, &mut |mut piece| {
        while !piece.is_empty() {
            if ended {
                return Err(claim.broken("its deflate stream ends before its recorded size"));
            }
            let (read, written) = (inflater.total_in(), inflater.total_out());
            let status = inflater
                .decompress(piece, output, FlushDecompress::None)
                .map_err(|error| claim.broken(format!("its deflate stream is damaged: {error}")))?;
            let produced = (inflater.total_out() - written) as usize;
            piece = &piece[(inflater.total_in() - read) as usize..];
            // A bomb is stopped before its bytes are used.
            if inflater.total_out() > claim.size {
                return Err(claim.broken(format!("it inflates to more than its {} bytes", claim.size)));
            }
            crc32.update(&output[..produced]);
            take(&output[..produced])?;
            ended = status == Status::StreamEnd;
        }
        Ok(())
    })?;
    // The last bytes may still be inside.
    while !ended {
        let written = inflater.total_out();
        let status = inflater
            .decompress(&[], output, FlushDecompress::Finish)
            .map_err(|error| claim.broken(format!("its deflate stream is damaged: {error}")))?;
        let produced = (inflater.total_out() - written) as usize;
        ended = status == Status::StreamEnd;
        if produced == 0 && !ended {
            return Err(claim.broken("its deflate stream does not end within its recorded size"));
        }
        if inflater.total_out() > claim.size {
            return Err(claim.broken(format!("it inflates to more than its {} bytes", claim.size)));
        }
        crc32.update(&output[..produced]);
        take(&output[..produced])?;
    }
    if inflater.total_out() != claim.size {
        return Err(claim.broken(format!(
            "it inflates to {} bytes, and {} were recorded",
            inflater.total_out(),
            claim.size
        )));
    }
    let found = crc32.finalize();
    if found != claim.crc32 {
        return Err(claim.broken(format!("its CRC-32 is {found:08x}, and {:08x} was recorded", claim.crc32)));
    }
    Ok(())
}

/// Reads into `buffer` until it is full or the input ends; how much was read.
pub fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
