//! pip's own settings, as far as they say where code comes from and how that is reached.
//!
//! Sources: pip's user guide, "Configuration"; `pip/_internal/configuration.py` (which files, in which
//! order), `pip/_internal/cli/parser.py` (which sections), Python's `configparser`.
//!
//! `index-url`, `extra-index-url`, `proxy`, `cert` and `client-cert` do here what they do there, and so do
//! folders of `find-links`: a locked file may be in one. Other links, and `no-index` where no folder has
//! the file, are errors. `trusted-host` is not followed: a certificate that cannot be verified is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::net::Address;
use crate::net::Machine;
use crate::net::http::tls::{Identity, Keys, certificates_of};
use crate::net::http::{Proxy, Way};

/// Sections that count for `pip install`, the later before the earlier.
const SECTIONS: [&str; 2] = ["global", "install"];
/// What every section inherits (Python's `configparser`).
const DEFAULTS: &str = "DEFAULT";
/// pip's own way to say: no files at all.
const NO_FILES: &str = "/dev/null";

/// What is set, by its name in files: `index-url`. No `Debug`: addresses may hold logins.
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<&'static str, Setting>);

#[derive(Clone)]
struct Setting {
    value: String,
    /// Of the variable or the file, in backticks.
    place: String,
}

/// The settings that are looked at, and their variables.
const NAMES: [(&str, &str); 7] = [
    ("index-url", "PIP_INDEX_URL"),
    ("extra-index-url", "PIP_EXTRA_INDEX_URL"),
    ("find-links", "PIP_FIND_LINKS"),
    ("no-index", "PIP_NO_INDEX"),
    ("proxy", "PIP_PROXY"),
    ("cert", "PIP_CERT"),
    ("client-cert", "PIP_CLIENT_CERT"),
];

type Sections = BTreeMap<String, BTreeMap<String, String>>;

impl Settings {
    /// # Errors
    /// A file that cannot be read, or is none of pip's.
    pub fn read(machine: &Machine) -> Result<Self> {
        let mut found: BTreeMap<(usize, &str), Setting> = BTreeMap::new();
        for path in files(machine)? {
            let Some(text) = machine.settings(&path)? else { continue };
            let place = format!("`{}`", path.display());
            let sections = parse(&text).map_err(|how| {
                Error::new(Kind::Input, format!("{place} is no configuration of pip's"))
                    .detail(how)
                    .hint("it may name the index: mend it, or `PIP_CONFIG_FILE` names another")
            })?;
            for (rank, section) in SECTIONS.into_iter().enumerate() {
                let Some(options) = sections.get(section) else { continue };
                let inherited = sections.get(DEFAULTS).into_iter().flatten();
                for (name, value) in inherited.chain(options) {
                    let known = NAMES.iter().find(|(known, _)| known == name);
                    if let Some((name, _)) = known.filter(|_| !value.is_empty()) {
                        let setting = Setting { value: value.clone(), place: place.clone() };
                        found.insert((rank, name), setting);
                    }
                }
            }
        }
        let mut this = Self(found.into_iter().map(|((_, name), setting)| (name, setting)).collect());
        for (name, variable) in NAMES {
            if let Some(value) = machine.variable(variable).filter(|value| !value.trim().is_empty()) {
                this.0.insert(name, Setting { value: value.to_owned(), place: format!("`{variable}`") });
            }
        }
        Ok(this)
    }

    /// The default index, if one is named.
    ///
    /// # Errors
    /// It is no address.
    pub fn index(&self) -> Result<Option<Address>> {
        self.0.get("index-url").map(|setting| setting.address(&setting.value)).transpose()
    }

    /// The indexes that are asked beside it.
    ///
    /// # Errors
    /// One is no address.
    pub fn extra_indexes(&self) -> Result<Vec<Address>> {
        let setting = self.0.get("extra-index-url");
        let each = setting.into_iter().flat_map(|it| it.value.split_whitespace().map(move |one| (it, one)));
        each.map(|(setting, one)| setting.address(one)).collect()
    }

    /// The folders that pip looks into before it asks an index. As with pip, one that is not there is none.
    ///
    /// # Errors
    /// A link that leads elsewhere than into a folder.
    pub fn folders(&self, machine: &Machine) -> Result<Vec<PathBuf>> {
        let Some(setting) = self.0.get("find-links") else { return Ok(Vec::new()) };
        let mut folders = Vec::new();
        for link in setting.value.split_whitespace() {
            let path = link.strip_prefix("file://").unwrap_or(link);
            let found = machine.locate(Path::new(path)).and_then(|path| Some((path.metadata().ok()?, path)));
            match found {
                Some((metadata, path)) if metadata.is_dir() => folders.push(path),
                Some(_) => return Err(setting.not_followed("find-links")),
                None if path.contains("://") => return Err(setting.not_followed("find-links")),
                None => {}
            }
        }
        Ok(folders)
    }

    /// # Errors
    /// pip is told to ask no index.
    pub fn check_index(&self) -> Result<()> {
        match self.0.get("no-index") {
            Some(setting) if setting.is_set()? => Err(setting.not_followed("no-index")),
            _ => Ok(()),
        }
    }

    /// Locking takes what indexes list.
    ///
    /// # Errors
    /// pip is told of a folder that has something in it.
    pub fn check_for_locking(&self, machine: &Machine) -> Result<()> {
        let files = self.folders(machine)?.into_iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        match self.0.get("find-links").filter(|_| files.count() > 0) {
            Some(setting) => Err(setting.not_followed("find-links")),
            None => Ok(()),
        }
    }

    /// How indexes are reached.
    ///
    /// # Errors
    /// No proxy, or a file that holds no certificate.
    pub fn way(&self, machine: &Machine) -> Result<Way> {
        let proxy =
            self.0.get("proxy").map(|it| Proxy::parse(&format!("pip's `proxy` in {}", it.place), &it.value));
        let file = |name: &str| {
            let Some(setting) = self.0.get(name) else { return Ok(None) };
            let missing = || {
                let error = Error::new(Kind::Input, format!("there is no `{}`", setting.value));
                error.detail(format!("{} names it as pip's `{name}`", setting.place))
            };
            let text = machine.settings(&setting.value)?.ok_or_else(missing)?;
            Ok::<_, Error>(Some((setting.value.as_str(), text)))
        };
        let authorities = file("cert")?.map(|(path, text)| certificates_of(path, &text)).transpose()?;
        let identity = file("client-cert")?;
        let identity =
            identity.map(|(path, text)| Identity::read((path, &text), (path, &text))).transpose()?;
        let keys = Keys { authorities: authorities.unwrap_or_default(), identity };
        Ok(Way { keys, proxy: proxy.transpose()?, direct: false })
    }
}

impl Setting {
    fn address(&self, text: &str) -> Result<Address> {
        Address::folder(text).map_err(|error| error.within(format!("pip's index in {}", self.place)))
    }

    /// As pip reads what is on or off (`strtobool`).
    fn is_set(&self) -> Result<bool> {
        match self.value.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" | "t" | "true" | "on" | "1" => Ok(true),
            "n" | "no" | "f" | "false" | "off" | "0" => Ok(false),
            _ => Err(Error::new(Kind::Usage, format!("{} is neither on nor off", self.place))),
        }
    }

    fn not_followed(&self, name: &str) -> Error {
        Error::new(Kind::Usage, format!("pip's `{name}` is not followed here"))
            .detail(format!("it stands in {}: pip would take distributions from there", self.place))
            .hint("`--index pypi=URL` names the index that counts, whatever pip is told")
    }
}

/// The files that pip reads, the later before the earlier: the machine's, the user's unless a file is
/// named, the environment's, the one that is named.
fn files(machine: &Machine) -> Result<Vec<PathBuf>> {
    let named = machine.variable("PIP_CONFIG_FILE").map(PathBuf::from);
    if named.as_deref() == Some(Path::new(NO_FILES)) {
        return Ok(Vec::new());
    }
    if let Some(path) = &named
        && machine.settings(path)?.is_none()
    {
        let error = Error::new(Kind::Input, format!("there is no `{}`", path.display()));
        return Err(error.hint(format!("`PIP_CONFIG_FILE` names it; `{NO_FILES}` is pip's word for none")));
    }
    let folders = machine.variable("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg");
    let mut files: Vec<_> = folders.split(':').map(|folder| Path::new(folder).join("pip/pip.conf")).collect();
    files.push("/etc/pip.conf".into());
    if named.is_none() {
        files.extend(machine.home().map(|folder| folder.join(".pip/pip.conf")));
        files.extend(machine.configuration_folder().map(|folder| folder.join("pip/pip.conf")));
    }
    files.extend(machine.variable("VIRTUAL_ENV").map(|folder| Path::new(folder).join("pip.conf")));
    files.extend(named);
    Ok(files)
}

/// The format of Python's `configparser`: sections, `name = value` or `name: value`, lines that are
/// indented go on with a value. Names are normalised as pip does. The error says which line is wrong.
fn parse(text: &str) -> Result<Sections, String> {
    let mut sections = Sections::new();
    let mut section: Option<String> = None;
    let mut option: Option<(String, usize)> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let wrong = || format!("line {}", number + 1);
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if let Some((name, _)) = option.as_ref().filter(|(_, of_option)| indent > *of_option) {
            let options = section.as_ref().and_then(|section| sections.get_mut(section));
            if let Some(value) = options.and_then(|options| options.get_mut(name)) {
                *value = format!("{value}\n{bare}").trim().to_owned();
            }
            continue;
        }
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            sections.entry(name.0.to_owned()).or_default();
            (section, option) = (Some(name.0.to_owned()), None);
            continue;
        }
        let options = section.as_ref().and_then(|section| sections.get_mut(section)).ok_or_else(wrong)?;
        let (name, value) = bare.split_once(['=', ':']).ok_or_else(wrong)?;
        let name = name.trim().to_ascii_lowercase().replace('_', "-");
        let name = name.strip_prefix("--").unwrap_or(&name).to_owned();
        options.insert(name.clone(), value.trim().to_owned());
        option = Some((name, indent));
    }
    Ok(sections)
}

#[cfg(test)]
#[path = "pip_tests.rs"]
mod tests;
