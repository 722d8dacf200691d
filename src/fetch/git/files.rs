//! The files of a commit, read from its objects.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use assemble_layers::{Commit, TreePath};

use super::{Repository, no_git};
use crate::{Error, Kind, Result};

/// More entries than any repository has: a few objects can unfold to any number.
const MOST: usize = 4_000_000;

/// What the entries take in memory, in bytes: rather more than four million usual ones.
const MEMORY: usize = 1 << 30;

/// What an entry takes beside its path, in bytes.
const ENTRY: usize = 128;

/// A line about an entry, in bytes, with a path as Linux takes it.
const LONGEST_LINE: u64 = 4096 + 128;

/// The longest target of a link (Linux, `PATH_MAX`).
const LONGEST_LINK: u64 = 4096;

/// One file of a commit.
pub struct Member {
    pub path: TreePath,
    pub kind: MemberKind,
    object: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberKind {
    File { executable: bool },
    Link,
}

impl Member {
    /// The same below a submodule's folder.
    pub(super) fn below(mut self, folder: &[u8]) -> Self {
        if !folder.is_empty() {
            // A submodule's folder is a path, as it was checked when it was listed.
            if let Ok(path) = TreePath::new(folder).and_then(|folder| folder.join(self.path.as_bytes())) {
                self.path = path;
            }
        }
        self
    }
}

pub(super) struct Listed {
    pub members: Vec<Member>,
    pub submodules: Vec<(Vec<u8>, Commit)>,
}

/// Everything that a commit's own tree holds.
pub(super) fn list(repository: &Repository<'_>, commit: &Commit) -> Result<Listed> {
    let mut command = repository.command(["ls-tree", "-r", "-z", "--full-tree", commit.as_str()]);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| no_git(&error))?;
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut listed = Listed { members: Vec::new(), submodules: Vec::new() };
    let mut line = Vec::new();
    let mut memory = 0;
    while output.by_ref().take(LONGEST_LINE).read_until(0, &mut line)? > 0 {
        let whole = line.strip_suffix(b"\0");
        let too_long = || Error::new(Kind::Input, "it has a path of more than 4096 bytes");
        let added = whole.ok_or_else(too_long).and_then(|line| add(&mut listed, line));
        memory += line.len() + ENTRY;
        line.clear();
        let many = listed.members.len() > MOST || memory > MEMORY;
        if added.is_err() || many {
            let _ = child.kill();
            let _ = child.wait();
            let hostile = |error: Error| error.within(format!("the commit `{commit}` is not to be trusted"));
            added.map_err(hostile)?;
            return Err(hostile(Error::new(
                Kind::Input,
                format!("it unfolds to more than {MOST} files, or {} MiB", MEMORY >> 20),
            )));
        }
    }
    match child.wait()?.success() {
        true => Ok(listed),
        false => Err(broken(&format!("the tree of `{commit}`"))),
    }
}

/// `MODE TYPE OBJECT\tPATH` (git-ls-tree(1), "Output format").
fn add(listed: &mut Listed, line: &[u8]) -> Result<()> {
    let strange = || Error::new(Kind::Input, format!("git lists `{}`", String::from_utf8_lossy(line)));
    let tab = line.iter().position(|byte| *byte == b'\t').ok_or_else(strange)?;
    let about = std::str::from_utf8(&line[..tab]).map_err(|_| strange())?;
    let path = TreePath::new(&line[tab + 1..])?;
    let git_folder = |part: &[u8]| part.eq_ignore_ascii_case(b".git");
    if path.as_bytes().split(|byte| *byte == b'/').any(git_folder) {
        return Err(Error::new(Kind::Input, format!("it holds a file `{path}`, which git itself keeps")));
    }
    let mut fields = about.split(' ');
    let (mode, object) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
    let kind = match mode {
        "160000" => {
            let commit = object.parse().map_err(|_| strange())?;
            listed.submodules.push((path.as_bytes().to_vec(), commit));
            return Ok(());
        }
        "120000" => MemberKind::Link,
        _ => MemberKind::File { executable: mode.ends_with("755") },
    };
    listed.members.push(Member { path, kind, object: object.to_owned() });
    Ok(())
}

/// Whether this can be what `git ls-tree` and then `git cat-file` print: for `fuzzing`.
pub(crate) fn reads_printed(printed: &[u8]) -> bool {
    let (listing, answers) = printed.split_at(printed.windows(2).position(|two| two == b"\0\0").unwrap_or(0));
    let mut listed = Listed { members: Vec::new(), submodules: Vec::new() };
    let mut lines = listing.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let mut answers = answers.get(2..).unwrap_or_default();
    lines.all(|line| add(&mut listed, line).is_ok())
        && listed.members.iter().all(|member| {
            let skip = &mut |_: &Member, _, content: &mut dyn Read| {
                Ok(std::io::copy(content, &mut std::io::sink()).map(drop)?)
            };
            one(member, &mut answers, skip).is_ok()
        })
}

/// Reads the members' bytes one after the other: `open` is told each one's size, and `write` gets it in
/// pieces.
///
/// # Errors
/// An object that is gone; those of `each`.
pub fn files(
    repository: &Repository<'_>,
    members: &[Member],
    each: &mut dyn FnMut(&Member, u64, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut command = repository.command(["cat-file", "--batch"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| no_git(&error))?;
    let mut requests = child.stdin.take().expect("piped");
    let mut answers = BufReader::with_capacity(1 << 17, child.stdout.take().expect("piped"));
    let mut read = || {
        for member in members {
            writeln!(requests, "{}", member.object)?;
            requests.flush()?;
            one(member, &mut answers, each)?;
        }
        Ok(())
    };
    let result = read();
    drop(requests);
    let _ = child.kill();
    let _ = child.wait();
    result
}

/// `OBJECT TYPE SIZE`, the bytes, a line feed (git-cat-file(1), "Batch output").
fn one(
    member: &Member,
    answers: &mut impl BufRead,
    each: &mut dyn FnMut(&Member, u64, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut head = String::new();
    answers.read_line(&mut head)?;
    let mut fields = head.trim_end().split(' ');
    let gone = || broken(&format!("`{}` (object `{}`)", member.path, member.object));
    let (Some("blob"), Some(size)) = (fields.nth(1), fields.next()) else { return Err(gone()) };
    let size: u64 = size.parse().map_err(|_| gone())?;
    if member.kind == MemberKind::Link && size > LONGEST_LINK {
        return Err(Error::new(Kind::Input, format!("the link `{}` is {size} bytes long", member.path)));
    }
    let mut content = answers.take(size);
    each(member, size, &mut content)?;
    if content.limit() > 0 {
        return Err(gone());
    }
    let mut end = [0];
    answers.read_exact(&mut end)?;
    Ok(())
}

fn broken(what: &str) -> Error {
    Error::new(Kind::Store, format!("the store's Git repository has not {what}"))
        .hint("remove the folder `git` of the store; what it held is fetched again")
}
