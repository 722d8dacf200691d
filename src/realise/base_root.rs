//! What a base image says of itself: the files of its root that apt and dpkg read.

use std::path::Path;

use assemble_layers::lock::BaseImage;
use assemble_layers::{Tree, TreePath};
use tempfile::TempDir;

use crate::fetch::debian::apt_sources;
use crate::net::Machine;
use crate::pack::Contents;
use crate::pack::content::LARGEST_IN_MEMORY;
use crate::sandbox::Merged;
use crate::store::Store;
use crate::{Error, Kind, Result};

const FILES: [&str; 2] = ["etc/apt/sources.list", STATUS];
const FOLDERS: [&str; 4] =
    ["etc/apt/apt.conf.d", "etc/apt/mirrors", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d"];
const STATUS: &str = "var/lib/dpkg/status";

/// Those files in a folder of their own; `None` if the image's layers are not in the store.
///
/// # Errors
/// Those of the disk; layers that make no root.
pub fn base_root(store: &Store, image: &BaseImage) -> Result<Option<TempDir>> {
    let trees = image.layer.iter().map(|layer| store.tree(layer.diff_id));
    let Some(trees): Option<Vec<Tree>> = trees.collect::<Result<_>>()? else { return Ok(None) };
    let merged = Merged::new(trees)?;
    let folder = tempfile::Builder::new().prefix("base-").tempdir()?;
    let file_of = |blob| store.blob_file(blob);
    let mut contents = Contents::new(&file_of);
    let mut write = |path: TreePath| -> Result<()> {
        let Some(content) = merged.file(&path).filter(|content| content.size() <= LARGEST_IN_MEMORY) else {
            return Ok(());
        };
        let target = folder.path().join(path.as_path());
        fs_err::create_dir_all(target.parent().unwrap_or(folder.path()))?;
        Ok(fs_err::write(target, contents.to_vec(&path, &content)?)?)
    };
    for path in FILES {
        write(TreePath::new(path)?)?;
    }
    for path in FOLDERS {
        merged.names_in(&TreePath::new(path)?).try_for_each(&mut write)?;
    }
    for source in apt_sources(&Machine::new::<&str, &str>(folder.path(), [])) {
        // What is no path leads to no file either, and whoever reads the keys says so.
        source.key_files().filter_map(|file| TreePath::new(file).ok()).try_for_each(&mut write)?;
    }
    Ok(Some(folder))
}

/// dpkg's `status` in such a folder.
///
/// # Errors
/// There is none.
pub fn dpkg_status(root: &Path) -> Result<String> {
    fs_err::read_to_string(root.join(STATUS)).map_err(|error| {
        Error::new(Kind::Input, "the base image is no Debian system: packages cannot be installed over it")
            .detail(error)
            .hint("images of Debian, of Ubuntu, and what is made of them have dpkg's database")
    })
}
