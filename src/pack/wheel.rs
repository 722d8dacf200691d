//! Wheels to a tree (packaging.python.org, "Binary distribution format"), as the `installer` library
//! that Poetry uses lays them out. See `assemble_layers::python` for the texts it writes.

use std::collections::BTreeMap;
use std::path::Path;

use assemble_layers::derivation::{Layout, Relocation};
use assemble_layers::digest::Hasher;
use assemble_layers::python::{self, Scheme};
use assemble_layers::{BlobDigest, Content, Sha256, TreePath};

use super::zip::{self, Member};
use super::{Contents, TreeBuilder};
use crate::{Error, Kind, Result};

/// A wheel that is in the store.
pub struct Wheel<'a> {
    pub filename: &'a str,
    pub blob: BlobDigest,
    pub path: &'a Path,
    /// See [`assemble_layers::derivation::WheelInput::requested`].
    pub requested: bool,
}

/// Adds a wheel's files to `tree`.
///
/// # Errors
/// A wheel that is not sound; a file that another wheel has already put there otherwise.
pub fn unpack(wheel: &Wheel<'_>, layout: &Layout, contents: &mut Contents<'_>, tree: &mut TreeBuilder) -> Result<()> {
    let members = zip::members(wheel.path, wheel.blob, wheel.filename)?;
    let unpacked = match layout {
        Layout::Site(scheme) => Installation::new(wheel, scheme, &members, contents)?.install(tree),
        Layout::Relocate(rules) => relocate(wheel, rules, &members, tree),
    };
    unpacked.map_err(|error| error.within(format!("`{}` cannot be unpacked", wheel.filename)))
}

fn invalid(wheel: &Wheel<'_>, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Input, format!("`{}` is no sound wheel: {what}", wheel.filename))
}

/// Any x bit of a regular file, as `installer` asks for it; the rest of the mode is no part of it.
fn mode(member: &Member) -> u32 {
    let regular = member.mode & 0o170_000 == 0o100_000;
    if regular && member.mode & 0o111 != 0 { 0o755 } else { 0o644 }
}

/// Puts a wheel's folders elsewhere, without what an installer adds.
fn relocate(
    wheel: &Wheel<'_>,
    rules: &[Relocation],
    members: &BTreeMap<TreePath, Member>,
    tree: &mut TreeBuilder,
) -> Result<()> {
    for (path, member) in members {
        let Some((rule, rest)) = rules.iter().find_map(|rule| Some((rule, below(path, &rule.from)?))) else {
            return Err(invalid(wheel, format!("no rule of the recipe says where `{path}` goes")));
        };
        if let Some(folder) = &rule.to {
            let target = if rest.is_empty() { folder.clone() } else { folder.join(rest)? };
            tree.stored(target, member.content, mode(member))?;
        }
    }
    Ok(())
}

/// The rest of `path` below `pattern`, where a part may begin with `*`: any beginning.
fn below<'a>(path: &'a TreePath, pattern: &str) -> Option<&'a [u8]> {
    let mut rest = path.as_bytes();
    for wanted in pattern.split('/') {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let fits = match wanted.strip_prefix('*') {
            Some(ending) => part.ends_with(ending.as_bytes()),
            None => part == wanted.as_bytes(),
        };
        if part.is_empty() || !fits {
            return None;
        }
        rest = after.strip_prefix(b"/").unwrap_or(after);
    }
    Some(rest)
}

/// One line of `RECORD`.
struct RecordLine {
    /// Below its scheme's folder: what the lines are sorted by.
    within: String,
    /// As written: below the library folder, by `..` where it must be.
    written: String,
    /// Empty for `RECORD` itself.
    hash: String,
    size: String,
}

/// The installation of one wheel under a scheme.
struct Installation<'a, 'b> {
    wheel: &'a Wheel<'a>,
    scheme: &'a Scheme,
    members: &'a BTreeMap<TreePath, Member>,
    contents: &'a mut Contents<'b>,
    /// `torch-2.7.1.dist-info`.
    dist_info: TreePath,
    /// `torch-2.7.1.data`.
    data: TreePath,
    /// The wheel's own `RECORD`: path → hash and size.
    recorded: BTreeMap<String, (String, String)>,
    record: Vec<RecordLine>,
}

impl<'a, 'b> Installation<'a, 'b> {
    fn new(
        wheel: &'a Wheel<'a>,
        scheme: &'a Scheme,
        members: &'a BTreeMap<TreePath, Member>,
        contents: &'a mut Contents<'b>,
    ) -> Result<Self> {
        let dist_info = dist_info(wheel, members)?;
        let stem = String::from_utf8_lossy(dist_info.as_bytes()).replace(".dist-info", ".data");
        let data = TreePath::new(stem)?;
        let mut this = Self {
            wheel,
            scheme,
            members,
            contents,
            dist_info,
            data,
            recorded: BTreeMap::new(),
            record: Vec::new(),
        };
        let record = this.metadata("RECORD")?.ok_or_else(|| invalid(wheel, "it has no `RECORD`"))?;
        this.recorded = parse_record(&record);
        Ok(this)
    }

    /// A file of the wheel's `.dist-info`.
    fn metadata(&mut self, name: &str) -> Result<Option<String>> {
        let path = self.dist_info.join(name)?;
        let Some(member) = self.members.get(&path) else { return Ok(None) };
        if member.content.size() > 64 << 20 {
            return Err(invalid(self.wheel, format!("its `{path}` is larger than 64 MiB")));
        }
        let bytes = self.contents.to_vec(&path, &member.content)?;
        let text = String::from_utf8(bytes).map_err(|_| invalid(self.wheel, format!("its `{path}` is not UTF-8")))?;
        Ok(Some(text))
    }

    fn install(mut self, tree: &mut TreeBuilder) -> Result<()> {
        let entry_points = self.metadata("entry_points.txt")?.unwrap_or_default();
        for (name, module, attribute) in
            python::console_scripts(&entry_points).map_err(|what| invalid(self.wheel, what))?
        {
            let script = python::script(&self.scheme.interpreter, &module, &attribute);
            self.literal(tree, &self.scheme.scripts, &name, script.as_bytes(), 0o755)?;
        }
        let own_record = self.dist_info.join("RECORD")?;
        for (path, member) in self.members {
            let cached = path.as_bytes().split(|byte| *byte == b'/').any(|part| part == b"__pycache__");
            if *path != own_record && !cached {
                self.member(tree, path, member)?;
            }
        }
        let installer = self.scheme.installer.clone();
        self.metadata_file(tree, "INSTALLER", installer.as_bytes())?;
        if self.wheel.requested {
            self.metadata_file(tree, "REQUESTED", b"")?;
        }
        self.write_record(tree, own_record)
    }

    fn metadata_file(&mut self, tree: &mut TreeBuilder, name: &str, bytes: &[u8]) -> Result<()> {
        let within = format!("{}/{name}", self.dist_info);
        self.literal(tree, &self.scheme.library, &within, bytes, 0o644)
    }

    /// A file that the installer writes.
    fn literal(&mut self, tree: &mut TreeBuilder, folder: &TreePath, within: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = folder.join(within)?;
        tree.literal(path.clone(), bytes, mode)?;
        let hash = python::record_hash(Sha256::of(bytes));
        self.record_line(&path, within, hash, bytes.len().to_string());
        Ok(())
    }

    fn record_line(&mut self, path: &TreePath, within: &str, hash: String, size: String) {
        let written = relative(&self.scheme.library.to_string(), &path.to_string());
        self.record.push(RecordLine { within: within.to_owned(), written, hash, size });
    }

    /// A file of the wheel.
    fn member(&mut self, tree: &mut TreeBuilder, path: &TreePath, member: &Member) -> Result<()> {
        let (folder, within) = self.place(path)?;
        if *folder == self.scheme.scripts {
            let bytes = self.contents.to_vec(path, &member.content)?;
            let bytes = with_interpreter(&bytes, &self.scheme.interpreter);
            return self.literal(tree, folder, &within, &bytes, mode(member));
        }
        let target = folder.join(&within)?;
        let (hash, size) = match self.recorded.get(&path.to_string()) {
            Some((hash, size)) if hash.starts_with("sha256=") && !size.is_empty() => (hash.clone(), size.clone()),
            _ => self.hash(path, &member.content)?,
        };
        tree.stored(target.clone(), member.content, mode(member))?;
        self.record_line(&target, &within, hash, size);
        Ok(())
    }

    /// For a file that the wheel's `RECORD` says nothing, or something else, about.
    fn hash(&mut self, path: &TreePath, content: &Content) -> Result<(String, String)> {
        let mut hasher = Hasher::new();
        self.contents.read(path, content, &mut |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok((python::record_hash(hasher.finish()), content.size().to_string()))
    }

    /// The folder of the scheme that a member goes to, and its path there.
    fn place(&self, path: &TreePath) -> Result<(&'a TreePath, String)> {
        let text = path.to_string();
        if !path.is_within(&self.data) {
            return Ok((&self.scheme.library, text));
        }
        let rest = &text[self.data.to_string().len()..];
        let Some((scheme, within)) = rest.trim_start_matches('/').split_once('/') else {
            return Err(invalid(self.wheel, format!("`{path}` belongs to no scheme")));
        };
        let folder = match scheme {
            "purelib" | "platlib" => &self.scheme.library,
            "scripts" => &self.scheme.scripts,
            "data" => &self.scheme.data,
            "headers" => &self.scheme.headers,
            _ => return Err(invalid(self.wheel, format!("`{path}` belongs to the unknown scheme `{scheme}`"))),
        };
        // Headers have a folder for each distribution.
        match scheme {
            "headers" => {
                let distribution = text.split('-').next().unwrap_or_default();
                Ok((folder, format!("{distribution}/{within}")))
            }
            _ => Ok((folder, within.to_owned())),
        }
    }

    fn write_record(mut self, tree: &mut TreeBuilder, own: TreePath) -> Result<()> {
        let within = own.to_string();
        self.record.push(RecordLine {
            within: within.clone(),
            written: within.clone(),
            hash: String::new(),
            size: String::new(),
        });
        self.record.sort_by(|one, other| one.within.cmp(&other.within));
        let mut text = String::new();
        for line in &self.record {
            text.push_str(&format!("{},{},{}\n", python::csv_field(&line.written), line.hash, line.size));
        }
        tree.literal(self.scheme.library.join(&within)?, text.as_bytes(), 0o644)
    }
}

/// The one folder `NAME-VERSION.dist-info`, which must be the file name's.
fn dist_info(wheel: &Wheel<'_>, members: &BTreeMap<TreePath, Member>) -> Result<TreePath> {
    let mut found: Option<TreePath> = None;
    for path in members.keys() {
        let Some(folder) = path.as_bytes().split(|byte| *byte == b'/').next() else { continue };
        if folder.ends_with(b".dist-info") && path.as_bytes().len() > folder.len() {
            let folder = TreePath::new(folder)?;
            match &found {
                Some(known) if *known != folder => {
                    return Err(invalid(wheel, format!("it has both `{known}` and `{folder}`")));
                }
                _ => found = Some(folder),
            }
        }
    }
    found.ok_or_else(|| invalid(wheel, "it has no `.dist-info` folder"))
}

/// A wheel's `RECORD`: path, hash and size a line, as CSV.
fn parse_record(text: &str) -> BTreeMap<String, (String, String)> {
    let mut recorded = BTreeMap::new();
    for line in text.lines() {
        // The last two fields are never quoted.
        let mut fields = line.rsplitn(3, ',');
        if let (Some(size), Some(hash), Some(path)) = (fields.next(), fields.next(), fields.next()) {
            let path = match path.strip_prefix('"').and_then(|path| path.strip_suffix('"')) {
                Some(quoted) => quoted.replace("\"\"", "\""),
                None => path.to_owned(),
            };
            recorded.insert(path, (hash.to_owned(), size.to_owned()));
        }
    }
    recorded
}

/// A script whose first line is `#!python…` starts the image's interpreter.
fn with_interpreter(script: &[u8], interpreter: &str) -> Vec<u8> {
    if !script.starts_with(b"#!python") {
        return script.to_vec();
    }
    let rest = script.iter().position(|byte| *byte == b'\n').map_or(&b""[..], |end| &script[end..]);
    [b"#!", interpreter.as_bytes(), rest].concat()
}

/// `to` as seen from the folder `from`; both stand below the same root.
fn relative(from: &str, to: &str) -> String {
    let from: Vec<&str> = from.split('/').collect();
    let to: Vec<&str> = to.split('/').collect();
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let mut parts = vec![".."; from.len() - common];
    parts.extend(&to[common..]);
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_part() {
        let path = TreePath::new("nvidia/cublas/include/cublas.h").unwrap();
        assert_eq!(below(&path, "nvidia/*/include"), Some(&b"cublas.h"[..]));
        assert_eq!(below(&path, "nvidia/*/lib"), None);
        assert_eq!(below(&path, "nvidia/cublas/include/cublas.h/x"), None);
    }

    #[test]
    fn paths_are_written_as_seen_from_the_library() {
        let library = "usr/local/lib/python3.11/dist-packages";
        assert_eq!(relative(library, "usr/local/bin/f2py"), "../../../bin/f2py");
        assert_eq!(relative(library, &format!("{library}/numpy/__init__.py")), "numpy/__init__.py");
    }
}
