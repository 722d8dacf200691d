//! The machine's own settings: environment variables and configuration files, read in one place so
//! that tests can have a machine of their own.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Kind, Result, bounded};

/// The most that a file of settings may have, in bytes; certificates have half a megabyte.
const LARGEST: u64 = 16 << 20;

/// No `Debug`: the variables may hold credentials. The default one has no variables and no files.
#[derive(Clone, Default)]
pub struct Machine {
    variables: BTreeMap<String, String>,
    root: Option<PathBuf>,
    /// Where relative paths begin.
    folder: PathBuf,
}

impl Machine {
    /// The one that this process runs on.
    pub fn this() -> Self {
        let this = Self::new(
            Path::new("/"),
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        this.in_folder(std::env::current_dir().unwrap_or_default())
    }

    /// One whose files stand below `root`.
    pub fn new<Name: Into<String>, Value: Into<String>>(
        root: &Path,
        variables: impl IntoIterator<Item = (Name, Value)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, root: Some(root.to_owned()), folder: PathBuf::from("/") }
    }

    /// The same, where relative paths begin at `folder`, an absolute path of the machine.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// A variable that is set, and not to nothing.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The text of a file, if it is there and this user may read it.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        self.read_bytes(path.as_ref()).ok().flatten()
    }

    /// The text of a file whose settings somebody relies on; `None` if there is no such file.
    ///
    /// # Errors
    /// It is there, or what should be its folder is, and cannot be read.
    pub fn settings(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let path = path.as_ref();
        self.read_bytes(path).map_err(|error| {
            let kind = match error.kind() {
                ErrorKind::PermissionDenied => Kind::Machine,
                _ => Kind::Input,
            };
            let shown = self.folder.join(path);
            Error::new(kind, format!("the settings in `{}` cannot be read", shown.display()))
                .detail(error)
                .hint("what they say would be passed over: mend the file, or name another")
        })
    }

    fn read_bytes(&self, path: &Path) -> std::io::Result<Option<String>> {
        let Some(path) = self.locate(path) else { return Ok(None) };
        // A pipe is waited for: a shell may pass a secret by one.
        let read = |file| bounded::bytes(file, LARGEST, path.display()).map_err(std::io::Error::other);
        match std::fs::File::open(&path).and_then(read) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The files of a folder whose names end so, sorted by name, as absolute paths of the machine.
    pub fn list(&self, folder: impl AsRef<Path>, ending: &str) -> Vec<PathBuf> {
        let folder = folder.as_ref();
        let entries = self.locate(folder).and_then(|folder| fs_err::read_dir(folder).ok());
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && name.ends_with(ending))
            .collect();
        names.sort();
        names.iter().map(|name| folder.join(name)).collect()
    }

    /// One that this user may not enter, as another's is in some containers, is none.
    pub fn home(&self) -> Option<PathBuf> {
        let home = self.variable("HOME").map(PathBuf::from)?;
        let entered = std::fs::metadata(self.locate(&home)?.join("."));
        entered.err().is_none_or(|error| error.kind() != ErrorKind::PermissionDenied).then_some(home)
    }

    /// `$XDG_CONFIG_HOME`, or `~/.config`.
    pub fn configuration_folder(&self) -> Option<PathBuf> {
        let named = self.variable("XDG_CONFIG_HOME").map(PathBuf::from);
        named.or_else(|| Some(self.home()?.join(".config")))
    }

    /// Docker's folder of settings.
    pub fn docker_folder(&self) -> Option<PathBuf> {
        let named = self.variable("DOCKER_CONFIG").map(PathBuf::from);
        named.or_else(|| Some(self.home()?.join(".docker")))
    }

    /// Where a path of the machine is. One that leaves the root of another machine leads nowhere.
    pub fn locate(&self, path: &Path) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        let path = self.folder.join(path);
        if root == Path::new("/") {
            return Some(path);
        }
        let leaves = path.components().any(|part| part == Component::ParentDir);
        (!leaves).then(|| root.join(path.strip_prefix("/").unwrap_or(&path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_begin_at_the_current_folder() {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(root.path().join("work/here")).unwrap();
        fs_err::write(root.path().join("work/here/file"), "text").unwrap();
        let machine = Machine::new::<&str, &str>(root.path(), []);
        assert_eq!(machine.read("here/file"), None);
        let machine = machine.in_folder("/work");
        for path in ["here/file", "./here/file", "/work/here/file"] {
            assert_eq!(machine.read(path).as_deref(), Some("text"), "{path}");
        }
        assert_eq!(machine.read("../work/here/file"), None, "out of another machine's root");
        assert_eq!(machine.list("here", "le"), [Path::new("here/file")]);
        // This machine's own root has no outside.
        let real = Machine::new::<&str, &str>(Path::new("/"), []).in_folder(root.path().join("work/here"));
        assert_eq!(real.read("../here/file").as_deref(), Some("text"));
    }

    #[test]
    fn settings_that_cannot_be_read_are_no_settings_that_are_absent() {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(root.path().join("folder")).unwrap();
        fs_err::write(root.path().join("file"), "").unwrap();
        let machine = Machine::new::<&str, &str>(root.path(), []);
        for absent in ["/nothing", "/nothing/below", "/file/below"] {
            assert_eq!(machine.settings(absent).unwrap(), None, "{absent}");
        }
        let error = machine.settings("/folder").unwrap_err();
        assert!(error.kind() == Kind::Input && error.message().contains("`/folder`"), "{error}");
    }
}
