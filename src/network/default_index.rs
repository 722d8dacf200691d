//! The default index, as the pip that the lock has names it: no address stands in this program.

use std::path::{Path, PathBuf};

use assemble_layers::derivation::Fetch;
use assemble_layers::{BlobDigest, Lock, Sha256, TreePath};
use fs_err as fs;

use crate::fetch::{Fetcher, python};
use crate::net::Address;
use crate::pack::{Contents, deb, tarball, zip};
use crate::store::Store;
use crate::{Error, Kind, Result, bounded};

/// The package of Debian's that is pip.
const PIP_PACKAGE: &str = "python3-pip";
/// Where pip says it.
const PIP_INDEX: &str = "pip/_internal/models/index.py";
/// It has one kilobyte.
const LARGEST_PIP_INDEX: u64 = 1 << 20;
/// Every Python brings a wheel of pip for the environments that it makes (Python's `ensurepip`).
const BUNDLED: &str = "/ensurepip/_bundled/pip-";
/// It has two megabytes.
const LARGEST_PIP: u64 = 64 << 20;

/// What a lock has that holds a pip.
#[derive(Clone)]
pub(super) enum Pip {
    Package(Fetch),
    Python(Fetch),
}

impl Pip {
    pub fn of(lock: &Lock) -> Option<Self> {
        if let Some(python) = &lock.requirements.python.standalone {
            return lock.file(&python.file).map(Self::Python);
        }
        let package = lock.debian.package.iter().find(|deb| deb.name == PIP_PACKAGE);
        package.map(|package| Self::Package(package.fetch()))
    }

    /// What it says; empty where it is not where it was looked for.
    fn text(&self, fetcher: &Fetcher, store: &Path) -> Result<String> {
        let draft = tempfile::Builder::new().prefix("pip-").tempdir_in(store)?;
        let text = match self {
            Self::Package(package) => of_package(&obtain(fetcher, package, store, draft.path())?),
            Self::Python(python) => of_python(&obtain(fetcher, python, store, draft.path())?, draft.path()),
        };
        Ok(String::from_utf8_lossy(&text?).into_owned())
    }
}

/// The file, of the store if that has it, else fetched into `draft`.
fn obtain(fetcher: &Fetcher, fetch: &Fetch, store: &Path, draft: &Path) -> Result<PathBuf> {
    let blob = BlobDigest(fetch.sha256);
    if let Ok(store) = Store::open_cache(store)
        && store.has_blob_file(blob)
        && store.is_intact(blob)?
    {
        return Ok(store.blob_file(blob));
    }
    let path = draft.join("file");
    fetcher.fetch(fetch, &path, &mut |_| {})?;
    Ok(path)
}

fn of_package(package: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    deb::Deb::open(package)?.entries(1, |entry, content| {
        if entry.path.is_some_and(|path| path.as_bytes().ends_with(PIP_INDEX.as_bytes())) {
            text = bounded::bytes(content, LARGEST_PIP_INDEX, PIP_INDEX)?;
        }
        Ok(())
    })?;
    Ok(text)
}

fn of_python(archive: &Path, draft: &Path) -> Result<Vec<u8>> {
    let is_pip = |path: &TreePath| path.to_string().contains(BUNDLED);
    let Some(wheel) = tarball::find(archive, LARGEST_PIP, is_pip)? else { return Ok(Vec::new()) };
    let path = draft.join("pip.whl");
    let blob = BlobDigest(Sha256::of(&wheel));
    fs::write(&path, wheel)?;
    let members = zip::members(&path, blob, "pip")?;
    let name = TreePath::new(PIP_INDEX)?;
    match members.get(&name) {
        Some(member) if member.content.size() <= LARGEST_PIP_INDEX => {
            Contents::new(&|_| path.clone()).to_vec(&name, &member.content)
        }
        _ => Ok(Vec::new()),
    }
}

/// Pip's own default, read in what the lock names.
///
/// # Errors
/// The lock names nothing that holds a pip; it cannot be had, or does not say it.
pub(super) fn default_index(fetcher: &Fetcher, pip: Option<&Pip>, store: &Path) -> Result<Address> {
    let unknown = || {
        Error::new(Kind::Usage, "no Python index is known")
            .detail(format!(
                "neither an option, nor pip's settings, nor a locked `{PIP_PACKAGE}` or Python says where it is"
            ))
            .hint("`--index pypi=URL` or `PIP_INDEX_URL` names it")
    };
    python::pip_default(&pip.ok_or_else(unknown)?.text(fetcher, store)?)
}
