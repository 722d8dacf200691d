//! The files of a packed layer (OCI image-spec, `layer.md`), whoever made it.

use std::io::{BufReader, Read};

use assemble_layers::TreePath;
use assemble_layers::tree::OPAQUE;

use crate::Result;
use crate::pack::image_layer::unpacked;
use crate::pack::untar::{Next, WHITEOUT, damaged, next, padding, skip};

/// One entry of the tar that is no folder.
pub enum Member<'a> {
    File {
        path: TreePath,
        size: u64,
        reader: &'a mut dyn Read,
    },
    /// A link or a device.
    Other(TreePath),
    /// What stands there in a lower layer, or below it, is gone.
    Whiteout(TreePath),
}

/// Hands each entry to `each`, in order.
///
/// # Errors
/// A layer that is damaged, or packed otherwise; those of `each`.
pub fn read(layer: impl Read, each: &mut dyn FnMut(Member<'_>) -> Result<()>) -> Result<()> {
    let tar = unpacked(BufReader::with_capacity(1 << 18, layer))?;
    read_tar(&mut BufReader::with_capacity(1 << 18, tar), each)
}

fn read_tar<R: Read>(tar: &mut R, each: &mut dyn FnMut(Member<'_>) -> Result<()>) -> Result<()> {
    while let Some(Next { path, kind, size, .. }) = next(tar)? {
        let mut content = tar.by_ref().take(size);
        if !kind.is_dir() {
            let reader = kind.is_file().then_some(&mut content as &mut dyn Read);
            each(member(&path, size, reader)?)?;
        }
        skip(&mut content)?;
        skip(&mut tar.by_ref().take(padding(size)))?;
    }
    Ok(())
}

/// `reader` reads the content of a file.
fn member<'a>(path: &[u8], size: u64, reader: Option<&'a mut dyn Read>) -> Result<Member<'a>> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = TreePath::new(path).map_err(damaged)?;
    let hidden = match (path.name().strip_prefix(WHITEOUT), path.parent()) {
        (None, _) => {
            return Ok(match reader {
                Some(reader) => Member::File { path, size, reader },
                None => Member::Other(path),
            });
        }
        (Some(_), Some(folder)) if path.name() == OPAQUE => Ok(folder),
        (Some(name), Some(folder)) => folder.join(name),
        (Some(name), None) => TreePath::new(name),
    };
    Ok(Member::Whiteout(hidden.map_err(damaged)?))
}
