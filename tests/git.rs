//! Repositories at a commit, by the real `git`: what comes out, what is refused, and what an error says.
//!
//! Every repository is a folder here. That no server is asked is all that differs: what a folder serves
//! goes through the same protocol.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Bench, child, folder_of_child, listing, output, path};
use assemble::network::{Network, Places};
use assemble::realise::Engine;
use assemble::sandbox::Sandbox;
use assemble::store::Store;
use assemble::{Error, Kind, Result};
use assemble_layers::derivation::Git;
use assemble_layers::{Builder, Commit, Content, DiffId, Graph, Kind as EntryKind, Packer, Tree};

/// A folder of repositories, and a store.
struct Scene {
    bench: Bench,
    places: Places,
}

impl Scene {
    fn new() -> Self {
        Self { bench: Bench::new(), places: Places::default() }
    }

    /// git in the repository `name`, which is made. Nobody's settings count.
    fn git(&self, name: &str, arguments: &[&str]) -> String {
        let folder = self.bench.path(name);
        if !folder.join(".git").exists() {
            std::fs::create_dir_all(&folder).unwrap();
            self.git_in(&folder, &["init", "--quiet", "--initial-branch=main"]);
        }
        self.git_in(&folder, arguments)
    }

    fn git_in(&self, folder: &Path, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(["-c", "protocol.file.allow=always", "-c", "core.autocrlf=false"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@example.org");
            git.env(format!("GIT_{who}_DATE"), "2001-02-03T04:05:06Z");
        }
        String::from_utf8(output(git.args(arguments))).unwrap().trim().to_owned()
    }

    /// Commits everything that stands in the folder.
    fn commit(&self, name: &str) -> Commit {
        self.git(name, &["add", "--all"]);
        self.git(name, &["commit", "--quiet", "--allow-empty", "--message", "x"]);
        self.git(name, &["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// A commit of these raw tree entries: what git itself would not make.
    fn crafted(&self, name: &str, entries: &[(&str, &str, &str)]) -> Commit {
        let raw = self.bench.path("raw");
        let mut bytes = Vec::new();
        for (mode, path, object) in entries {
            bytes.extend(format!("{mode} {path}\0").bytes());
            bytes.extend((0..20).map(|at| u8::from_str_radix(&object[2 * at..2 * at + 2], 16).unwrap()));
        }
        std::fs::write(&raw, bytes).unwrap();
        let arguments = ["hash-object", "-t", "tree", "-w", "--literally", raw.to_str().unwrap()];
        let tree = self.git(name, &arguments);
        self.git(name, &["commit-tree", &tree, "-m", "x"]).parse().unwrap()
    }

    fn url(&self, name: &str) -> String {
        self.bench.path(name).to_str().unwrap().to_owned()
    }

    /// The tree that the builder makes.
    fn fetch(&self, url: &str, commit: &Commit) -> Result<(DiffId, Tree)> {
        self.fetch_into(&self.bench.store, url, commit)
    }

    fn fetch_into(&self, store: &Store, url: &str, commit: &Commit) -> Result<(DiffId, Tree)> {
        let mut graph = Graph::default();
        let builder = Git { url: url.to_owned(), commit: commit.clone(), folder: path("src") };
        let node = graph.add("source", Builder::Git(builder));
        let (events, _) = std::sync::mpsc::channel();
        let network = Network::new(&self.places, None, store.folder());
        let project = self.bench.path("project");
        let engine = Engine {
            store,
            caches: &[],
            fetcher: &network,
            packer: Packer::default(),
            executor: &Sandbox::default(),
            sandbox: &Sandbox::default(),
            project: &project,
            jobs: 2,
            events,
        };
        let diff_id = engine.realise_tree(&graph, node)?;
        Ok((diff_id, store.tree(diff_id).unwrap().unwrap()))
    }

    /// How it fails, as a person reads it.
    fn fails(&self, url: &str, commit: &Commit) -> (Kind, String) {
        let error: Error = self.fetch(url, commit).expect_err("it must be refused");
        (error.kind(), error.to_string())
    }

    /// `lib`, a submodule of `app`, and `app`'s commit. `app` asks for whatever could change a byte.
    fn app(&self) -> Commit {
        self.bench.write("deep/x.h", "deep\n");
        self.commit("deep");
        self.bench.write("lib/lib.c", "int lib;\n");
        self.git("lib", &["submodule", "--quiet", "add", "--", "../deep", "third party/deep"]);
        self.commit("lib");
        self.bench.write("app/main.c", "$Id$ $Format:%H$\r\nint main;\n");
        self.bench.write("app/unix.txt", "a\nb\n");
        self.bench.write(
            "app/.gitattributes",
            "*.c export-subst ident\n*.txt eol=crlf filter=lfs\nsecret export-ignore\n",
        );
        self.bench.write("app/secret", "kept\n");
        let script = self.bench.write("app/run.sh", "#!/bin/sh\n");
        output(Command::new("chmod").arg("+x").arg(script));
        symlink("/etc/passwd", self.bench.path("app/link")).unwrap();
        self.git("app", &["submodule", "--quiet", "add", "--", "../lib", "lib"]);
        // The filter is there, and would write other bytes.
        self.git("app", &["config", "filter.lfs.smudge", "tr a-z A-Z"]);
        self.commit("app")
    }
}

#[test]
fn a_tree_is_the_commits_files_byte_for_byte() {
    let scene = Scene::new();
    let commit = scene.app();
    let (diff_id, tree) = scene.fetch(&scene.url("app"), &commit).unwrap();
    let files = listing(&scene.bench, &tree);
    let file = |name: &str| {
        let found = files.iter().find(|(listed, _)| listed.ends_with(&format!(" src/{name}")));
        found.map(|(listed, bytes)| format!("{} {}", &listed[..3], String::from_utf8_lossy(bytes)))
    };
    assert_eq!(file("main.c").unwrap(), "644 $Id$ $Format:%H$\r\nint main;\n");
    assert_eq!(file("unix.txt").unwrap(), "644 a\nb\n");
    assert_eq!(file("secret").unwrap(), "644 kept\n");
    assert_eq!(file("run.sh").unwrap(), "755 #!/bin/sh\n");
    assert_eq!(file("lib/lib.c").unwrap(), "644 int lib;\n");
    assert_eq!(file("lib/third party/deep/x.h").unwrap(), "644 deep\n");
    let link = tree.entries().iter().find(|entry| entry.path == path("src/link")).unwrap();
    assert_eq!(link.kind, EntryKind::Symlink(assemble_layers::tree::RawBytes(b"/etc/passwd".to_vec())));
    assert!(tree.entries().iter().all(|entry| entry.path.name() != b".git"));
    assert!(tree.entries().iter().all(|entry| (entry.uid, entry.gid, entry.mtime) == (0, 0, 315_532_800)));
    assert_eq!(
        diff_id.hex(),
        "cd04739c3ccdb554a84f5010b0979d0a98040f5d20525caced16ffe987f32e01",
        "`git` makes another tree of the same commit: raise the builder's version in \
         layers/src/derivation.rs, then write the new diffID here"
    );
}

#[test]
fn what_came_once_is_not_fetched_again() {
    let scene = Scene::new();
    let commit = scene.app();
    let url = scene.url("app");
    // The submodule's own submodule is away: what came before it stays.
    std::fs::rename(scene.bench.path("deep"), scene.bench.path("away")).unwrap();
    let (kind, text) = scene.fails(&url, &commit);
    assert_eq!(kind, Kind::Network, "{text}");
    assert!(text.contains("submodule `lib/third party/deep` could not be fetched"), "{text}");
    assert!(text.contains("--git-mirror"), "{text}");
    for name in ["app", "lib"] {
        std::fs::remove_dir_all(scene.bench.path(name)).unwrap();
    }
    std::fs::rename(scene.bench.path("away"), scene.bench.path("deep")).unwrap();
    let (diff_id, tree) = scene.fetch(&url, &commit).unwrap();

    // Its blob is gone, and every repository: the objects are still there.
    std::fs::remove_dir_all(scene.bench.path("deep")).unwrap();
    for entry in tree.entries() {
        if let EntryKind::File(Content::Plain { blob, .. }) = &entry.kind {
            scene.bench.store.discard_blob(*blob).unwrap();
        }
    }
    assert_eq!(scene.fetch(&url, &commit).unwrap().0, diff_id);
}

/// As the first version of git's protocol has it: what is served is what branches and tags stand at. The
/// setting is the user's, so it takes a process of its own.
#[test]
fn a_server_that_serves_no_single_commit_is_asked_for_everything() {
    if folder_of_child().is_none() {
        let words = child(a_server_that_serves_no_single_commit_is_asked_for_everything, Path::new("/"));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("GIT_CONFIG_COUNT", "1");
        output(command.env("GIT_CONFIG_KEY_0", "protocol.version").env("GIT_CONFIG_VALUE_0", "0"));
        return;
    }
    let scene = Scene::new();
    scene.bench.write("app/a", "old");
    let commit = scene.commit("app");
    scene.bench.write("app/a", "new");
    let later = scene.commit("app");
    let (_, tree) = scene.fetch(&scene.url("app"), &commit).unwrap();
    assert_eq!(listing(&scene.bench, &tree).last().unwrap().1, b"old");
    let seen = scene.git_in(&scene.bench.store.git_folder(), &["rev-parse", "refs/seen/heads/main"]);
    assert_eq!(seen, later.as_str());
}

#[test]
fn mirrors_serve_submodules_too() {
    let mut scene = Scene::new();
    scene.bench.write("store of code/lib/lib.c", "int lib;\n");
    let lib = scene.commit("store of code/lib");
    scene.bench.write(
        "store of code/app/.gitmodules",
        "[submodule \"lib\"]\n\tpath = vendor/lib\n\turl = https://user:secret@git.invalid/team/lib\n",
    );
    let link = format!("160000,{lib},vendor/lib");
    scene.git("store of code/app", &["add", "--all"]);
    scene.git("store of code/app", &["update-index", "--add", "--cacheinfo", &link]);
    scene.git("store of code/app", &["commit", "--quiet", "--message", "x"]);
    let commit = scene.git("store of code/app", &["rev-parse", "HEAD"]).parse().unwrap();
    let app = "https://git.invalid/team/app";

    let mirror = |from: &str| format!("{from}={}/", scene.url("store of code")).parse().unwrap();
    scene.places.git_mirrors = vec![mirror("https://git.invalid/team/")];
    scene.places.offline = true;
    let (_, text) = scene.fails(app, &commit);
    assert!(text.contains("vendor/lib") && !text.contains("secret"), "{text}");
    let mirror = format!("https://user:secret@git.invalid/team/={}/", scene.url("store of code"));
    scene.places.git_mirrors.push(mirror.parse().unwrap());
    let (diff_id, tree) = scene.fetch(app, &commit).unwrap();
    assert_eq!(listing(&scene.bench, &tree).last().unwrap().0, "644 src/vendor/lib/lib.c");

    // Where it came from is no part of what it is.
    let other = Store::open(scene.bench.path("other"), assemble::sandbox::remove_folder).unwrap();
    assert_eq!(scene.fetch_into(&other, &scene.url("store of code/app"), &commit).unwrap().0, diff_id);
}

#[test]
fn what_is_not_there_is_said() {
    let scene = Scene::new();
    scene.bench.write("app/a", "a");
    let commit = scene.commit("app");
    let absent: Commit = "1234567890123456789012345678901234567890".parse().unwrap();
    let (kind, text) = scene.fails(&scene.url("app"), &absent);
    assert_eq!(kind, Kind::Network);
    assert!(text.contains("has no commit `1234567890123456789012345678901234567890`"), "{text}");

    let (kind, text) = scene.fails(&scene.url("nowhere"), &commit);
    assert_eq!(kind, Kind::Network);
    assert!(text.contains("nowhere` could not be fetched") && text.contains("hint: `--git-mirror"), "{text}");

    // The port 9 of this machine discards, if anything.
    let (kind, text) = scene.fails("git://127.0.0.1:9/app", &commit);
    assert_eq!(kind, Kind::Network);
    assert!(text.contains("could not be fetched") && text.contains("hint: "), "{text}");
}

#[test]
fn a_repository_names_no_folder_and_no_program() {
    let scene = Scene::new();
    scene.bench.write("private/key", "secret");
    let private = scene.commit("private");
    let marker = scene.bench.path("marker");
    let marker = marker.display();
    for url in [
        format!("ext::sh -c touch% {marker}"),
        format!("ext::touch {marker}"),
        scene.url("private"),
        format!("file://{}", scene.url("private")),
        format!("--upload-pack=touch {marker}"),
        format!("-oProxyCommand=touch {marker}"),
        format!("ssh://-oProxyCommand=touch%20{marker}/x"),
        "user@-oProxyCommand=x:path".to_owned(),
        "../../../../../../../../../../../../etc".to_owned(),
        "../x/../../private".to_owned(),
        String::new(),
    ] {
        let name = format!("app-{}", url.len());
        let modules = format!("[submodule \"x\"]\n\tpath = x\n\turl = \"{url}\"\n");
        scene.bench.write(&format!("{name}/.gitmodules"), modules);
        scene.git(&name, &["add", "--all"]);
        scene.git(&name, &["update-index", "--add", "--cacheinfo", &format!("160000,{private},x")]);
        scene.git(&name, &["commit", "--quiet", "--message", "x"]);
        let commit = scene.git(&name, &["rev-parse", "HEAD"]).parse().unwrap();
        let (kind, text) = scene.fails(&scene.url(&name), &commit);
        assert_eq!(kind, Kind::Input, "{url}: {text}");
        assert!(!scene.bench.path("marker").exists(), "{url} ran a program");
    }
    scene.bench.write("none/a", "a");
    let commit = scene.crafted("none", &[("160000", "x", private.as_str())]);
    let (kind, text) = scene.fails(&scene.url("none"), &commit);
    assert_eq!(kind, Kind::Input);
    assert!(text.contains("`.gitmodules` says of `x` no address"), "{text}");
}

#[test]
fn no_path_leads_out() {
    let scene = Scene::new();
    let object = scene.bench.write("object", "x");
    let blob = scene.git("app", &["hash-object", "-w", object.to_str().unwrap()]);
    let tree = |entries: &[(&str, &str, &str)]| {
        let commit = scene.crafted("app", entries);
        scene.git("app", &["rev-parse", &format!("{commit}^{{tree}}")])
    };
    let below = tree(&[("100644", "x", &blob)]);
    let cases: [&[(&str, &str, &str)]; 7] = [
        &[("40000", "..", &below)],
        &[("100644", "..", &blob)],
        &[("40000", ".git", &below)],
        &[("40000", ".GIT", &below)],
        &[("100644", "a//b", &blob)],
        &[("100644", "/etc/x", &blob)],
        // A link, and a file below it.
        &[("120000", "a", &blob), ("40000", "a", &below)],
    ];
    for entries in cases {
        let commit = scene.crafted("app", entries);
        let (kind, text) = scene.fails(&scene.url("app"), &commit);
        assert_eq!(kind, Kind::Input, "{entries:?}: {text}");
    }
}

#[test]
fn the_head_of_a_folder_is_found() {
    let scene = Scene::new();
    scene.bench.write("app/a", "a");
    let commit = scene.commit("app");
    assert_eq!(assemble::fetch::git::head(&scene.bench.path("app")).unwrap(), commit);
    let none: PathBuf = scene.bench.path("store");
    assert_eq!(assemble::fetch::git::head(&none).unwrap_err().kind(), Kind::Usage);
}
