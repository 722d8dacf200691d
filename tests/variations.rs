//! Same lock, same bytes: the example's image under everything that must not matter, and after
//! everything that may go wrong. The lock is made at the start, from the network; every build after
//! the first runs offline, from the files that were downloaded then.
//!
//! A faked clock reaches this program, and not the programs inside the sandbox, whose environment is
//! empty: what maintainer scripts write of the time is scrubbed, and two builds never run at the same
//! second.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::small::{Small, build, fails, is_root, scene};
use crate::support::user::User;
use crate::support::{member, output, skipped, small, zip};
use assemble_layers::lock::Deb;
use assemble_layers::{BlobDigest, Lock, Sha256};

/// The scene, or nothing to test.
macro_rules! scene_or_return {
    () => {
        match scene() {
            Some(small) => small,
            None => return,
        }
    };
}

mod base;
mod registry;

/// What must not matter: more arguments, and a bit of shell before the program.
const VARIATIONS: [(&str, &[&str], &str); 4] = [
    ("another empty store", &[], ""),
    ("one job", &["--jobs", "1"], ""),
    ("eight jobs", &["--jobs", "8"], ""),
    (
        "another umask, time zone and locale",
        &[],
        "umask 077; export TZ=Pacific/Kiritimati LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8;",
    ),
];

#[test]
fn nothing_that_must_not_matter_matters() {
    let small = scene_or_return!();
    for (case, arguments, before) in VARIATIONS {
        vary(small, case, arguments, &shell(&format!("{before} exec \"$@\"")));
    }
}

#[test]
fn the_date_does_not_matter() {
    let small = scene_or_return!();
    let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    if !library.exists() {
        return skipped("a build at another date needs libfaketime (package libfaketime)");
    }
    for days in ["+400d", "-4000d"] {
        let before = format!("export LD_PRELOAD={} FAKETIME={days};", library.display());
        vary(small, &format!("date {days}"), &[], &shell(&format!("{before} exec \"$@\"")));
    }
}

#[test]
fn root_and_an_ordinary_user_build_the_same() {
    let small = scene_or_return!();
    if !is_root() {
        return skipped("only root can make an ordinary user, to compare with");
    }
    let user = User::make();
    vary(small, "an ordinary user", &[], &user.words());
}

/// Builds from an empty store, in another folder, from a copy of the project, and compares.
fn vary(small: &Small, case: &str, arguments: &[&str], before: &[OsString]) {
    let folder = small.path(case);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    let project = folder.join("elsewhere");
    small::copy(&small.project, &project);
    fs::set_permissions(project.join("pyproject.toml"), PermissionsExt::from_mode(0o604)).unwrap();
    let archive = folder.join("small.tar");
    let mut command = small.image_of(&project, &folder.join("store"));
    command.args(arguments).arg("--output").arg(&archive).current_dir(&folder);
    let built = build(&mut wrapped(&command, before));
    small.assert_same(&built, case);
    assert_eq!(small::digest(&archive), small.archive, "{case}: another archive");
    assert_eq!(built.had("built").len(), built.layers.len(), "{case}: {:?}", built.layers);
    output(Command::new("rm").arg("-rf").arg(&folder));
}

#[test]
fn a_half_filled_store_is_as_good_as_any() {
    let small = scene_or_return!();
    for round in 0..4 {
        let store = small.store_copy(&format!("half {round}"));
        for below in ["records", "blobs", "spliced", "trees"] {
            for entry in fs::read_dir(store.join(below)).unwrap() {
                let path = entry.unwrap().path();
                // As good as a coin, and the same in every run.
                let coin = Sha256::of(format!("{round} {}", path.file_name().unwrap().display()).as_bytes());
                if coin.as_bytes()[0].is_multiple_of(3) {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        let archive = small.path(&format!("half {round}.tar"));
        let built = build(small.image(&store).arg("--output").arg(&archive));
        small.assert_same(&built, &format!("round {round}"));
        assert_eq!(small::digest(&archive), small.archive, "round {round}");
    }
}

#[test]
fn everything_can_be_taken_from_a_cache() {
    let small = scene_or_return!();
    let archive = small.path("substituted.tar");
    let mut command = small.verb("image", &small.project, &small.path("substituted"));
    command
        .args(["--locked", "--offline", "--json", "--cache"])
        .arg(&small.store)
        .arg("--output")
        .arg(&archive);
    let built = build(&mut command);
    small.assert_same(&built, "substituted");
    assert_eq!(small::digest(&archive), small.archive);
    assert_eq!(built.had("substituted").len(), built.layers.len(), "{:?}", built.layers);
}

#[test]
fn one_changed_file_is_one_built_layer() {
    let small = scene_or_return!();
    let (project, store) = (small.project_copy("edited"), small.store_copy("edited store"));
    let all = small.built.layers.len();
    let again = build(&mut small.image_of(&project, &store));
    assert_eq!(again.had("reused").len(), all, "a copy of the project is the same project");

    let file = project.join("small/__init__.py");
    fs::write(&file, "\"\"\"Edited.\"\"\"\n").unwrap();
    assert_eq!(states(small, &project, &store), [("application", "build"), ("*", "reuse")]);
    let edited = build(&mut small.image_of(&project, &store));
    assert_eq!(edited.built(), ["application"]);
    assert_eq!(edited.had("reused").len(), all - 1);
    assert_ne!(edited.digest, small.built.digest);

    fs::copy(small.project.join("small/__init__.py"), file).unwrap();
    assert_eq!(states(small, &project, &store), [("*", "reuse")]);
    small.assert_same(&build(&mut small.image_of(&project, &store)), "edited back");
}

#[test]
fn one_changed_wheel_is_one_built_layer() {
    let small = scene_or_return!();
    let (project, store) = (small.project_copy("updated"), small.store_copy("updated store"));
    // A later MarkupSafe, as far as a lock can tell.
    let wheel = zip(&[
        member("markupsafe/__init__.py", "later = True\n"),
        member("markupsafe-99.dist-info/METADATA", "Metadata-Version: 2.1\nName: MarkupSafe\nVersion: 99\n"),
        member(
            "markupsafe-99.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        member("markupsafe-99.dist-info/RECORD", ""),
    ]);
    let mut lock = small.lock.clone();
    let one = lock.python.packages.iter_mut().find(|one| one.name == "markupsafe").unwrap();
    one.version = "99".to_owned();
    one.file.name = "markupsafe-99-py3-none-any.whl".to_owned();
    (one.file.sha256, one.file.size) = (Sha256::of(&wheel), wheel.len() as u64);
    fs::write(store.join("blobs").join(Sha256::of(&wheel).to_string()), wheel).unwrap();
    assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();

    let changed = ("poetry install, 5 small ones", "build");
    assert_eq!(states(small, &project, &store), [changed, ("*", "reuse")]);
    let built = build(&mut small.image_of(&project, &store));
    assert_eq!(built.built(), [changed.0]);
    assert_eq!(built.had("reused").len(), built.layers.len() - 1);
    assert_eq!(states(small, &project, &store), [("*", "reuse")]);
}

#[test]
fn what_comes_to_the_same_bytes_rebuilds_nothing_after_it() {
    let small = scene_or_return!();
    let store = small.store_copy("cut off");
    forget(&store, "debian bookworm");
    // Until the base is built nobody knows what stands on it.
    let plan = small.plan(&small.project, &store);
    let state = |name: &str| {
        let layer = plan.iter().find(|layer| layer.name == name).unwrap();
        (layer.state.as_str(), layer.until.as_deref())
    };
    assert_eq!(state("debian bookworm"), ("build", None));
    assert_eq!(state("apt sources"), ("undecided", Some("debian bookworm")));
    assert_eq!(state("python and tini"), ("undecided", Some("debian bookworm")));
    assert_eq!(state("application"), ("reuse", None));
    let built = build(&mut small.image(&store));
    small.assert_same(&built, "the base built again");
    assert_eq!(built.built(), ["debian bookworm"]);
    assert_eq!(states(small, &small.project, &store), [("*", "reuse")]);
}

#[test]
fn an_empty_store_plans_to_build_everything() {
    let small = scene_or_return!();
    let plan = small.plan(&small.project, &small.path("planned"));
    let states: Vec<_> = plan.iter().map(|layer| layer.state.as_str()).collect();
    assert!(states.iter().all(|state| ["build", "undecided"].contains(state)), "{plan:#?}");
    let fetch: u64 = plan.iter().map(|layer| layer.fetch.bytes).sum();
    assert!(fetch > 10_000_000, "{plan:#?}");
    assert!(plan.iter().all(|layer| layer.size.is_none()), "nobody knows yet: {plan:#?}");
}

#[test]
fn two_at_once_in_one_store() {
    let small = scene_or_return!();
    let store = small.path("shared");
    let start = |_| small.image(&store).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let running: Vec<_> = (0..2).map(start).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        small.assert_same(&small::built(&output.stdout), "two at once");
    }
}

#[test]
fn killed_and_run_again() {
    let small = scene_or_return!();
    let store = small.path("killed");
    let mut killed = 0;
    // Killed when it has said so many lines: later each time, and always in the midst of something.
    for lines in [1, 2, 4, 20, 80, 200] {
        let mut command = small.image(&store);
        let mut child =
            command.arg("--verbose").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines().take(lines).count();
        child.kill().unwrap();
        killed += usize::from(said == lines && !child.wait().unwrap().success());
    }
    assert!(killed > 2, "it was killed {killed} times only");
    small.assert_same(&build(&mut small.image(&store)), "after kills");
    // The draft of a small file may be left, for a day. A build's folder may not.
    let left = fs::read_dir(store.join("tmp")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| !name.as_encoded_bytes().starts_with(b"draft-")).collect();
    assert!(left.is_empty(), "work in progress was left: {left:?}");
}

#[test]
fn corrupt_downloads_are_found_and_fetched_again() {
    let small = scene_or_return!();
    let store = small.path("corrupt");
    small::copy(&small.downloads, &store);
    let deb = small.lock.debian.package.iter().find(|deb| deb.name == "bash").unwrap();
    let wheel = &small.lock.python.packages.iter().find(|one| one.name == "numpy").unwrap().file;
    for digest in [deb.sha256, wheel.sha256] {
        corrupt(&store, digest);
    }
    let output = small.image(&store).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    small.assert_same(&small::built(&output.stdout), "corrupt downloads");
    for name in [deb.path.rsplit('/').next().unwrap(), &wheel.name] {
        assert!(said.contains(&format!("`{name}` is corrupt in the store, and is fetched again")), "{said}");
    }
}

#[test]
fn a_wheel_that_became_corrupt_is_found_while_packing() {
    let small = scene_or_return!();
    let store = small.store_copy("rotten");
    let wheel = &small.lock.python.packages.iter().find(|one| one.name == "numpy").unwrap().file;
    corrupt(&store, wheel.sha256);
    // Its layer must be packed again; the record of unpacking it stands.
    for entry in fs::read_dir(store.join("records")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("\"numpy ") && text.contains("\"pack ") {
            fs::remove_file(path).unwrap();
        }
    }
    small.assert_same(&build(&mut small.image(&store)), "a corrupt wheel");
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let small = scene_or_return!();
    if !is_root() {
        return skipped("a full disk needs root, to mount a small one");
    }
    let disk = small.path("disk");
    fs::create_dir(&disk).unwrap();
    let said = small.path("disk said");
    let script = format!(
        "mount -t tmpfs -o size=90m none '{disk}'; status=0; \"$@\" 2>'{said}' >/dev/null || status=$?; \
         echo $status; mount -o remount,size=2g '{disk}'; exec \"$@\"",
        disk = disk.display(),
        said = said.display()
    );
    let mut words: Vec<OsString> = ["unshare", "--mount"].map(OsString::from).into();
    words.extend(shell(&script));
    let output = output(&mut wrapped(&small.image(&disk.join("store")), &words));
    let (status, json) = output.split_at(output.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    let said = fs::read_to_string(said).unwrap();
    assert_eq!(String::from_utf8_lossy(status), "7\n", "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("hint: free some space"), "{said}");
    small.assert_same(&small::built(json), "after the disk was full");
}

#[test]
fn a_read_only_store_serves_what_it_has() {
    let small = scene_or_return!();
    if !is_root() {
        return skipped("a read-only store needs root, to mount it so");
    }
    let read_only = |store: &Path| {
        let script = format!("mount --bind -o ro '{0}' '{0}'; exec \"$@\"", store.display());
        let mut words: Vec<OsString> = ["unshare", "--mount"].map(OsString::from).into();
        words.extend(shell(&script));
        words
    };
    let store = small.store_copy("read-only");
    // It is the same project, at the same path: there is nothing to note of it.
    small.assert_same(&build(&mut small.image(&store)), "before");
    small.assert_same(&build(&mut wrapped(&small.image(&store), &read_only(&store))), "a read-only store");
    forget(&store, "application");
    let (status, said) = fails(&mut wrapped(&small.image(&store), &read_only(&store)));
    assert_eq!(status, 7, "{said}");
    assert!(said.contains("Read-only file system") && said.contains("hint: `--store DIR`"), "{said}");
}

/// What is done to the lock or the project, the exit code, and a word of what is said.
type Fault = (&'static str, fn(&Path), i32, &'static str);

const FAULTS: [Fault; 9] = [
    (
        "the manifest asks for more",
        |project| edit(project, "pyproject.toml", "\"jmespath>=1.0\",", "\"jmespath>=1.0\", \"tomli\","),
        3,
        "`--locked` forbids",
    ),
    (
        "the manifest is gone",
        |project| fs::remove_file(project.join("pyproject.toml")).unwrap(),
        3,
        "there is no",
    ),
    (
        "the manifest is no TOML",
        |project| edit(project, "pyproject.toml", "[project]", "[project"),
        3,
        "pyproject.toml",
    ),
    ("the lock is gone", |project| fs::remove_file(project.join("assemble.lock")).unwrap(), 3, "there is no"),
    (
        "a digest is too short",
        |project| edit(project, "assemble.lock", "sha256 = \"", "sha256 = \"abc\" #"),
        3,
        "sha256",
    ),
    (
        "a digest has a wrong letter",
        |project| edit(project, "assemble.lock", "sha256 = \"", "sha256 = \"g"),
        3,
        "sha256",
    ),
    (
        "a path leaves the archive",
        |project| edit(project, "assemble.lock", "path = \"pool/", "path = \"pool/../../"),
        3,
        "the path",
    ),
    (
        "a file name leaves its folder",
        |project| edit(project, "assemble.lock", "name = \"greenlet-", "name = \"../greenlet-"),
        3,
        "is no file name",
    ),
    (
        "the lock is of a later version",
        |project| edit(project, "assemble.lock", "version = 1", "version = 2"),
        3,
        "version 2",
    ),
];

#[test]
fn what_is_wrong_with_the_lock_or_the_project_is_said() {
    let small = scene_or_return!();
    for (number, (case, change, code, word)) in FAULTS.iter().enumerate() {
        let project = small.project_copy(&format!("fault {number}"));
        change(&project);
        let (status, said) = fails(&mut small.image_of(&project, &small.store));
        assert_eq!(status, *code, "{case}: {said}");
        assert!(said.starts_with("error: ") && said.contains(word), "{case}: {said}");
    }
}

#[test]
fn a_package_that_is_locked_twice_is_named() {
    let small = scene_or_return!();
    let project = small.project_copy("twice");
    let doubles: [fn(&mut Lock); 4] = [
        |lock| lock.debian.package.push(lock.debian.package[7].clone()),
        // In a set that is installed over the one that has it.
        |lock| {
            let one = lock.debian.package.iter().find(|one| one.set == "base").unwrap().clone();
            lock.debian.package.push(Deb { set: "system".to_owned(), ..one });
        },
        |lock| lock.python.packages.push(lock.python.packages[0].clone()),
        |lock| lock.python.tools.push(lock.python.tools[0].clone()),
    ];
    for double in doubles {
        let mut lock = small.lock.clone();
        double(&mut lock);
        assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();
        let (status, said) = fails(&mut small.image_of(&project, &small.store));
        assert_eq!(status, 3, "{said}");
        assert!(said.contains("twice"), "{said}");
    }
}

/// As a merge may leave it.
#[test]
fn a_lock_that_lost_a_package_is_none() {
    let small = scene_or_return!();
    let project = small.project_copy("lost package");
    let mut lock = small.lock.clone();
    lock.debian.package.retain(|deb| deb.name != "tini");
    assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();
    let (status, said) = fails(&mut small.image_of(&project, &small.store));
    assert!(status == 3 && said.contains("asks for `tini`"), "{said}");
    lock.clone_from(&small.lock);
    lock.created = u64::MAX >> 1;
    assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();
    let (status, said) = fails(&mut small.image_of(&project, &small.store));
    assert!(status == 3 && said.contains("no time"), "{said}");
    // As Git has it where it writes the ends of lines of another system.
    let text = std::fs::read_to_string(small.project.join("assemble.lock")).unwrap();
    std::fs::write(project.join("assemble.lock"), text.replace('\n', "\r\n")).unwrap();
    assert_eq!(build(&mut small.image_of(&project, &small.store)).digest, small.built.digest);
}

/// What an image is made from is not what it is written over.
#[test]
fn an_image_is_not_written_over_the_project() {
    let small = scene_or_return!();
    let project = small.project_copy("written over");
    for name in ["assemble.lock", "pyproject.toml", "small/__main__.py"] {
        let before = std::fs::read(project.join(name)).unwrap();
        let mut command = small.image_of(&project, &small.store);
        let (status, said) = fails(command.arg("--output").arg(project.join(name)));
        assert!(status == 2 && said.contains("is a file of the project"), "{said}");
        assert_eq!(std::fs::read(project.join(name)).unwrap(), before);
    }
}

#[test]
fn offline_with_nothing_is_an_error_of_the_network() {
    let small = scene_or_return!();
    let mut command = small.verb("image", &small.project, &small.path("nothing"));
    let (status, said) = fails(command.args(["--locked", "--offline"]));
    assert_eq!(status, 5, "{said}");
    assert!(said.contains("--offline"), "{said}");
}

#[test]
fn a_locked_file_with_another_digest_is_not_taken() {
    let small = scene_or_return!();
    let project = small.project_copy("another digest");
    let mut lock = small.lock.clone();
    let wheel = &mut lock.python.packages.iter_mut().find(|one| one.name == "pygments").unwrap().file;
    wheel.sha256 = Sha256::of(b"something else");
    let name = wheel.name.clone();
    assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();
    let (status, said) = fails(&mut small.image_of(&project, &small.path("another digest store")));
    assert_eq!(status, 5, "{said}");
    assert!(said.contains(&name), "{said}");
}

/// What `plan` says of each layer, the most common answer last and once, as `*`.
fn states(small: &Small, project: &Path, store: &Path) -> Vec<(&'static str, &'static str)> {
    let leak = |text: &str| -> &'static str { text.to_owned().leak() };
    let plan = small.plan(project, store);
    let others = plan.iter().filter(|layer| layer.state != "reuse");
    let mut states: Vec<_> = others.map(|layer| (leak(&layer.name), leak(&layer.state))).collect();
    if states.len() < plan.len() {
        states.push(("*", "reuse"));
    }
    states
}

/// Removes the record of what a person calls `name`.
fn forget(store: &Path, name: &str) {
    let mut forgotten = 0;
    for entry in fs::read_dir(store.join("records")).unwrap() {
        let path = entry.unwrap().path();
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        if record["name"] == name && !record["builder"].as_str().unwrap().starts_with("pack ") {
            fs::remove_file(path).unwrap();
            forgotten += 1;
        }
    }
    assert_eq!(forgotten, 1, "records of `{name}`");
}

/// Changes one byte in the midst of a blob.
fn corrupt(store: &Path, digest: Sha256) {
    let path = store.join("blobs").join(BlobDigest(digest).hex());
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

/// The first occurrence of `from` in a file of the project becomes `to`.
fn edit(project: &Path, name: &str, from: &str, to: &str) {
    let path = project.join(name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "`{name}` has no `{from}`");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// A bit of shell that ends with `exec "$@"`.
fn shell(script: &str) -> Vec<OsString> {
    ["sh", "-euc", script, "sh"].map(OsString::from).into()
}

/// A command below other words, with its working folder.
fn wrapped(command: &Command, words: &[OsString]) -> Command {
    let line: Vec<_> = words
        .iter()
        .map(OsString::as_os_str)
        .chain([command.get_program()])
        .chain(command.get_args())
        .collect();
    let mut wrapped = Command::new(line[0]);
    wrapped.args(&line[1..]);
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}
