//! Asking the front end and pip: `resolve` in the sandbox, on the image's own Python.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use assemble_layers::derivation::Output;
use assemble_layers::front_end::FrontEnd;
use assemble_layers::lock::{Python, Requirements, Selection, ServedBy};
use assemble_layers::project::ProjectFileKind;
use assemble_layers::{BlobDigest, Kind as EntryKind, TreePath};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::Manifest;
use super::index::{self, Index};
use crate::fetch::Fetcher;
use crate::fetch::python::DEFAULT;
use crate::realise::{Engine, Event};
use crate::sandbox::{Bind, Command, Job, Outcome, Task};
use crate::store::Store;
use crate::{Error, Kind, Result};

/// The program that asks. The first of its files documents it.
const PROGRAM: [(&str, &str); 8] = [
    ("__main__.py", include_str!("resolve/__main__.py")),
    ("common.py", include_str!("resolve/common.py")),
    ("environment.py", include_str!("resolve/environment.py")),
    ("front_end.py", include_str!("resolve/front_end.py")),
    ("index.py", include_str!("resolve/index.py")),
    ("poetry_project.py", include_str!("resolve/poetry_project.py")),
    ("pylock_project.py", include_str!("resolve/pylock_project.py")),
    ("tools.py", include_str!("resolve/tools.py")),
];

/// Where the sandbox sees the question, and where it leaves the answer.
const QUESTION: &str = "/lock";
const ANSWER: &str = "lock-answer";

/// Poetry's settings of a project.
const SETTINGS: &str = "poetry.toml";
/// The most that they may have, in bytes.
const LARGEST_SETTINGS: u64 = 1 << 20;

/// Poetry's settings of a project that say where something is, or who may have it: known outside alone.
const OUTSIDE: [&str; 4] = ["certificates", "http-basic", "pypi-token", "repositories"];

/// What is asked.
pub(super) struct Question<'a> {
    pub project: &'a Path,
    pub manifest: &'a Manifest,
    pub requirements: &'a Requirements,
    /// The sources of `pyproject.toml` that the default index serves, or another address than theirs.
    pub served_by: BTreeMap<String, ServedBy>,
    /// An earlier answer, whose versions are kept where they can be.
    pub previous: Option<&'a Python>,
    /// Names that may move all the same.
    pub update: &'a [String],
    /// What images can be built upon, and the Python of each: `3.11`.
    pub bases: &'a [(String, String)],
}

#[derive(Serialize)]
struct Request<'a> {
    project: String,
    front_end: FrontEnd,
    workdir: &'a str,
    /// Where the default index's simple pages are, and those of the sources: inside.
    index: String,
    sources: BTreeMap<&'a str, String>,
    served_by: &'a BTreeMap<String, ServedBy>,
    tools: &'a [String],
    tools_apart: bool,
    selections: Vec<Asked<'a>>,
    collections: &'a BTreeMap<String, Vec<String>>,
    previous: Option<serde_json::Value>,
    update: &'a [String],
    bases: &'a [(String, String)],
}

/// A selection, and what `wanted_by` is to call it.
#[derive(Serialize)]
struct Asked<'a> {
    name: String,
    with: &'a [String],
    without: &'a [String],
    only: &'a [String],
    extras: &'a [String],
}

impl<'a> From<&'a Selection> for Asked<'a> {
    fn from(selection: &'a Selection) -> Self {
        let Selection { with, without, only, extras } = selection;
        Self { name: selection.to_string(), with, without, only, extras }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Failure { error: Failure },
    Success(Box<Python>),
}

#[derive(Deserialize)]
struct Failure {
    kind: String,
    message: String,
    #[serde(default)]
    detail: Option<String>,
}

/// Runs the program over `root` (tree files, and the files of their contents), and reads its answer. The
/// engine fetches what the program asks the indexes for.
pub(super) fn ask(
    question: &Question<'_>,
    engine: &Engine<'_>,
    fetcher: &Fetcher,
    root: Vec<PathBuf>,
    blobs: BTreeMap<BlobDigest, PathBuf>,
) -> Result<Python> {
    fetcher.online("pages of the Python index")?;
    fetcher.check_for_locking()?;
    let working = engine.store.working_folder()?;
    let folder = working.path().join("question");
    fs::create_dir(&folder)?;
    write_question(question, engine.store, &folder)?;
    let sandbox = working.path().join("sandbox");
    fs::create_dir(&sandbox)?;
    let output = Some(Output::Folder(TreePath::new(ANSWER)?));
    let task = Task::Run { command: command(&folder), listen: Some(index::PORT), output };
    let job = Job { folder: sandbox, root, blobs, task };
    let index = Index::new(engine, fetcher, question.manifest.sources.iter().map(|(name, _)| name.clone()));
    let result = std::thread::scope(|scope| {
        let mut listening = None;
        let mut serve = |listener| listening = Some(index.serve(scope, listener));
        let mut log = |line: &str| {
            engine.send(Event::Log { name: index::STEP.to_owned(), line: line.to_owned() });
        };
        engine.sandbox.run_served(&job, &mut serve, &mut log)
    });
    index.judge(result.and_then(|outcome| {
        let python = read_answer(&outcome)?;
        check_files(&python, &index)?;
        Ok(python)
    }))
}

/// Code that is not ours ran beside the program, and can have changed its answer: it names nothing but
/// files that an index lists.
fn check_files(python: &Python, index: &Index<'_>) -> Result<()> {
    let built_with = python.packages.iter().flat_map(|package| &package.build);
    let collections = python.collections.values().flatten();
    for one in python.packages.iter().chain(built_with).chain(&python.tools).chain(collections) {
        if !index.lists(one.source.as_deref(), &one.name, &one.file)? {
            let message = format!("`{}` is not listed by the index that it should come from", one.file.name);
            return Err(Error::new(Kind::Input, message)
                .detail(format!("sha256 {}, {} bytes, of `{}`", one.file.sha256, one.file.size, one.name))
                .hint("a distribution whose metadata was built has changed what was decided, or the index just now"));
        }
    }
    Ok(())
}

/// What the program decided, or why it could not.
fn read_answer(outcome: &Outcome) -> Result<Python> {
    let bytes = answer_file(outcome)?;
    let answer = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(Kind::Internal, format!("`resolve` left an answer that cannot be read: {error}"))
    })?;
    match answer {
        Answer::Success(python) => Ok(*python),
        Answer::Failure { error } => Err(error.into_error()),
    }
}

fn write_question(question: &Question<'_>, store: &Store, folder: &Path) -> Result<()> {
    let python = &question.requirements.python;
    let front_end = python.front_end();
    write_project(question.project, question.manifest, front_end, store, &folder.join("project"))?;
    let sources = question.manifest.sources.iter();
    let request = Request {
        project: format!("{QUESTION}/project"),
        front_end,
        workdir: "/tmp",
        index: index::simple_pages(DEFAULT),
        sources: sources.map(|(name, _)| (name.as_str(), index::simple_pages(name))).collect(),
        served_by: &question.served_by,
        tools: &python.tools,
        tools_apart: python.tools_apart,
        selections: python.selections.iter().map(Asked::from).collect(),
        collections: &python.collections,
        previous: question.previous.map(previous).transpose()?,
        update: question.update,
        bases: question.bases,
    };
    let json = serde_json::to_vec(&request).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    fs::write(folder.join("request.json"), json)?;
    let program = folder.join("resolve");
    fs::create_dir(&program)?;
    PROGRAM.iter().try_for_each(|(name, text)| Ok(fs::write(program.join(name), text)?))
}

/// Copies the project for code that is not ours: the names of its files, by which packages are found, and the
/// content of those alone that its metadata has. Another may hold what only its owner is to know.
fn write_project(
    from: &Path,
    manifest: &Manifest,
    front_end: FrontEnd,
    store: &Store,
    to: &Path,
) -> Result<()> {
    let project = crate::project::read(from, &[], store)?;
    fs::create_dir(to)?;
    for file in &project.files {
        let path = Path::new(OsStr::from_bytes(file.path.as_bytes()));
        match &file.kind {
            ProjectFileKind::Directory => fs::create_dir_all(to.join(path))?,
            ProjectFileKind::File { .. } if manifest.is_metadata(path) => copy_into(from, path, to)?,
            ProjectFileKind::File { .. } => {
                fs::create_dir_all(to.join(path).parent().unwrap_or(to))?;
                drop(fs::File::create(to.join(path))?);
            }
            // What Poetry takes for a package is a folder or a file.
            ProjectFileKind::Symlink(_) => {}
        }
    }
    // These are shown where `.dockerignore` names them as well.
    let named = manifest.metadata().map(Path::to_owned);
    let named = named.chain(["pyproject.toml", front_end.lock_file()].map(PathBuf::from));
    let at_the_top = fs::read_dir(from)?.map(|entry| Ok(PathBuf::from(entry?.file_name())));
    let at_the_top = at_the_top.collect::<Result<Vec<_>>>()?;
    let by_name = at_the_top.into_iter().filter(|path| manifest.is_metadata(path));
    for path in named.chain(by_name).filter(|path| from.join(path).is_file()) {
        copy_into(from, &path, to)?;
    }
    write_settings(from, to)
}

/// Copies a file of the project, and the folders above it.
fn copy_into(from: &Path, name: &Path, to: &Path) -> Result<()> {
    let mut file = crate::project::open(from, name)?;
    let copy = to.join(name);
    copy.parent().map_or(Ok(()), fs::create_dir_all)?;
    std::io::copy(&mut file, &mut fs::File::create(copy)?)?;
    Ok(())
}

/// Copies `poetry.toml`, but for what the sandbox is not to know.
fn write_settings(from: &Path, to: &Path) -> Result<()> {
    let path = from.join(SETTINGS);
    let Some(text) = crate::project::text(from, SETTINGS, LARGEST_SETTINGS)? else { return Ok(()) };
    let settings = text.parse::<toml::Table>().map_err(|error| {
        Error::new(Kind::Input, format!("`{}` cannot be read", path.display())).detail(error.message())
    })?;
    let kept: toml::Table =
        settings.into_iter().filter(|(name, _)| !OUTSIDE.contains(&name.as_str())).collect();
    Ok(fs::write(to.join(SETTINGS), kept.to_string())?)
}

/// An earlier answer, with the fields that a lock leaves out where they say nothing.
fn previous(python: &Python) -> Result<serde_json::Value> {
    let mut value =
        serde_json::to_value(python).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    let absent = serde_json::json!({
        "requested": false, "requires": [], "source": null, "groups": [], "wanted_by": [], "markers": null,
        "optional": false, "python_versions": "*", "dependencies": {}, "extras": {},
    });
    let fill = |list: &mut serde_json::Value| {
        for distribution in list.as_array_mut().into_iter().flatten() {
            for (name, nothing) in absent.as_object().into_iter().flatten() {
                if distribution.get(name).is_none() {
                    distribution[name] = nothing.clone();
                }
            }
        }
    };
    fill(&mut value["packages"]);
    fill(&mut value["tools"]);
    value["collections"].as_object_mut().into_iter().flat_map(|lists| lists.values_mut()).for_each(fill);
    Ok(value)
}

/// The program's command. Its environment is the sandbox's own, and nothing of the caller's.
fn command(folder: &Path) -> Command {
    let script = format!(
        "mkdir /{ANSWER} && cd /tmp && {{ python3 {QUESTION}/resolve {QUESTION}/request.json /{ANSWER}/answer.json \
         || test -s /{ANSWER}/answer.json; }}"
    );
    let mut command = Command::new(["/bin/sh", "-c", &script]);
    command.binds.push(Bind { source: folder.to_owned(), target: PathBuf::from(QUESTION), writable: false });
    command
}

fn answer_file(outcome: &Outcome) -> Result<Vec<u8>> {
    let nothing = || Error::new(Kind::Internal, "`resolve` left no answer");
    let entry = outcome
        .tree
        .entries()
        .iter()
        .find(|entry| entry.path.as_bytes() == b"answer.json")
        .ok_or_else(nothing)?;
    let EntryKind::File(content) = &entry.kind else { return Err(nothing()) };
    let tar = outcome.tar.clone();
    let file_of = move |_| tar.clone();
    crate::pack::Contents::new(&file_of).to_vec(&entry.path, content)
}

impl Failure {
    fn into_error(self) -> Error {
        let kind = match self.kind.as_str() {
            "source" | "bootstrap" | "file" => Kind::Network,
            "request" => Kind::Usage,
            "internal" => Kind::Internal,
            "resolve" | "tools" | "collection" => Kind::Conflict,
            _ => Kind::Input,
        };
        let error = Error::new(kind, self.message);
        let error = match self.detail.filter(|detail| !detail.is_empty()) {
            Some(detail) => error.detail(detail),
            None => error,
        };
        match self.kind.as_str() {
            "source" => error.hint("`--index NAME=URL` points a source elsewhere (`--index NAME=pypi`: to the default index); the lock will say so"),
            "python" => error.hint("`--base NAME` builds upon another base; or let `requires-python` allow this one"),
            _ => error,
        }
    }
}
