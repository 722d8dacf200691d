//! Python indexes: from a project and a file name to the file's address.
//!
//! The simple API alone, because that is what every mirror has: PEP 503 (pages of HTML), PEP 691
//! (the same as JSON), PEP 700 (sizes). Which index is asked is configuration, found at run time:
//!
//! 1. what the command line says of the source (the default index is the source `pypi`);
//! 2. for a named source, its address in `pyproject.toml`, unless the lock was made with a
//!    substitute for it;
//! 3. for the default index, `PIP_INDEX_URL`, pip's configuration files, and what pip itself falls
//!    back to, which its own source code says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use assemble_layers::digest::Sha256;
use reqwest::StatusCode;

use super::http::{Client, refusal};
use super::pip::Settings;
use crate::error::{Error, Kind, Result};
use crate::net::Address;
use crate::net::Machine;

pub(crate) use super::simple_page::read_page;
pub use super::simple_page::{Listed, Metadata};

/// The name that the default index has in configuration, as Poetry calls it.
pub const DEFAULT: &str = "pypi";

const ACCEPT: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// The largest page that is read, in bytes; those of the public index have up to 20 MB.
const LARGEST_PAGE: u64 = 64 << 20;

/// The files that an index lists of a project, or the status by which it refuses: there is no such
/// project, or none for us.
pub type Listing = std::result::Result<Arc<Vec<Listed>>, StatusCode>;

/// One project's page, read at most once.
type Slot = Arc<Mutex<Option<Arc<Vec<Listed>>>>>;

/// The addresses of the indexes, and the pages read so far.
#[derive(Default)]
pub struct Indexes {
    /// Source name → address, from the command line and its variables.
    explicit: BTreeMap<String, Address>,
    /// Source name → address, from `pyproject.toml`.
    named: BTreeMap<String, Address>,
    pip: Settings,
    /// Where pip looks before it asks an index.
    folders: Vec<PathBuf>,
    fallback: OnceLock<Address>,
    pages: Mutex<HashMap<(Address, String), Slot>>,
}

impl Indexes {
    /// `substituted` are the sources that the lock was made without.
    pub fn find(
        machine: &Machine,
        pip: Settings,
        explicit: &BTreeMap<String, String>,
        named: &BTreeMap<String, String>,
        substituted: &[String],
    ) -> Result<Self> {
        let read = |sources: &BTreeMap<String, String>| -> Result<BTreeMap<String, Address>> {
            let address = |(name, text): (&String, &String)| {
                let address =
                    Address::folder(text).map_err(|error| error.within(format!("source `{name}`")))?;
                Ok((name.clone(), with_poetry_login(address, name, machine)?))
            };
            sources.iter().map(address).collect()
        };
        let mut named = read(named)?;
        named.retain(|name, _| !substituted.contains(name));
        let explicit = read(explicit)?;
        let folders = if explicit.contains_key(DEFAULT) { Vec::new() } else { pip.folders(machine)? };
        Ok(Self { explicit, named, pip, folders, ..Self::default() })
    }

    /// Where a source's pages are. `default_index` is asked when nothing else names the default.
    pub fn base(
        &self,
        source: Option<&str>,
        default_index: impl FnOnce() -> Result<Address>,
    ) -> Result<Address> {
        let source = source.filter(|name| *name != DEFAULT);
        let known = match source {
            Some(name) => self.explicit.get(name).or_else(|| self.named.get(name)),
            None => None,
        };
        if let Some(address) = known.or_else(|| self.explicit.get(DEFAULT)) {
            return Ok(address.clone());
        }
        self.pip.check_index()?;
        if let Some(address) = self.pip.index()?.or_else(|| self.fallback.get().cloned()) {
            return Ok(address);
        }
        let address = default_index()?;
        Ok(self.fallback.get_or_init(|| address).clone())
    }

    /// Those that pip asks beside the default index.
    ///
    /// # Errors
    /// One is no address.
    pub fn extra(&self, source: Option<&str>) -> Result<Vec<Address>> {
        if self.is_as_pip_has_it(source) { self.pip.extra_indexes() } else { Ok(Vec::new()) }
    }

    /// A file that is in a folder where pip looks first.
    pub fn beside(&self, source: Option<&str>, file: &str) -> Option<PathBuf> {
        let folders = self.folders.iter().filter(|_| self.is_as_pip_has_it(source));
        folders.map(|folder| folder.join(file)).find(|path| path.is_file())
    }

    fn is_as_pip_has_it(&self, source: Option<&str>) -> bool {
        let source = source.unwrap_or(DEFAULT);
        let elsewhere = [source, DEFAULT].iter().any(|name| self.explicit.contains_key(*name));
        !elsewhere && !self.named.contains_key(source)
    }

    /// # Errors
    /// pip is told of files that locking does not know.
    pub fn check_for_locking(&self, machine: &Machine) -> Result<()> {
        if self.explicit.contains_key(DEFAULT) { Ok(()) } else { self.pip.check_for_locking(machine) }
    }

    /// What an index lists of a project.
    pub fn files(&self, client: &Client, base: &Address, project: &str) -> Result<Arc<Vec<Listed>>> {
        match self.listing(client, base, project)? {
            Ok(files) => Ok(files),
            Err(status) => Err(refusal(&page_of(base, &normalize(project))?, status)),
        }
    }

    /// As [`Indexes::files`]; that the index has nothing is no error.
    pub fn listing(&self, client: &Client, base: &Address, project: &str) -> Result<Listing> {
        let project = normalize(project);
        let slot = {
            let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(pages.entry((base.clone(), project.clone())).or_default())
        };
        // Held while the page is read: whoever else wants it waits, and other projects do not.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*slot {
            return Ok(Ok(Arc::clone(files)));
        }
        match client.look(&page_of(base, &project)?, Some(ACCEPT), LARGEST_PAGE)? {
            Ok(page) => {
                let files = read_page(&page)?;
                self.mistrust_strangers(client, base, &files);
                Ok(Ok(Arc::clone(slot.insert(Arc::new(files)))))
            }
            Err(status) => Ok(Err(status)),
        }
    }

    /// A page may name any host: one where no index is that somebody here named is a stranger.
    fn mistrust_strangers(&self, client: &Client, base: &Address, files: &[Listed]) {
        let pip = self.pip.index().ok().flatten().into_iter();
        let pip: Vec<_> = pip.chain(self.pip.extra_indexes().unwrap_or_default()).collect();
        let named = self.explicit.values().chain(self.named.values()).chain(self.fallback.get());
        let known: BTreeSet<_> = named.chain(&pip).chain([base]).map(Address::origin).collect();
        let strangers = files.iter().filter(|listed| !known.contains(&listed.address.origin()));
        strangers.for_each(|listed| client.mistrust(&listed.address));
    }

    /// The address of a locked file.
    pub fn locate(
        &self,
        client: &Client,
        base: &Address,
        project: &str,
        file: &str,
        sha256: Sha256,
    ) -> Result<Address> {
        let files = self.files(client, base, project)?;
        let same_content = |listed: &&Listed| listed.sha256.is_none_or(|listed| listed == sha256);
        let named = || files.iter().filter(|listed| listed.name == file);
        if let Some(listed) = named().find(same_content) {
            return Ok(listed.address.clone());
        }
        let error = match named().next() {
            Some(listed) => Error::new(Kind::Network, format!("`{}` lists another `{file}`", base.host()))
                .detail(format!("expected sha256 {sha256}"))
                .detail(format!(
                    "  listed sha256 {}",
                    listed.sha256.map_or_else(String::new, |it| it.to_string())
                )),
            None => Error::new(Kind::Network, format!("`{}` does not list `{file}`", base.host())),
        };
        Err(error
            .hint("`--index NAME=URL` points the source elsewhere; `assemble lock` locks what is there now"))
    }
}

/// Where an index says what it has of a project, whose name is normalized.
fn page_of(base: &Address, project: &str) -> Result<Address> {
    base.join(&format!("{project}/"))
}

/// PEP 503: runs of `-`, `_` and `.` are one `-`, in lower case.
pub fn normalize(project: &str) -> String {
    let parts: Vec<_> = project.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

/// The index that pip falls back to, out of its own `pip/_internal/models/index.py`:
/// `PyPI = PackageIndex("https://…/", file_storage_domain=…)`. Its simple pages are below `simple/`
/// (`simple_url` there).
pub fn pip_default(index_py: &str) -> Result<Address> {
    let line = index_py.lines().find_map(|line| line.strip_prefix("PyPI = PackageIndex("));
    let text = line.and_then(|rest| {
        let quote = rest.chars().next().filter(|first| matches!(first, '"' | '\''))?;
        Some(rest[1..].split_once(quote)?.0)
    });
    match text {
        Some(text) => Address::folder(text)?.join("simple/"),
        None => Err(Error::new(Kind::Input, "pip does not say what its default index is")
            .detail("no line `PyPI = PackageIndex(\"…\"` in `pip/_internal/models/index.py`")
            .hint("`PIP_INDEX_URL` or `--index pypi=URL` names the index")),
    }
}

/// Poetry's own way to name a login: `POETRY_HTTP_BASIC_NAME_USERNAME` and `…_PASSWORD`, or
/// `[http-basic.NAME]` in its `auth.toml`.
///
/// # Errors
/// That file cannot be read.
fn with_poetry_login(address: Address, source: &str, machine: &Machine) -> Result<Address> {
    let name: String = source
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    if let Some(user) = machine.variable(&format!("POETRY_HTTP_BASIC_{name}_USERNAME")) {
        return Ok(address.or_login(user, machine.variable(&format!("POETRY_HTTP_BASIC_{name}_PASSWORD"))));
    }
    let Some(path) = machine.configuration_folder().map(|folder| folder.join("pypoetry/auth.toml")) else {
        return Ok(address);
    };
    // The parser's own words may repeat what it read.
    let file = machine.settings(&path)?.unwrap_or_default().parse::<toml::Table>().map_err(|error| {
        let error = Error::new(Kind::Input, format!("`{}` is no TOML", path.display()))
            .detail(error.span().map_or_else(String::new, |span| format!("at byte {}", span.start)));
        error.hint("Poetry keeps logins there; mend it")
    })?;
    let login = file.get("http-basic").and_then(|logins| logins.get(source));
    let text = |field: &str| login.and_then(|login| login.get(field)?.as_str());
    Ok(match text("username") {
        Some(user) => address.or_login(user, text("password")),
        None => address,
    })
}

#[cfg(test)]
#[path = "python_tests.rs"]
mod tests;
