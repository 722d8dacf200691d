//! Asking Poetry and pip: `resolve.py` in the sandbox, on the image's own Python.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assemble_layers::derivation::Output;
use assemble_layers::lock::{Python, Requirements};
use assemble_layers::{BlobDigest, Kind as EntryKind, TreePath};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::sandbox::{Bind, Command, Job, Sandbox, Task};
use crate::store::Store;
use crate::{Error, Kind, Result};

/// The script that asks. Its `//!` is its documentation.
const SCRIPT: &str = include_str!("resolve.py");

/// Where the sandbox sees the question, and where it leaves the answer.
const QUESTION: &str = "/lock";
const ANSWER: &str = "lock-answer";

/// Files of the project that its metadata may name.
const METADATA_FILES: [&str; 5] = ["pyproject.toml", "poetry.toml", "README.md", "README.rst", "LICENSE"];

/// Variables of the caller that pip and Poetry know, and that say where indexes are and how they
/// are reached. They reach the sandbox, and no key, log or layer.
fn is_passed_on(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"];
    NAMES.contains(&name.to_ascii_uppercase().as_str())
        || name.starts_with("POETRY_HTTP_BASIC_")
        || name.starts_with("POETRY_PYPI_TOKEN_")
        || name == "PIP_DEFAULT_TIMEOUT"
}

/// What is asked.
pub(super) struct Question<'a> {
    pub project: &'a Path,
    pub requirements: &'a Requirements,
    /// The address of the default index, where one was given.
    pub default_index: Option<String>,
    /// Named sources that are pointed elsewhere.
    pub sources: BTreeMap<String, String>,
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
    workdir: &'a str,
    default_index: Option<String>,
    sources: &'a BTreeMap<String, String>,
    tools: &'a [String],
    tool_constraints: [String; 0],
    collections: &'a BTreeMap<String, Vec<String>>,
    previous: Option<serde_json::Value>,
    update: &'a [String],
    bases: &'a [(String, String)],
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

/// Runs the script over `root` (tree files, and the files of their contents), and reads its answer.
pub(super) fn ask(
    question: &Question<'_>,
    (store, sandbox): (&Store, &Sandbox),
    root: Vec<PathBuf>,
    blobs: BTreeMap<BlobDigest, PathBuf>,
    on_line: &mut dyn FnMut(&str),
) -> Result<Python> {
    let working = store.working_folder()?;
    let folder = working.path().join("question");
    fs::create_dir(&folder)?;
    write_question(question, &folder)?;
    let job = working.path().join("sandbox");
    fs::create_dir(&job)?;
    let output = Output::Folder(TreePath::new(ANSWER)?);
    let task = Task::Run { command: command(&folder)?, listen: None, output: Some(output) };
    let outcome = sandbox.run(&Job { folder: job, root, blobs, task }, on_line)?;
    let bytes = read_answer(&outcome)?;
    let answer = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(Kind::Internal, format!("`resolve.py` left an answer that cannot be read: {error}"))
    })?;
    match answer {
        Answer::Success(python) => Ok(*python),
        Answer::Failure { error } => Err(error.into_error()),
    }
}

fn write_question(question: &Question<'_>, folder: &Path) -> Result<()> {
    let project = folder.join("project");
    fs::create_dir(&project)?;
    for name in METADATA_FILES {
        if question.project.join(name).exists() {
            copy_into(question.project, Path::new(name), &project)?;
        }
    }
    // An editable install looks for the package's folder.
    for entry in fs::read_dir(question.project)? {
        let entry = entry?;
        if entry.path().join("__init__.py").exists() {
            fs::create_dir(project.join(entry.file_name()))?;
            copy_into(question.project, &Path::new(&entry.file_name()).join("__init__.py"), &project)?;
        }
    }
    let request = Request {
        project: format!("{QUESTION}/project"),
        workdir: "/tmp",
        default_index: question.default_index.clone(),
        sources: &question.sources,
        tools: &question.requirements.python.tools,
        tool_constraints: [],
        collections: &question.requirements.python.collections,
        previous: question.previous.map(previous).transpose()?,
        update: question.update,
        bases: question.bases,
    };
    let json = serde_json::to_vec(&request).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    fs::write(folder.join("request.json"), json)?;
    fs::write(folder.join("resolve.py"), SCRIPT)?;
    if let Some(certificates) = certificates() {
        fs::copy(certificates, folder.join("certificates.pem"))?;
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let netrc = std::env::var_os("NETRC").map_or_else(|| home.join(".netrc"), PathBuf::from);
    if netrc.exists() {
        fs::copy(netrc, folder.join("netrc"))?;
    }
    Ok(())
}

/// Copies a file of the project for code that is not ours: no link of it leads out.
fn copy_into(from: &Path, name: &Path, to: &Path) -> Result<()> {
    let mut file = crate::project::open(from, name)?;
    std::io::copy(&mut file, &mut fs::File::create(to.join(name))?)?;
    Ok(())
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

/// The certificates that the machine trusts.
fn certificates() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    named.into_iter().chain(usual.map(PathBuf::from)).find(|path| path.exists())
}

fn command(folder: &Path) -> Result<Command> {
    let script = format!(
        "mkdir /{ANSWER} && cd /tmp && {{ python3 {QUESTION}/resolve.py {QUESTION}/request.json /{ANSWER}/answer.json \
         || test -s /{ANSWER}/answer.json; }}"
    );
    let mut command = Command::new(["/bin/sh", "-c", &script]);
    command.binds.push(Bind { source: folder.to_owned(), target: PathBuf::from(QUESTION), writable: false });
    for (name, value) in std::env::vars() {
        if is_passed_on(&name) {
            command.environment.insert(name, value);
        }
    }
    if folder.join("certificates.pem").exists() {
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"] {
            command.environment.insert(name.to_owned(), format!("{QUESTION}/certificates.pem"));
        }
    }
    if folder.join("netrc").exists() {
        command.environment.insert("NETRC".to_owned(), format!("{QUESTION}/netrc"));
    }
    Ok(command)
}

fn read_answer(outcome: &crate::sandbox::Outcome) -> Result<Vec<u8>> {
    let nothing = || Error::new(Kind::Internal, "`resolve.py` left no answer");
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
