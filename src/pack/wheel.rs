//! Wheels to a tree (packaging.python.org, "Binary distribution format"), as the `installer` library
//! that Poetry uses lays them out. See `assemble_layers::python` for the texts it writes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use assemble_layers::derivation::{Layout, Relocation};
use assemble_layers::python::{self, Scheme};
use assemble_layers::{BlobDigest, Sha256, TreePath};

use super::content::LARGEST_IN_MEMORY;
use super::zip::{self, Member};
use super::{Contents, TreeBuilder};
use crate::{Error, Kind, Result};

/// The most that a wheel's `RECORD` may have, in bytes, inflated. That of PyTorch, with 12,000 files, has
/// one megabyte.
const LARGEST_RECORD: u64 = LARGEST_IN_MEMORY;

/// The most that any other file may have whose text says something, in bytes.
const LARGEST_TEXT: u64 = 1 << 20;

/// The most that a script may have, in bytes: some wheels bring whole programs as scripts. It is written
/// out once more, unlike other files.
const LARGEST_SCRIPT: u64 = 1 << 30;

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
pub fn unpack(
    wheel: &Wheel<'_>,
    layout: &Layout,
    contents: &mut Contents<'_>,
    tree: &mut TreeBuilder<impl Write>,
) -> Result<()> {
    contents.name(wheel.blob, wheel.filename);
    tree.begin(wheel.filename);
    let members = zip::members(wheel.path, wheel.blob, wheel.filename)?;
    let unpacked = match layout {
        Layout::Site(scheme) => Installation::new(wheel, scheme, &members, contents)?.install(tree),
        Layout::Relocate(rules) => relocate(wheel, rules, &members, contents, tree),
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
    contents: &mut Contents<'_>,
    tree: &mut TreeBuilder<impl Write>,
) -> Result<()> {
    for (path, member) in members {
        let Some((rule, rest)) = rules.iter().find_map(|rule| Some((rule, rule.rest(path)?))) else {
            return Err(invalid(wheel, format!("no rule of the recipe says where `{path}` goes")));
        };
        if let Some(folder) = &rule.to {
            let target = if rest.is_empty() { folder.clone() } else { folder.join(rest)? };
            tree.stored(target, member.content, mode(member), contents)?;
        }
    }
    Ok(())
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

/// Where a member goes.
struct Place {
    folder: TreePath,
    /// Below the folder.
    within: String,
    /// Whether it comes from the library scheme that is not the wheel's own: `RECORD` says `./` then.
    other_library: bool,
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
    /// The library scheme of what is in no `.data` folder.
    root: &'static str,
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
        let stem = dist_info.as_bytes().strip_suffix(b".dist-info").unwrap_or_default();
        let data = TreePath::new([stem, b".data"].concat())?;
        let mut this = Self {
            wheel,
            scheme,
            members,
            contents,
            dist_info,
            data,
            root: "platlib",
            recorded: BTreeMap::new(),
            record: Vec::new(),
        };
        let record = this.metadata("RECORD", LARGEST_RECORD)?;
        let record = record.ok_or_else(|| invalid(wheel, "it has no `RECORD`"))?;
        this.recorded = parse_record(&record, &|path| members.contains_key(path));
        let about = this.metadata("WHEEL", LARGEST_TEXT)?.unwrap_or_default();
        if about.lines().any(|line| line.trim_end() == "Root-Is-Purelib: true") {
            this.root = "purelib";
        }
        Ok(this)
    }

    /// A file of the wheel's `.dist-info`, of `limit` bytes at most.
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<String>> {
        let path = self.dist_info.join(name)?;
        let Some(member) = self.members.get(&path) else { return Ok(None) };
        self.check_size(&path, member, limit)?;
        let bytes = self.contents.to_vec(&path, &member.content)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| invalid(self.wheel, format!("its `{path}` is not UTF-8")))?;
        Ok(Some(text))
    }

    /// What inflates to more than is recorded is an error when it is read.
    fn check_size(&self, path: &TreePath, member: &Member, limit: u64) -> Result<()> {
        match member.content.size() > limit {
            true => Err(invalid(self.wheel, format!("its `{path}` is larger than {limit} bytes"))),
            false => Ok(()),
        }
    }

    fn install(mut self, tree: &mut TreeBuilder<impl Write>) -> Result<()> {
        let entry_points = self.metadata("entry_points.txt", LARGEST_TEXT)?.unwrap_or_default();
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

    fn metadata_file(&mut self, tree: &mut TreeBuilder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dist_info.join(name)?;
        self.literal(tree, &self.scheme.library, self.text(&path)?, bytes, 0o644)
    }

    /// A file that the installer writes.
    fn literal(
        &mut self,
        tree: &mut TreeBuilder<impl Write>,
        folder: &TreePath,
        within: &str,
        bytes: &[u8],
        mode: u32,
    ) -> Result<()> {
        let path = folder.join(within)?;
        let made = tree.written(path.clone(), mode, |file| Ok(file.write_all(bytes)?))?;
        self.record_made(&path, within, made)
    }

    /// A line about a file that the installer wrote.
    fn record_made(&mut self, path: &TreePath, within: &str, (sha256, size): (Sha256, u64)) -> Result<()> {
        let (within, written) = (within.to_owned(), self.written(path)?);
        let (hash, size) = (python::record_hash(sha256), size.to_string());
        self.record.push(RecordLine { within, written, hash, size });
        Ok(())
    }

    /// A script of the wheel, which starts the image's interpreter.
    fn script(
        &mut self,
        tree: &mut TreeBuilder<impl Write>,
        path: &TreePath,
        member: &Member,
        within: &str,
    ) -> Result<()> {
        self.check_size(path, member, LARGEST_SCRIPT)?;
        let target = self.scheme.scripts.join(within)?;
        let (scheme, contents) = (self.scheme, &mut *self.contents);
        let made = tree.written(target.clone(), mode(member), |file| {
            let mut script = Script::new(&scheme.interpreter);
            contents.read(path, &member.content, &mut |piece| Ok(script.copy(piece, file)?))?;
            Ok(script.finish(file)?)
        })?;
        self.record_made(&target, within, made)
    }

    /// A path as seen from the library.
    fn written(&self, path: &TreePath) -> Result<String> {
        Ok(relative(self.text(&self.scheme.library)?, self.text(path)?))
    }

    /// A path as it stands in `RECORD`, which is UTF-8.
    fn text<'p>(&self, path: &'p TreePath) -> Result<&'p str> {
        std::str::from_utf8(path.as_bytes())
            .map_err(|_| invalid(self.wheel, format!("the name of its member `{path}` is not UTF-8")))
    }

    /// A file of the wheel.
    fn member(&mut self, tree: &mut TreeBuilder<impl Write>, path: &TreePath, member: &Member) -> Result<()> {
        let Place { folder, within, other_library } = self.place(path)?;
        let size = member.content.size().to_string();
        if folder == self.scheme.scripts {
            return self.script(tree, path, member, &within);
        }
        let target = folder.join(&within)?;
        let hash = match self.recorded.get(self.text(path)?) {
            Some((hash, recorded)) if hash.starts_with("sha256=") && *recorded == size => hash.clone(),
            // The wheel's `RECORD` says nothing, or something else, about it.
            _ => python::record_hash(self.contents.digest(path, &member.content)?),
        };
        tree.stored(target.clone(), member.content, mode(member), self.contents)?;
        let written = self.written(&target)?;
        let written = if other_library { format!("./{written}") } else { written };
        self.record.push(RecordLine { within, written, hash, size });
        Ok(())
    }

    fn place(&self, path: &TreePath) -> Result<Place> {
        let text = self.text(path)?;
        if !path.is_within(&self.data) {
            let folder = self.scheme.library.clone();
            return Ok(Place { folder, within: text.to_owned(), other_library: false });
        }
        let rest = &text[self.data.as_bytes().len()..];
        let Some((scheme, within)) = rest.trim_start_matches('/').split_once('/') else {
            return Err(invalid(self.wheel, format!("`{path}` belongs to no scheme")));
        };
        let folder = match scheme {
            "purelib" | "platlib" => self.scheme.library.clone(),
            "scripts" => self.scheme.scripts.clone(),
            "data" => self.scheme.data.clone(),
            // Headers have a folder for each distribution.
            "headers" => self.scheme.headers.join(text.split('-').next().unwrap_or_default())?,
            _ => {
                return Err(invalid(
                    self.wheel,
                    format!("`{path}` belongs to the unknown scheme `{scheme}`"),
                ));
            }
        };
        let other_library = matches!(scheme, "purelib" | "platlib") && scheme != self.root;
        Ok(Place { folder, within: within.to_owned(), other_library })
    }

    fn write_record(mut self, tree: &mut TreeBuilder<impl Write>, own: TreePath) -> Result<()> {
        let within = self.text(&own)?.to_owned();
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

/// The one folder `NAME-VERSION.dist-info`, whose name must be the file name's.
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
    let found = found.ok_or_else(|| invalid(wheel, "it has no `.dist-info` folder"))?;
    let name = found.as_bytes().strip_suffix(b".dist-info").unwrap_or_default();
    let name = name.rsplitn(2, |byte| *byte == b'-').last().unwrap_or_default();
    let wanted = wheel.filename.split('-').next().unwrap_or_default();
    if normalized(name) != normalized(wanted.as_bytes()) {
        return Err(invalid(wheel, format!("its `{found}` is another distribution's")));
    }
    Ok(found)
}

/// A distribution's name as it is compared (packaging.python.org, "Names and normalization").
fn normalized(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|byte| b"-_.".contains(byte)).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(&b'-').to_ascii_lowercase()
}

/// A wheel's `RECORD`: path, hash and size a line, as CSV. What it says of other files than the wheel
/// `has` is not kept.
fn parse_record(text: &str, has: &dyn Fn(&TreePath) -> bool) -> BTreeMap<String, (String, String)> {
    let mut recorded = BTreeMap::new();
    for line in text.lines() {
        // The last two fields are never quoted.
        let mut fields = line.rsplitn(3, ',');
        if let (Some(size), Some(hash), Some(path)) = (fields.next(), fields.next(), fields.next()) {
            let path = match path.strip_prefix('"').and_then(|path| path.strip_suffix('"')) {
                Some(quoted) => quoted.replace("\"\"", "\""),
                None => path.to_owned(),
            };
            if TreePath::new(path.as_str()).is_ok_and(|path| has(&path)) {
                recorded.insert(path, (hash.to_owned(), size.to_owned()));
            }
        }
    }
    recorded
}

/// What begins a script that is to start the image's interpreter; the rest of its first line goes.
const PYTHON: &[u8] = b"#!python";

/// A script as it passes.
struct Script<'a> {
    interpreter: &'a str,
    state: ScriptState,
}

enum ScriptState {
    /// As much of [`PYTHON`] was there as it says.
    Beginning(usize),
    /// In the first line of a script for the interpreter.
    FirstLine,
    Rest,
}

impl<'a> Script<'a> {
    fn new(interpreter: &'a str) -> Self {
        Self { interpreter, state: ScriptState::Beginning(0) }
    }

    fn copy(&mut self, mut piece: &[u8], to: &mut dyn Write) -> std::io::Result<()> {
        while !piece.is_empty() {
            match self.state {
                ScriptState::Beginning(seen) if seen == PYTHON.len() => {
                    writeln!(to, "#!{}", self.interpreter)?;
                    self.state = ScriptState::FirstLine;
                }
                ScriptState::Beginning(seen) if piece[0] == PYTHON[seen] => {
                    self.state = ScriptState::Beginning(seen + 1);
                    piece = &piece[1..];
                }
                ScriptState::Beginning(seen) => {
                    to.write_all(&PYTHON[..seen])?;
                    self.state = ScriptState::Rest;
                }
                ScriptState::FirstLine => match piece.iter().position(|byte| *byte == b'\n') {
                    None => return Ok(()),
                    Some(end) => {
                        self.state = ScriptState::Rest;
                        piece = &piece[end + 1..];
                    }
                },
                ScriptState::Rest => return to.write_all(piece),
            }
        }
        Ok(())
    }

    /// The script has ended.
    fn finish(self, to: &mut dyn Write) -> std::io::Result<()> {
        match self.state {
            ScriptState::Beginning(seen) if seen == PYTHON.len() => writeln!(to, "#!{}", self.interpreter),
            ScriptState::Beginning(seen) => to.write_all(&PYTHON[..seen]),
            ScriptState::FirstLine | ScriptState::Rest => Ok(()),
        }
    }
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
    fn a_script_starts_the_interpreter_however_it_is_cut() {
        let cases = [
            ("#!python\nimport x\n", "#!/usr/bin/python3\nimport x\n"),
            ("#!pythonw -E\n\nx", "#!/usr/bin/python3\n\nx"),
            ("#!python", "#!/usr/bin/python3\n"),
            ("#!python3", "#!/usr/bin/python3\n"),
            ("#!pyth", "#!pyth"),
            ("#!pythom\nx", "#!pythom\nx"),
            ("#!/bin/sh\n#!python\n", "#!/bin/sh\n#!python\n"),
            ("\x7fELF", "\x7fELF"),
            ("", ""),
        ];
        for (text, wanted) in cases {
            for size in 1..=text.len().max(1) {
                let mut script = Script::new("/usr/bin/python3");
                let mut made = Vec::new();
                text.as_bytes().chunks(size).for_each(|piece| script.copy(piece, &mut made).unwrap());
                script.finish(&mut made).unwrap();
                assert_eq!(String::from_utf8(made).unwrap(), wanted, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn paths_are_written_as_seen_from_the_library() {
        let library = "usr/local/lib/python3.11/dist-packages";
        assert_eq!(relative(library, "usr/local/bin/f2py"), "../../../bin/f2py");
        assert_eq!(relative(library, &format!("{library}/numpy/__init__.py")), "numpy/__init__.py");
    }
}
