//! Reading a project: which files, what of them, and what is said of those that cannot be read.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Bench, child, folder_of_child, output, path, skipped};
use assemble::{Error, Kind, Result, project};
use assemble_layers::derivation::{FileEntry, FileSource, Files};
use assemble_layers::project::{Project, ProjectFile, ProjectFileKind};
use assemble_layers::{Builder, Graph, Sha256};

fn read(bench: &Bench) -> Result<Project> {
    project::read(&bench.path("project"), &["pyproject.toml", "sub/pyproject.toml"], &bench.store)
}

fn write(bench: &Bench, name: &str, text: &str) {
    bench.write(&format!("project/{name}"), text);
}

/// The paths of a project; folders end in `/`.
fn names(project: &Project) -> Vec<String> {
    let name = |file: &ProjectFile| match file.kind {
        ProjectFileKind::Directory => format!("{}/", file.path),
        _ => file.path.to_string(),
    };
    project.files.iter().map(name).collect()
}

fn refused(result: Result<impl std::fmt::Debug>, words: &[&str]) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Input, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in\n{error}");
    }
    error
}

/// As CI jobs have it that keep a folder of the project.
#[test]
fn a_store_in_the_project_is_no_part_of_it() {
    let bench = Bench::new();
    write(&bench, "pyproject.toml", "");
    let project = bench.path("project");
    let store =
        assemble::store::Store::open(project.join("[st]ore"), assemble::sandbox::remove_folder).unwrap();
    write(&bench, ".dockerignore", "!\\[st\\]ore/version");
    write(&bench, "store", "");
    let read = |store| project::read(&project, &["pyproject.toml"], store);
    assert_eq!(names(&read(&store).unwrap()), [".dockerignore", "pyproject.toml", "store"]);
    let error =
        read(&assemble::store::Store::open(&project, assemble::sandbox::remove_folder).unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}

/// docs.docker.com, "Build context", `.dockerignore`: its examples, and what BuildKit was seen to do.
#[test]
fn dockerignore_means_what_docker_means() {
    // The patterns, the files that stay, the files that go.
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("# comment\n*/temp*", &["temp", "a/b/temp"], &["a/temporary.txt", "a/temp/x"]),
        ("*/*/temp*", &["a/temp"], &["a/b/temporary.txt", "a/b/temp/x"]),
        ("temp?", &["temp", "tempab", "a/tempa"], &["tempa", "tempb"]),
        ("**/*.go", &["x.gob"], &["x.go", "a/x.go", "a/b/c.go"]),
        ("*.md\n!README.md", &["README.md", "a/x.md"], &["x.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", &["README.md", "README-a.md"], &["x.md", "README-secret.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", &["README.md", "README-secret.md"], &["x.md"]),
        ("/foo/bar", &["a/foo/bar", "foo/barn"], &["foo/bar/x"]),
        ("foo/bar/", &["a/foo/bar"], &["foo/bar/x"]),
        ("./foo//bar", &["bar"], &["foo/bar"]),
        ("a/../b", &["a/b", "a/x"], &["b/x"]),
        ("../b", &["b"], &[]),
        (".\n/\n\n   \n", &["a"], &[]),
        ("  padded  ", &["a"], &["padded"]),
        (" # no comment", &["a"], &["# no comment"]),
        ("\u{feff}first", &["a"], &["first"]),
        ("one\r\ntwo\r\n", &["a"], &["one", "two"]),
        ("*", &[], &["a", "b/c"]),
        ("*\n!src", &["src/a", "src/b/c"], &["a", "b/src"]),
        ("**\n!src/*.py", &["src/a.py"], &["src/a.txt", "src/b/c.py", "a.py"]),
        ("docs\n! docs/README.md", &["docs/README.md"], &["docs/x"]),
        ("docs\n!docs/a/b", &["docs/a/b/c"], &["docs/a/x"]),
        ("docs\n!docs\ndocs/x", &["docs/a"], &["docs/x"]),
        ("docs/**", &["a/docs/x"], &["docs/x", "docs/y/z"]),
        ("a/**/z", &["a/y"], &["a/z", "a/b/z", "a/b/c/z"]),
        ("[ab].txt", &["c.txt"], &["a.txt", "b.txt"]),
        ("[^ab].txt", &["a.txt"], &["c.txt"]),
        ("\\*.txt", &["a.txt"], &["*.txt"]),
        ("{a,b}", &["a", "b"], &["{a,b}"]),
        ("a+(b).$", &["aab"], &["a+(b).$"]),
        ("A", &["a"], &["A"]),
    ];
    for (patterns, stay, go) in cases {
        let bench = Bench::new();
        for name in stay.iter().chain(*go) {
            write(&bench, name, "");
        }
        write(&bench, ".dockerignore", patterns);
        let found = read(&bench).unwrap();
        let mut found = names(&found);
        found.retain(|name| !name.ends_with('/') && name != ".dockerignore");
        let mut wanted = stay.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{patterns:?}");
    }
}

#[test]
fn patterns_that_docker_refuses_are_refused() {
    for patterns in ["a[", "!"] {
        let bench = Bench::new();
        write(&bench, ".dockerignore", patterns);
        refused(read(&bench), &[".dockerignore", patterns]);
    }
}

#[test]
fn a_folder_comes_with_what_is_taken_back() {
    let bench = Bench::new();
    for name in ["docs/a/wanted", "docs/a/other", "docs/b/other", "target/x"] {
        write(&bench, name, "");
    }
    write(&bench, ".dockerignore", "docs\ntarget\n.dockerignore\n!docs/a/wanted");
    assert_eq!(names(&read(&bench).unwrap()), ["docs/", "docs/a/", "docs/a/wanted"]);
}

#[test]
fn some_files_are_never_or_always_there() {
    let bench = Bench::new();
    for name in ["poetry.lock", "assemble.lock", ".git/HEAD", "pyproject.toml", "sub/pyproject.toml", "x"] {
        write(&bench, name, "");
    }
    write(&bench, ".dockerignore", "*\n!poetry.lock\n!assemble.lock\n!.git");
    assert_eq!(names(&read(&bench).unwrap()), ["pyproject.toml", "sub/pyproject.toml"]);
    write(&bench, ".dockerignore", ".dockerignore");
    assert_eq!(names(&read(&bench).unwrap()), ["pyproject.toml", "sub/", "sub/pyproject.toml", "x"]);
}

#[test]
fn files_are_what_they_are() {
    let bench = Bench::new();
    write(&bench, "plain", "text");
    let executable = bench.write("project/executable", "");
    std::fs::set_permissions(executable, PermissionsExt::from_mode(0o610)).unwrap();
    let raw = |name: &[u8]| bench.path("project").join(std::ffi::OsStr::from_bytes(name));
    std::fs::write(raw(b"caf\xe9"), "raw").unwrap();
    std::os::unix::fs::symlink("/nowhere", raw(b"dangling")).unwrap();
    std::os::unix::fs::symlink(".", raw(b"folder")).unwrap();
    let kinds = read(&bench).unwrap().files.into_iter().map(|file| match file.kind {
        ProjectFileKind::Directory => format!("d {}", file.path),
        ProjectFileKind::Symlink(target) => format!("l {} {}", file.path, String::from_utf8_lossy(&target.0)),
        ProjectFileKind::File { sha256, size, executable } => {
            let known =
                [&b""[..], b"text", b"raw"].into_iter().find(|bytes| Sha256::of(bytes) == sha256).unwrap();
            assert_eq!(known.len() as u64, size);
            format!("f {} {:?} {executable}", file.path, String::from_utf8_lossy(known))
        }
    });
    let wanted = [
        "f caf%E9 \"raw\" false",
        "l dangling /nowhere",
        "f executable \"\" true",
        "l folder .",
        "f plain \"text\" false",
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), wanted);
}

#[test]
fn what_no_image_can_hold_is_an_error() {
    let bench = Bench::new();
    write(&bench, "x", "");
    let socket = bench.path("project/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    refused(read(&bench), &["project/socket", "socket", ".dockerignore"]);
    write(&bench, ".dockerignore", "socket");
    read(&bench).unwrap();
    output(Command::new("mkfifo").arg(bench.path("project/pipe")));
    refused(read(&bench), &["project/pipe"]);
}

/// Root reads everything; without two capabilities it is as anyone.
#[test]
fn a_file_that_cannot_be_read_is_named() {
    let unreadable = |bench: &Bench| {
        let file = bench.write("project/secret", "");
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o000)).unwrap();
        refused(read(bench), &["project/secret", ".dockerignore"]);
    };
    if folder_of_child().is_some() || !rustix::process::geteuid().is_root() {
        return unreadable(&Bench::new());
    }
    let mut program = Command::new("setpriv");
    program
        .arg("--bounding-set=-dac_override,-dac_read_search")
        .args(child(a_file_that_cannot_be_read_is_named, Path::new("/")));
    match program.output() {
        Err(error) => skipped(&format!("`setpriv` (package util-linux) cannot be run: {error}")),
        Ok(_) => drop(output(&mut program)),
    }
}

/// A new time comes with the clock's next tick only, so what is young is not trusted.
#[test]
fn a_young_file_is_hashed_again() {
    let bench = Bench::new();
    for text in ["one", "two", "six"] {
        write(&bench, "x", text);
        let project = read(&bench).unwrap();
        let ProjectFileKind::File { sha256, .. } = project.find("x").unwrap().kind else { panic!() };
        assert_eq!(sha256, Sha256::of(text.as_bytes()));
        assert_eq!(
            note(&bench, &bench.path("project")).as_object().unwrap().len(),
            0,
            "a young file was noted"
        );
    }
}

/// What the store remembers of a project.
fn note(bench: &Bench, folder: &Path) -> serde_json::Value {
    bench.store.note(&note_name(folder)).unwrap_or_else(|| serde_json::json!({}))
}

fn note_name(folder: &Path) -> String {
    format!("project-{}", Sha256::of(folder.canonicalize().unwrap().as_os_str().as_bytes()))
}

/// This crate's own files are older than any clock's grain.
#[test]
fn an_old_file_is_not_hashed_again() {
    let bench = Bench::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("layers/src");
    let digest = || {
        let project = project::read(&folder, &[], &bench.store).unwrap();
        let ProjectFileKind::File { sha256, .. } = project.find("lib.rs").unwrap().kind else { panic!() };
        sha256
    };
    let real = digest();
    let mut noted = note(&bench, &folder);
    let wrong = Sha256::of(b"not read again");
    noted["lib.rs"]["sha256"] = wrong.to_string().into();
    bench.store.put_note(&note_name(&folder), &noted).unwrap();
    assert_eq!(digest(), wrong);
    for place in 0..4 {
        let mut other = noted.clone();
        other["lib.rs"]["stamp"][place] = 1.into();
        bench.store.put_note(&note_name(&folder), &other).unwrap();
        assert_eq!(digest(), real, "another stamp at {place} was not seen");
    }
}

#[test]
fn a_project_that_is_not_there_is_named() {
    refused(read(&Bench::new()), &["project"]);
}

/// Between reading the project and building, the file is gone, or another.
#[test]
fn a_file_that_does_not_stay_is_an_error() {
    let bench = Bench::new();
    let source = FileSource::Project { path: path("src/x"), sha256: Sha256::of(b"x"), size: 1 };
    let entries = vec![FileEntry { path: path("app/x"), mode: 0o644, source }];
    let mut graph = Graph::default();
    let node = graph.add("application", Builder::Files(Files { entries }));
    write(&bench, "src/y", "");
    refused(bench.tree(&graph, node), &["application", "src/x", "run it again"]);
    write(&bench, "src/x", "changed");
    refused(bench.tree(&graph, node), &["application", "src/x", "changed while it was read"]);
    write(&bench, "src/x", "x");
    bench.tree(&graph, node).unwrap();
}

/// Files come and go while the folder is read: it is read, or says which one went.
#[test]
fn a_busy_folder_is_read_or_the_error_is_clear() {
    let bench = Bench::new();
    write(&bench, "stays", "");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for _ in 0..300 {
                write(&bench, "folder/file", "");
                std::fs::remove_dir_all(bench.path("project/folder")).unwrap();
            }
        });
        while !busy.is_finished() {
            match read(&bench) {
                Ok(project) => assert!(project.find("stays").is_some()),
                Err(error) => drop(refused(Err::<(), _>(error), &["project/folder", "run it again"])),
            }
        }
    });
}
