//! The example's image (`examples/small.rs`) and what is tested on it: its program, a lock that was
//! made just now, and every file of that lock, so that nothing is downloaded twice.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use assemble_layers::lock::Lock;
use assemble_layers::{BlobDigest, Sha256};
use serde::Deserialize;

use super::{output, skipped};

/// A lock that is younger was made by the test program that ran just before this one.
const JUST_NOW: Duration = Duration::from_secs(15 * 60);

/// What all cases share. It is in a folder that an ordinary user can enter.
pub struct Small {
    folder: PathBuf,
    /// The example, built.
    pub program: PathBuf,
    /// A copy of the example's project, with a lock.
    pub project: PathBuf,
    /// A store that holds the locked files and not one result.
    pub downloads: PathBuf,
    pub lock: Lock,
    /// What a first build into an empty store came to.
    pub built: Built,
    /// The store of that build.
    pub store: PathBuf,
    /// Of the archive that it wrote.
    pub archive: Sha256,
}

/// What `assemble image --json` prints, no field more and no field less.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "fields that no test reads are named as well")]
pub struct Built {
    pub digest: String,
    pub config: String,
    pub media_type: String,
    pub variant: String,
    pub layers: Vec<Layer>,
    pub loaded: Option<Loaded>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// What `--load` came to, in bytes.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    pub names: Vec<String>,
    pub sent: u64,
    pub spared: u64,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "fields that no test reads are named as well")]
pub struct Layer {
    pub diffid: String,
    pub digest: String,
    pub size: u64,
    pub step: String,
    pub name: String,
    pub had: String,
    pub seconds: f64,
}

impl Built {
    /// The steps whose layers were had like this.
    pub fn had(&self, had: &str) -> Vec<&str> {
        self.layers.iter().filter(|layer| layer.had == had).map(|layer| layer.step.as_str()).collect()
    }

    /// The names of the layers that were built.
    pub fn built(&self) -> Vec<&str> {
        let built = self.layers.iter().filter(|layer| layer.had == "built");
        built.map(|layer| layer.name.as_str()).collect()
    }
}

/// The scene, or `None` where it cannot be set; why is said then.
pub fn scene() -> Option<&'static Small> {
    static SCENE: OnceLock<Option<Small>> = OnceLock::new();
    let scene = SCENE.get_or_init(|| match Small::new() {
        Ok(small) => {
            remove_at_exit(&small.folder);
            Some(small)
        }
        Err(reason) => {
            skipped(&format!("what is tested on the example's image: {reason}"));
            None
        }
    });
    scene.as_ref()
}

impl Small {
    fn new() -> Result<Self, String> {
        if Command::new("newuidmap").output().is_err() && !is_root() {
            return Err("an ordinary user needs `newuidmap` (package uidmap)".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("assemble-small-").tempdir().unwrap().keep();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o1777)).unwrap();
        let program = folder.join("small");
        fs::copy(super::build_example("small"), &program).unwrap();
        let project = folder.join("project");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/small"), &project);

        // This folder outlives the tests. What it holds is found by digest and checked when it is taken.
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small");
        fs::create_dir_all(&kept).unwrap();
        let turn = File::create(kept.join("turn")).unwrap();
        turn.lock().unwrap();
        let small = |verb: &str| {
            let mut command = Command::new(&program);
            command.arg(verb).arg("--project").arg(&project).arg("--store").arg(kept.join("store"));
            command.stdin(Stdio::null());
            command
        };
        take_or_make_lock(&kept, &project, small)?;
        let fetched = small("image").arg("--locked").output().unwrap();
        check_network(&fetched)?;
        let lock = assemble::lock::read(&project.join("assemble.lock")).unwrap().unwrap();
        let downloads = folder.join("downloads");
        let store = assemble::store::Store::open(&downloads, assemble::sandbox::remove_folder).unwrap();
        for digest in files(&lock) {
            let from = kept.join("store/blobs").join(digest.hex());
            if from.exists() {
                fs::copy(from, store.blob_file(digest)).unwrap();
            }
        }
        open_to_all(&downloads);
        drop(turn);

        let store = folder.join("store");
        let mut this = Self {
            folder,
            program,
            project,
            downloads,
            lock,
            store,
            built: Built {
                digest: String::new(),
                config: String::new(),
                media_type: String::new(),
                variant: String::new(),
                layers: vec![],
                loaded: None,
                notes: Vec::new(),
                seconds: 0.0,
            },
            archive: Sha256::of(b""),
        };
        let archive = this.folder.join("small.tar");
        this.built = built(&output(this.image(&this.store).arg("--output").arg(&archive)));
        this.archive = digest(&archive);
        open_to_all(&this.store);
        Ok(this)
    }

    /// A new path in the scene's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        assert!(!path.exists(), "`{name}` is taken");
        path
    }

    /// A copy of the project.
    pub fn project_copy(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        copy(&self.project, &path);
        path
    }

    /// A copy of the store of the first build.
    pub fn store_copy(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        copy(&self.store, &path);
        path
    }

    pub fn verb(&self, verb: &str, project: &Path, store: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--project").arg(project).arg("--store").arg(store).stdin(Stdio::null());
        command
    }

    /// `image`, from what was downloaded, with JSON as its answer.
    pub fn image(&self, store: &Path) -> Command {
        self.image_of(&self.project, store)
    }

    pub fn image_of(&self, project: &Path, store: &Path) -> Command {
        let mut command = self.verb("image", project, store);
        command.args(["--locked", "--offline", "--json", "--cache"]).arg(&self.downloads);
        command
    }

    /// `plan`: each layer's step, and what would happen to it.
    pub fn plan(&self, project: &Path, store: &Path) -> Vec<Planned> {
        #[derive(Deserialize)]
        struct Plan {
            layers: Vec<Planned>,
        }
        let mut command = self.verb("plan", project, store);
        let json = output(command.args(["--locked", "--offline", "--json"]));
        serde_json::from_slice::<Plan>(&json).unwrap().layers
    }

    /// Asserts that a build came to what the first one came to.
    #[track_caller]
    pub fn assert_same(&self, built: &Built, case: &str) {
        if built.digest == self.built.digest {
            return;
        }
        let differing =
            self.built.layers.iter().zip(&built.layers).filter(|(one, other)| one.diffid != other.diffid);
        let differing: Vec<_> = differing.map(|(one, _)| &one.name).collect();
        panic!("{case}: another digest; layers with other contents: {differing:?}");
    }

    /// What the layers of some steps, but for some layers, hold as plain folders, made by GNU tar; it
    /// needs root for owners.
    pub fn root_of(&self, name: &str, steps: &[&str], but: &[&str]) -> PathBuf {
        let layout = self.path(&format!("{name} layout"));
        fs::create_dir(&layout).unwrap();
        output(self.image(&self.store).arg("--output").arg(&layout));
        let root = self.path(name);
        fs::create_dir(&root).unwrap();
        let wanted = |layer: &&Layer| steps.contains(&&*layer.step) && !but.contains(&&*layer.name);
        for layer in self.built.layers.iter().filter(wanted) {
            let blob = layout.join("blobs/sha256").join(layer.digest.trim_start_matches("sha256:"));
            let mut tar = Command::new("tar");
            tar.args([
                "-xz",
                "--numeric-owner",
                "--same-permissions",
                "--keep-directory-symlink",
                "--xattrs",
            ]);
            output(tar.args(["--xattrs-include=*", "-f"]).arg(blob).arg("-C").arg(&root));
        }
        root
    }
}

/// One layer of `assemble plan --json`.
#[derive(Deserialize, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    pub name: String,
    pub step: String,
    pub state: String,
    pub until: Option<String>,
    pub size: Option<u64>,
    pub fetch: Fetch,
}

#[derive(Deserialize, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    pub files: usize,
    pub bytes: u64,
}

pub fn built(json: &[u8]) -> Built {
    serde_json::from_slice(json).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(json)))
}

/// The answer of a build that must succeed.
#[track_caller]
pub fn build(command: &mut Command) -> Built {
    built(&output(command))
}

/// What a program says that must fail: its exit code and its standard error.
pub fn fails(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn digest(file: &Path) -> Sha256 {
    let mut hasher = assemble_layers::digest::Hasher::new();
    std::io::copy(&mut File::open(file).unwrap(), &mut hasher).unwrap();
    hasher.finish()
}

/// A folder's copy, by `cp`: it takes no space where the file system can share it.
pub fn copy(from: &Path, to: &Path) {
    output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to));
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Every file that the lock names; some are in no image, and are needed for locking alone.
pub fn files(lock: &Lock) -> BTreeSet<BlobDigest> {
    let python = &lock.python;
    let distributions = python.packages.iter().chain(&python.tools);
    let digests =
        lock.debian.package.iter().map(|deb| deb.sha256).chain(distributions.map(|one| one.file.sha256));
    digests.map(BlobDigest).collect()
}

/// The lock of the tests that ran just before, if it still fits; else a new one, from the network.
fn take_or_make_lock(kept: &Path, project: &Path, small: impl Fn(&str) -> Command) -> Result<(), String> {
    let known = kept.join("assemble.lock");
    let age =
        known.metadata().and_then(|it| it.modified()).map(|made| SystemTime::now().duration_since(made));
    if matches!(age, Ok(Ok(age)) if age < JUST_NOW) {
        fs::copy(&known, project.join("assemble.lock")).unwrap();
        if small("plan").arg("--locked").output().unwrap().status.success() {
            return Ok(());
        }
    }
    check_network(&small("lock").arg("--fresh").output().unwrap())?;
    fs::copy(project.join("assemble.lock"), known).unwrap();
    Ok(())
}

/// That there is no network is a reason to skip; anything else is a failure.
fn check_network(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(5) => Err(format!("the network does not serve what it needs:\n{said}")),
        _ => panic!("{}\n{said}", output.status),
    }
}

/// Others may read it, whatever this user's umask is.
fn open_to_all(folder: &Path) {
    output(Command::new("chmod").args(["-R", "a+rX"]).arg(folder));
}

/// Statics are never dropped, so the folder is removed when the program ends. The sandbox leaves
/// nothing there that this user could not remove.
fn remove_at_exit(folder: &Path) {
    // A shell that waits for this program's end, for the standard library has no `atexit`.
    let script = "while kill -0 \"$1\" 2>/dev/null; do sleep 1; done; chmod -R u+w \"$2\"; rm -rf \"$2\"";
    let mut shell = Command::new("setsid");
    shell.args(["--fork", "sh", "-c", script, "sh", &std::process::id().to_string()]).arg(folder);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
}
