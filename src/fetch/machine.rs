//! The machine's own settings: environment variables and configuration files, read in one place so
//! that tests can have a machine of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// No `Debug`: the variables may hold credentials. The default one has no variables and no files.
#[derive(Clone, Default)]
pub struct Machine {
    variables: BTreeMap<String, String>,
    root: Option<PathBuf>,
}

impl Machine {
    /// The one that this process runs on.
    pub fn this() -> Self {
        Self::new(
            Path::new("/"),
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// One whose files stand below `root`.
    pub fn new<Name: Into<String>, Value: Into<String>>(
        root: &Path,
        variables: impl IntoIterator<Item = (Name, Value)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, root: Some(root.to_owned()) }
    }

    /// A variable that is set, and not to nothing.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The text of a file, if it is there and this user may read it.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs_err::read(self.locate(path.as_ref())?).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The files of a folder whose names end so, sorted by name, as absolute paths of the machine.
    pub fn list(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let entries = self.locate(Path::new(folder)).and_then(|folder| fs_err::read_dir(folder).ok());
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && name.ends_with(ending))
            .collect();
        names.sort();
        names.iter().map(|name| Path::new(folder).join(name)).collect()
    }

    pub fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").map(PathBuf::from)
    }

    /// `$XDG_CONFIG_HOME`, or `~/.config`.
    pub fn configuration_folder(&self) -> Option<PathBuf> {
        let named = self.variable("XDG_CONFIG_HOME").map(PathBuf::from);
        named.or_else(|| Some(self.home()?.join(".config")))
    }

    /// A path that leaves the machine's root leads nowhere.
    fn locate(&self, path: &Path) -> Option<PathBuf> {
        let leaves = path.components().any(|part| part == std::path::Component::ParentDir);
        let below = path.strip_prefix("/").unwrap_or(path);
        self.root.as_ref().filter(|_| !leaves).map(|root| root.join(below))
    }
}
