//! Reading the project's folder: its files, less what `.dockerignore` names, and their digests.
//!
//! A file whose size, times and inode are as they were is not read again. One that was changed
//! within the clock's grain before it was looked at is, for it could change again unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assemble_layers::digest::Hasher;
use assemble_layers::project::{Project, ProjectFile, ProjectFileKind};
use assemble_layers::tree::RawBytes;
use assemble_layers::{Sha256, TreePath};
use fs_err as fs;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::store::Store;
use crate::{Error, Kind, Result, bounded};

/// A file that is younger than this when it is looked at may be written again without a new time.
const GRAIN: Duration = Duration::from_secs(2);

/// Never part of an image, whatever `.dockerignore` says: Poetry's lock is made anew from the
/// manifest, and this project's own lock is no file of the application.
const NEVER: [&str; 4] = ["poetry.lock", "assemble.lock", "assemble.registry.lock", ".git"];

/// The most files, folders and links that a project may have.
const MOST_FILES: usize = 1_000_000;

/// The most that `.dockerignore` may have, in bytes and in patterns: each is compiled.
const IGNORE: &str = ".dockerignore";
const LARGEST_IGNORE: u64 = 1 << 20;
const MOST_PATTERNS: usize = 2_000;
/// One of them, compiled, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// A path, in bytes: Linux takes none that is longer (`PATH_MAX`, with the zero at its end).
const LONGEST_PATH: usize = 4095;

/// What is known of a file that was read before.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    /// Size, modification and change time in nanoseconds, inode.
    stamp: (u64, i128, i128, u64),
    sha256: Sha256,
}

/// Reads the project in `folder`. `manifests` are in it even where `.dockerignore` names them.
///
/// # Errors
/// A folder or file that cannot be read; something that is no file, folder or link.
pub fn read(folder: &Path, manifests: &[&str], store: &Store) -> Result<Project> {
    let folder = &fs::canonicalize(folder).map_err(unreadable)?;
    let note = format!("project-{}", Sha256::of(folder.as_os_str().as_bytes()));
    let known: BTreeMap<TreePath, Known> = store.note(&note).unwrap_or_default();
    let mut reader = Reader {
        folder,
        ignored: Ignored::read(folder)?.and_store(store.folder(), folder)?,
        known: &known,
        seen: BTreeMap::new(),
        files: Vec::new(),
    };
    reader.walk()?;
    reader.add_folders()?;
    for manifest in manifests {
        reader.manifest(manifest)?;
    }
    let Reader { seen, mut files, .. } = reader;
    if !same_stamps(&seen, &known) {
        store.put_note(&note, &seen)?;
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Project { files })
}

/// Whether a file is one of the project's, so that an image would hold it.
///
/// # Errors
/// A folder that cannot be read.
pub fn contains(folder: &Path, file: &Path) -> Result<bool> {
    let folder = fs::canonicalize(folder)?;
    let file = fs::canonicalize(file)?;
    Ok(match file.strip_prefix(&folder) {
        Ok(below) => !Ignored::read(&folder)?.is_ignored(below),
        Err(_) => false,
    })
}

fn same_stamps(one: &BTreeMap<TreePath, Known>, other: &BTreeMap<TreePath, Known>) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((path, known), (other_path, other))| {
            path == other_path && known.stamp == other.stamp && known.sha256 == other.sha256
        })
}

struct Reader<'a> {
    folder: &'a Path,
    ignored: Ignored,
    known: &'a BTreeMap<TreePath, Known>,
    seen: BTreeMap<TreePath, Known>,
    files: Vec<ProjectFile>,
}

impl Reader<'_> {
    /// Looks at every folder, none within another: a project may be as deep as a path is long.
    fn walk(&mut self) -> Result<()> {
        let mut waiting = vec![(PathBuf::new(), None)];
        while let Some((below, above)) = waiting.pop() {
            for entry in fs::read_dir(self.folder.join(&below)).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let path = below.join(entry.file_name());
                if NEVER.iter().any(|name| path == Path::new(name)) {
                    continue;
                }
                self.check(&path)?;
                let is_folder = entry.file_type().map_err(unreadable)?.is_dir();
                let decided = self.ignored.last_that_fits(&path).max(above);
                if !self.ignored.ignores(decided) {
                    self.entry(&path)?;
                } else if !self.ignored.may_take_back_below(&path) {
                    // A file below an ignored folder may be wanted all the same: `!docs/README.md`.
                    continue;
                }
                if is_folder {
                    waiting.push((path, decided));
                }
            }
        }
        Ok(())
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |how: String| {
            Err(Error::new(Kind::Input, format!("the project `{}` {how}", self.folder.display()))
                .hint("`.dockerignore` names what is no part of it"))
        };
        if self.files.len() >= MOST_FILES {
            return wrong(format!("has more than {MOST_FILES} files and folders"));
        }
        if self.folder.as_os_str().len() + 1 + path.as_os_str().len() > LONGEST_PATH {
            let first = path.components().next().map(|first| first.as_os_str().to_string_lossy());
            let first = first.unwrap_or_default();
            return wrong(format!("has a path of more than {LONGEST_PATH} bytes below `{first}`"));
        }
        Ok(())
    }

    /// The folders of files that were taken back from an ignored one.
    fn add_folders(&mut self) -> Result<()> {
        let mut known: BTreeSet<TreePath> = self.files.iter().map(|file| file.path.clone()).collect();
        for number in 0..self.files.len() {
            let mut above = self.files[number].path.parent();
            while let Some(folder) = above.filter(|folder| known.insert(folder.clone())) {
                above = folder.parent();
                self.files.push(ProjectFile { path: folder, kind: ProjectFileKind::Directory });
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path) -> Result<()> {
        let absolute = self.folder.join(path);
        let metadata = fs::symlink_metadata(&absolute).map_err(unreadable)?;
        let kind = if metadata.is_dir() {
            ProjectFileKind::Directory
        } else if metadata.is_symlink() {
            let target = fs::read_link(&absolute).map_err(unreadable)?;
            ProjectFileKind::Symlink(RawBytes(target.into_os_string().into_vec()))
        } else if metadata.is_file() {
            let sha256 = self.digest(tree_path(path)?, &metadata)?;
            ProjectFileKind::File { sha256, size: metadata.len(), executable: metadata.mode() & 0o111 != 0 }
        } else {
            return Err(Error::new(
                Kind::Input,
                format!("`{}` is a socket, a pipe or a device, and no image can hold it", absolute.display()),
            )
            .hint("name it in `.dockerignore`, or remove it"));
        };
        self.files.push(ProjectFile { path: tree_path(path)?, kind });
        Ok(())
    }

    fn manifest(&mut self, name: &str) -> Result<()> {
        let there = self.folder.join(name).exists();
        if there && !self.files.iter().any(|file| file.path.as_bytes() == name.as_bytes()) {
            self.entry(Path::new(name))?;
        }
        Ok(())
    }

    fn digest(&mut self, path: TreePath, metadata: &std::fs::Metadata) -> Result<Sha256> {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let changed = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
        let modified = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        let stamp = (metadata.len(), modified, changed, metadata.ino());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sha256 = match self.known.get(&path) {
            Some(known) if known.stamp == stamp => known.sha256,
            _ => {
                let mut hasher = Hasher::new();
                let mut file = open(self.folder, path.as_path())?;
                std::io::copy(&mut file, &mut hasher).map_err(unreadable)?;
                hasher.finish()
            }
        };
        let settled = (now.as_nanos() as i128) - changed > GRAIN.as_nanos() as i128;
        if settled || self.known.get(&path).is_some_and(|known| known.stamp == stamp) {
            self.seen.insert(path, Known { stamp, sha256 });
        }
        Ok(sha256)
    }
}

/// Opens a file of the project. A link that leads out of it is not followed: the project may be somebody
/// else's, and what is read of it goes into an image, or to code of its own.
///
/// # Errors
/// It cannot be read, or is no regular file of the project.
pub(crate) fn open(folder: &Path, path: &Path) -> Result<fs::File> {
    bounded::open_beneath(folder, path).map_err(unreadable)
}

/// The text of a file of the project, of `limit` bytes at most; `None` where there is none.
///
/// # Errors
/// As [`open`]; what is larger, or no UTF-8.
pub(crate) fn text(folder: &Path, name: &str, limit: u64) -> Result<Option<String>> {
    let path = folder.join(name);
    let file = match bounded::open_beneath(folder, Path::new(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let text = String::from_utf8(bounded::bytes(file, limit, path.display())?);
    text.map(Some).map_err(|_| Error::new(Kind::Input, format!("`{}` is no UTF-8", path.display())))
}

/// A file of the project that cannot be read is no fault of the store.
pub(crate) fn unreadable(error: std::io::Error) -> Error {
    let this = Error::new(Kind::Input, error.to_string());
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            this.hint("it was there a moment ago; run it again when nothing changes it")
        }
        std::io::ErrorKind::PermissionDenied => this.hint("make it readable, or name it in `.dockerignore`"),
        _ => this,
    }
}

fn tree_path(path: &Path) -> Result<TreePath> {
    Ok(TreePath::new(path.as_os_str().as_bytes())?)
}

/// The patterns of `.dockerignore` (docs.docker.com, "Build context": anchored at the root, the last
/// one that fits a path or a folder above it decides, `!` takes back).
pub(crate) struct Ignored {
    /// The matcher, and whether it takes back.
    patterns: Vec<(Regex, bool)>,
    /// What takes back, by its parts.
    exceptions: Vec<Vec<String>>,
}

impl Ignored {
    fn read(folder: &Path) -> Result<Self> {
        let text = text(folder, IGNORE, LARGEST_IGNORE)?.unwrap_or_default();
        let file = folder.join(IGNORE);
        Self::parse(&text).map_err(|what| Error::new(Kind::Input, format!("`{}`: {what}", file.display())))
    }

    /// Without the store, where it lies in the project, as caches of CI jobs do: it is nobody's input.
    fn and_store(mut self, store: &Path, project: &Path) -> Result<Self> {
        let store = fs::canonicalize(store)?;
        let Ok(below) = store.strip_prefix(project) else { return Ok(self) };
        if below == Path::new("") {
            return Err(Error::new(Kind::Usage, "the project's folder is the store as well")
                .hint("`--store DIR` names another folder; one in the project is left out of the image"));
        }
        // The last pattern that fits decides.
        let literal = format!("^{}$", regex::escape(&below.to_string_lossy()));
        let store = Regex::new(&literal).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        self.patterns.push((store, false));
        Ok(self)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (mut patterns, mut exceptions) = (Vec::new(), Vec::new());
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.lines().filter(|line| !line.starts_with('#')).map(str::trim) {
            let (line, exception) = line.strip_prefix('!').map_or((line, false), |rest| (rest.trim(), true));
            if exception {
                exceptions.push(clean(line).split('/').map(str::to_owned).collect());
            }
            let pattern = clean(line);
            if pattern.is_empty() {
                match exception && line.is_empty() {
                    true => return Err("a `!` takes back nothing".to_owned()),
                    false => continue,
                }
            }
            if patterns.len() == MOST_PATTERNS {
                return Err(format!("it has more than {MOST_PATTERNS} patterns"));
            }
            let expression = RegexBuilder::new(&expression(&pattern)).size_limit(LARGEST_PATTERN).build();
            patterns.push((expression.map_err(|_| format!("`{line}` is no pattern"))?, exception));
        }
        Ok(Self { patterns, exceptions })
    }

    /// Whether something below an ignored folder may be wanted all the same. Others are not entered:
    /// they may be as large as a build's output.
    fn may_take_back_below(&self, folder: &Path) -> bool {
        let parts: Vec<_> = folder.iter().map(|part| part.to_string_lossy()).collect();
        self.exceptions.iter().any(|exception| {
            let literal = |part: &String| !part.contains(['*', '?', '[', '\\']);
            let fits =
                |(part, wanted): (&std::borrow::Cow<'_, str>, &String)| !literal(wanted) || part == wanted;
            let deep = exception.iter().take(parts.len()).any(|part| part.contains("**"));
            deep || (exception.len() > parts.len() && parts.iter().zip(exception).all(fits))
        })
    }

    pub(crate) fn is_ignored(&self, path: &Path) -> bool {
        let above = path.ancestors().filter(|above| *above != Path::new(""));
        self.ignores(above.map(|above| self.last_that_fits(above)).max().flatten())
    }

    /// The place of the last pattern that fits this very path. What decides about it is the last that
    /// fits it or a folder above.
    fn last_that_fits(&self, path: &Path) -> Option<usize> {
        self.patterns.iter().rposition(|(pattern, _)| pattern.is_match(path.as_os_str().as_bytes()))
    }

    fn ignores(&self, decided: Option<usize>) -> bool {
        decided.is_some_and(|place| !self.patterns[place].1)
    }
}

/// A pattern as a regular expression, as BuildKit reads it (moby/patternmatcher, `compile` and `match`): `*` and
/// `?` stand for no `/`, `**` for any folders, at the end for anything, and at the beginning, where nothing but
/// text follows, for any beginning. A class is that of Go's regular expressions, where `!` is a character.
fn expression(pattern: &str) -> String {
    let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
    if let Some(end) = pattern.strip_prefix("**").filter(|end| !end.is_empty() && plain(end)) {
        return match end.strip_prefix('/') {
            Some(path) => format!("(?s-u)^(.*/)?{}$", regex::escape(path)),
            None => format!("(?s-u)^.*{}$", regex::escape(end)),
        };
    }
    let mut expression = "(?s-u)^".to_owned();
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                expression +=
                    &letters.next().map_or("\\\\".to_owned(), |next| regex::escape(&next.to_string()))
            }
            '[' if !in_class => {
                in_class = true;
                expression.push('[');
                expression.extend(letters.next_if_eq(&'^'));
            }
            ']' => {
                expression.push_str(if in_class { "]" } else { "\\]" });
                in_class = false;
            }
            '-' if in_class => expression.push('-'),
            letter if in_class => expression += &regex::escape(&letter.to_string()),
            '*' if letters.next_if_eq(&'*').is_some() => {
                letters.next_if_eq(&'/');
                expression.push_str(if letters.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            letter => expression += &regex::escape(&letter.to_string()),
        }
    }
    expression + "$"
}

/// A pattern as seen from the root, without what says nothing (Go's `filepath.Clean`).
fn clean(pattern: &str) -> String {
    let mut parts = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if pattern.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &str, path: &str) -> bool {
        Ignored::parse(patterns).unwrap().is_ignored(Path::new(path))
    }

    #[test]
    fn patterns_stand_at_the_root() {
        assert!(ignored("target", "target/debug/x"));
        assert!(ignored("/target/", "target"));
        assert!(!ignored("target", "src/target"));
        assert!(ignored("**/target", "src/target/x"));
        assert!(ignored("*.pyc", "a.pyc"));
        assert!(!ignored("*.pyc", "a/b.pyc"));
        assert!(ignored("**/*.pyc", "a/b.pyc"));
    }

    /// Some of moby/patternmatcher's own cases among them.
    #[test]
    fn patterns_are_docker_s() {
        for (pattern, fitting) in [
            ("**", "dir/file"),
            ("**/", "file"),
            ("dir/**", "dir/dir2/file"),
            ("**/**", "dir/file"),
            ("**file", "dir/afile"),
            ("**.env", "small/x.env"),
            ("**/file", "dir/dir/file"),
            ("**/dir2/*", "dir/dir2/file"),
            ("**/dir2/**", "dir/dir2/dir3/file"),
            ("a**/c", "ab/b/c"),
            ("a[b-d]e", "ace"),
            ("[!a]x", "ax"),
            ("[^a]x", "bx"),
            ("a\\{b\\}", "a{b}"),
            ("{x}", "{x}"),
            ("[{]x", "{x"),
            ("a\\*c", "a*c"),
            ("a?c", "abc"),
            ("*.txt", "ä.txt"),
        ] {
            assert!(ignored(pattern, fitting), "{pattern} {fitting}");
        }
        for (pattern, other) in [
            ("a**t", "ab/xt"),
            ("[^a]x", "ax"),
            ("[!a]x", "bx"),
            ("a\\*c", "abc"),
            ("a?c", "a/c"),
            ("**/file", "afile"),
            ("a.c", "abc"),
            ("a{b,c}", "ab"),
            ("[a&&b]", "c"),
        ] {
            assert!(!ignored(pattern, other), "{pattern} {other}");
        }
        for wrong in ["[", "a[b", "[z-a]"] {
            assert!(Ignored::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_pattern_decides() {
        assert!(!ignored("docs\n!docs/README.md", "docs/README.md"));
        assert!(ignored("docs\n!docs/README.md", "docs/other"));
        assert!(ignored("!docs/README.md\ndocs", "docs/README.md"));
        assert!(!ignored("# docs\n\n", "docs"));
    }
}
