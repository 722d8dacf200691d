//! Images as recipes declare them, end to end: by the command line of a program that is this very test, over
//! recipes of its own, from this machine's own mirror.
//!
//! Where `ASSEMBLE_REAL=1` asks for it, as `.ci/run` does, mmdebstrap makes base images and Poetry is asked as
//! well, which takes minutes.

mod archives;
mod bases;
mod pythons;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use assemble::fetch::{Configuration, Fetcher};
use assemble::net::{Address, Machine};
use assemble::recipe::{Archive, Packages, variant};
use assemble::store::Store;
use assemble_layers::Lock;

use crate::PROGRAM;
use crate::support::output;
use crate::support::small::{self, Built, built, is_root};

/// The recipe of this program's images, if it is one of these.
pub fn program(recipe: &str) -> Option<ExitCode> {
    let image = match recipe {
        "archives" => variant("archives", "of three archives", archives::recipe),
        "over" => variant("over", "over an image", bases::recipe),
        "plain" => variant("plain", "without Python", pythons::plain),
        "service" => variant("service", "without tools", pythons::service),
        "nowhere" => variant("nowhere", "Python of none", pythons::nowhere),
        _ => return None,
    };
    Some(assemble::main([image]))
}

pub const TESTS: &[(&str, fn())] = &[
    ("packages_of_three_archives_are_one_image", archives::packages_of_three_archives_are_one_image),
    ("an_archive_that_is_not_signed_is_refused", archives::an_archive_that_is_not_signed_is_refused),
    ("the_sources_of_a_base_image_count", bases::the_sources_of_a_base_image_count),
    ("an_image_needs_no_python", pythons::an_image_needs_no_python),
    ("a_service_needs_no_tools", pythons::a_service_needs_no_tools),
    ("a_python_that_is_nowhere_is_an_error", pythons::a_python_that_is_nowhere_is_an_error),
];

/// Why no image can be built and looked at, if so.
pub fn missing() -> Option<String> {
    if !is_root() {
        return Some("their roots are unpacked as root".to_owned());
    }
    let no_python = Box::new(|_: &Fetcher| unreachable!("no Python here"));
    let fetcher = Fetcher::new(&Machine::this(), &Configuration::default(), no_python).unwrap();
    let archives = match fetcher.archives().of("bookworm") {
        Ok(archives) => archives,
        Err(error) => return Some(error.message().to_owned()),
    };
    let addresses = archives.iter().map(|archive| archive.address.join("dists/bookworm/InRelease").unwrap());
    let answers = |address: Address| fetcher.client().get(&address, None, 1 << 20).is_ok();
    let is_served = addresses.into_iter().any(answers);
    (!is_served).then(|| format!("`{}` does not answer", archives[0].address.host()))
}

/// What all of these images are over.
fn debian(archive: &Archive) -> Packages {
    archive.essential(["passwd", "usr-is-merged"])
}

/// A project, and this program over one of its recipes.
struct Scene {
    folder: tempfile::TempDir,
    recipe: &'static str,
    environment: Vec<(&'static str, String)>,
    /// Of all verbs.
    arguments: Vec<String>,
    /// For locks and first builds.
    store: PathBuf,
}

impl Scene {
    fn new(recipe: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("assemble-declared-").tempdir().unwrap();
        fs::create_dir(folder.path().join("project")).unwrap();
        // It outlives the tests: what it holds is found by digest.
        let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("declared");
        Self { folder, recipe, environment: Vec::new(), arguments: Vec::new(), store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path("project").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn verb(&self, verb: &str, store: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(PROGRAM, self.recipe).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(verb).args(&self.arguments).arg("--project").arg(self.path("project"));
        command.arg("--store").arg(store).stdin(Stdio::null());
        command
    }

    fn lock(&self) -> Lock {
        output(&mut self.verb("lock", &self.store));
        let file = fs::read_dir(self.path("project")).unwrap().map(|entry| entry.unwrap().path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "lock"));
        assemble::lock::read(&file.expect("a lock")).unwrap().unwrap()
    }

    /// What is said of a lock that must fail.
    #[track_caller]
    fn is_not_locked(&self, code: i32, words: &[&str]) {
        let mut lock = self.verb("lock", &self.store);
        let (found, said) = small::fails(lock.arg("--fresh"));
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        assert!(found == code && missing.is_empty(), "{found}, without {missing:?}: {said}");
    }

    /// Builds the image into an archive, which is unpacked: `blobs/sha256`.
    fn image(&self, store: &Path, archive: &str, arguments: &[&str]) -> Built {
        let archive = self.path(archive);
        let mut image = self.verb("image", store);
        image.args(["--locked", "--json"]).args(arguments).arg("--output").arg(&archive);
        built(&output(&mut image))
    }

    /// What is fetched for a lock's packages, and no result.
    fn downloads(&self, lock: &Lock) -> PathBuf {
        let folder = self.path("downloads");
        let open = |folder: &Path| Store::open(folder, assemble::sandbox::remove_folder).unwrap();
        let (from, to) = (open(&self.store), open(&folder));
        for digest in small::files(lock) {
            fs::copy(from.blob_file(digest), to.blob_file(digest)).unwrap();
        }
        folder
    }

    /// The root that an engine would make of an archive, by GNU tar.
    fn root(&self, archive: &str, built: &Built) -> Root {
        let (unpacked, root) = (self.path("unpacked"), self.path("root"));
        for folder in [&unpacked, &root] {
            fs::create_dir(folder).unwrap();
        }
        output(Command::new("tar").arg("-xf").arg(self.path(archive)).arg("-C").arg(&unpacked));
        for layer in &built.layers {
            let blob = unpacked.join("blobs/sha256").join(layer.digest.trim_start_matches("sha256:"));
            let mut tar = Command::new("tar");
            tar.args(["-xz", "--numeric-owner", "--same-permissions", "--keep-directory-symlink", "-f"]);
            output(tar.arg(blob).arg("-C").arg(&root));
        }
        Root(root)
    }
}

/// An image's root as plain folders.
struct Root(PathBuf);

impl Root {
    /// What a program in it says.
    fn run(&self, arguments: &[&str]) -> String {
        let mut chroot = Command::new("chroot");
        chroot.arg(&self.0).args(arguments).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin");
        String::from_utf8(output(&mut chroot)).unwrap().trim().to_owned()
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).symlink_metadata().is_ok()
    }

    /// That dpkg has these, `NAME VERSION`, and is content with all files.
    #[track_caller]
    fn has_packages(&self, packages: &[&str]) {
        let known = self.run(&["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Status}\n"]);
        for package in packages {
            let installed = format!("{package} install ok installed");
            assert!(known.lines().any(|line| line == installed), "{package}: {known}");
        }
        assert_eq!(self.run(&["dpkg", "--audit"]), "");
        assert_eq!(self.run(&["dpkg", "--verify"]), "");
    }
}
