//! The sandbox through the real program: what commands change, see, and leave behind.
//!
//! The root is a static busybox (package `busybox-static`) and little else. As root, everything runs
//! a second time as an ordinary user.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use crate::support::name;
use assemble::sandbox::{Bind, Command, DebFile, Job, Limits, Outcome, Sandbox, Task};
use assemble::{Error, Kind, Result};
use assemble_layers::derivation::Output;
use assemble_layers::digest::{BlobDigest, Sha256};
use assemble_layers::tree::{Content, Entry, Kind as EntryKind, MTIME, RawBytes, Tree, TreePath};

const BUSYBOX: &str = "/bin/busybox";

/// A folder that outlives no test, and the trees and blobs in it.
struct Scene {
    folder: PathBuf,
    trees: Vec<PathBuf>,
    blobs: BTreeMap<BlobDigest, PathBuf>,
    jobs: std::cell::Cell<u32>,
}

impl Scene {
    /// A root with busybox, `lower/*`, and what `more` adds.
    fn new(name: &str, more: impl FnOnce(&mut Self) -> Vec<Entry>) -> Self {
        let folder = std::env::temp_dir().join(format!("assemble-sandbox-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut scene = Self { folder, trees: Vec::new(), blobs: BTreeMap::new(), jobs: 0.into() };
        let busybox = scene.file("bin/busybox", &std::fs::read(BUSYBOX).expect("busybox-static"), 0o755);
        let applets =
            ["sh", "cat", "ls", "rm", "ln", "chmod", "mv", "touch", "mkdir", "printf", "sleep", "stat"];
        let applets = applets.iter().map(|name| Entry::symlink(path(format!("bin/{name}")), "busybox"));
        let mut entries: Vec<Entry> = applets.collect();
        entries.push(busybox);
        entries.extend(more(&mut scene));
        scene.tree(entries);
        scene
    }

    fn empty(name: &str) -> Self {
        Self::new(name, |_| Vec::new())
    }

    fn file(&mut self, name: &str, bytes: &[u8], mode: u32) -> Entry {
        // An offset other than 0, as in a tar.
        let blob = [b"before", bytes, b"after"].concat();
        let digest = BlobDigest(Sha256::of(&blob));
        let file = self.folder.join(digest.hex());
        std::fs::write(&file, blob).unwrap();
        self.blobs.insert(digest, file);
        Entry::file(path(name), Content::Plain { blob: digest, offset: 6, length: bytes.len() as u64 }, mode)
    }

    fn tree(&mut self, entries: Vec<Entry>) {
        let file = self.folder.join(format!("tree-{}", self.trees.len()));
        std::fs::write(&file, serde_json::to_vec(&Tree::new(entries).unwrap()).unwrap()).unwrap();
        self.trees.push(file);
    }

    fn job(&self, task: Task) -> Job {
        self.jobs.set(self.jobs.get() + 1);
        let folder = self.folder.join(format!("job-{}", self.jobs.get()));
        std::fs::create_dir(&folder).unwrap();
        Job { folder, root: self.trees.clone(), blobs: self.blobs.clone(), task }
    }

    fn run(&self, command: Command, output: Output) -> (Result<Outcome>, Vec<String>) {
        let job = self.job(Task::Run { command, listen: None, output: Some(output) });
        let mut lines = Vec::new();
        let outcome = sandbox().run(&job, &mut |line| lines.push(line.to_owned()));
        (outcome, lines)
    }

    /// The difference that a shell script makes.
    fn difference(&self, script: &str) -> Outcome {
        let (outcome, lines) = self.run(shell(script), Output::Difference);
        outcome.unwrap_or_else(|error| panic!("{error}\n{lines:#?}"))
    }

    /// What a shell script says.
    fn says(&self, script: &str) -> Vec<String> {
        let (outcome, lines) = self.run(shell(script), Output::Difference);
        outcome.unwrap_or_else(|error| panic!("{error}\n{lines:#?}"));
        lines
    }

    fn error(&self, command: Command) -> Error {
        self.run(command, Output::Difference).0.expect_err("it should fail")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let removed = sandbox().remove(&self.folder);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn sandbox() -> Sandbox {
    // A copy stands beside a copy of these tests.
    let copy = std::env::current_exe().unwrap().with_file_name("assemble");
    let program = if copy.exists() { copy } else { PathBuf::from(env!("CARGO_BIN_EXE_assemble")) };
    Sandbox::with_program(program)
}

fn shell(script: &str) -> Command {
    Command::new(["/bin/sh", "-euc", script])
}

fn path(name: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(name.as_ref()).unwrap()
}

/// One line an entry, as a person reads it.
fn listing(outcome: &Outcome) -> Vec<String> {
    let line = |entry: &Entry| {
        let Entry { path, mode, uid, gid, .. } = entry;
        match &entry.kind {
            EntryKind::Directory => format!("d {mode:o} {uid}:{gid} {path}"),
            EntryKind::File(_) => format!("f {mode:o} {uid}:{gid} {path} {:?}", text(outcome, entry)),
            EntryKind::Symlink(target) => format!("l {path} -> {}", String::from_utf8_lossy(&target.0)),
            EntryKind::Hardlink(target) => format!("h {path} = {target}"),
            EntryKind::Whiteout => format!("- {path}"),
        }
    };
    outcome.tree.entries().iter().map(line).collect()
}

/// A file's content, read from the tar where the tree says.
fn text(outcome: &Outcome, entry: &Entry) -> String {
    let EntryKind::File(Content::Plain { blob, offset, length }) = entry.kind else { panic!("{entry:?}") };
    assert_eq!(blob.0, outcome.diff_id.0);
    let tar = std::fs::read(&outcome.tar).unwrap();
    String::from_utf8_lossy(&tar[offset as usize..(offset + length) as usize]).into_owned()
}

fn lower(scene: &mut Scene) -> Vec<Entry> {
    let mut capable = scene.file("lower/capable", b"capable", 0o755);
    // VFS_CAP_REVISION_2 and effective; CAP_NET_BIND_SERVICE permitted.
    let capability = [1_u32 | 0x0200_0000, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    capable.xattrs.insert("security.capability".to_owned(), RawBytes(capability));
    let mut owned = scene.file("lower/owned", b"owned", 0o4750);
    (owned.uid, owned.gid, owned.mtime) = (33, 65534, 1_000_000_000);
    let linked = Entry { kind: EntryKind::Hardlink(path("lower/a")), ..scene.file("lower/b", b"", 0o644) };
    vec![
        Entry::directory(path("lower")),
        scene.file("lower/a", b"one", 0o644),
        linked,
        capable,
        owned,
        Entry::directory(path("lower/folder")),
        scene.file("lower/folder/deep", b"deep", 0o600),
        Entry::directory(path("lower/other")),
        scene.file("lower/other/file", b"file", 0o644),
        Entry::symlink(path("lower/symlink"), "/anywhere"),
    ]
}

#[test]
fn the_difference_is_what_changed() {
    let scene = Scene::new("difference", lower);
    let outcome = scene.difference(
        "mkdir -m 2755 new; printf hello > new/file; ln new/file new/again; ln -s ../file new/link
         printf x > \"new/$(printf 'caf\\351')\"
         rm -r lower/folder; printf changed > lower/owned; rm lower/symlink; mkdir lower/symlink
         rm -r lower/other; printf file > lower/other; chmod 700 lower/capable",
    );
    assert_eq!(
        listing(&outcome),
        [
            "d 755 0:0 lower",
            "f 700 0:0 lower/capable \"capable\"",
            "- lower/folder",
            "f 644 0:0 lower/other \"file\"",
            // A write ends set-user-ID, for in a user namespace nobody has the host's CAP_FSETID.
            "f 750 33:65534 lower/owned \"changed\"",
            "d 755 0:0 lower/symlink",
            "d 2755 0:0 new",
            "f 644 0:0 new/again \"hello\"",
            "f 644 0:0 new/caf%E9 \"x\"",
            "h new/file = new/again",
            "l new/link -> ../file",
        ]
    );
    assert!(outcome.tree.entries().iter().all(|entry| entry.mtime == MTIME));
    let capable = outcome.tree.find(&path("lower/capable")).unwrap();
    assert_eq!(capable.xattrs.len(), 1, "a capability survives a change of mode");
}

#[test]
fn what_is_written_again_is_no_change() {
    let scene = Scene::new("again", lower);
    let outcome = scene.difference(
        "cat lower/owned > copy; cat copy > lower/owned; rm copy; chmod 4750 lower/owned; touch lower/folder/deep lower/a
         touch lower/folder/new; rm lower/folder/new; rm lower/symlink; ln -s /anywhere lower/symlink
         chmod 700 lower/folder; chmod 755 lower/folder; ln lower/a lower/z; rm lower/z
         mv lower/folder/deep lower/folder/moved; mv lower/folder/moved lower/folder/deep
         cat lower/b > copy; rm lower/b; mv copy lower/b",
    );
    assert_eq!(listing(&outcome), [""; 0]);
}

#[test]
fn times_that_a_job_did_not_write_are_kept() {
    let scene = Scene::empty("times");
    let outcome =
        scene.difference("mkdir a; touch -d @1234567890 a/old; touch a/new; touch -d @1234567890 a");
    let times: Vec<_> = outcome.tree.entries().iter().map(|entry| entry.mtime).collect();
    assert_eq!(times, [MTIME, MTIME, 1_234_567_890]);
    // 2100, on whichever day the job runs; and what is written while it runs, at its end too.
    let outcome = scene.difference("touch -d @4102444800 future; touch one; sleep 2.5; touch two");
    let times: Vec<_> = outcome.tree.entries().iter().map(|entry| entry.mtime).collect();
    assert_eq!(times, [4_102_444_800, MTIME, MTIME]);
    // What is rewritten after the command is written as well, however long that takes.
    let outcome = scene.difference(
        "mkdir etc; line='u:!:19876:0:99999:7:::'; busybox yes $line | busybox head -c 16000000 >etc/shadow",
    );
    assert!(outcome.tree.entries().iter().all(|entry| entry.mtime == MTIME));
}

#[test]
fn what_records_the_build_is_left_out() {
    let scene = Scene::empty("scrub");
    let outcome = scene.difference(
        "mkdir -p etc var/log/apt var/cache/apt/archives lib/__pycache__ run/x tmp/x mixed/__pycache__
         printf 'root:*:19999:0:99999:7:::\\n' > etc/shadow; printf 0123 > etc/machine-id
         touch etc/passwd- var/log/dpkg.log var/log/apt/term.log var/cache/apt/pkgcache.bin
         touch lib/__pycache__/a.pyc mixed/__pycache__/a.pyc mixed/__pycache__/data",
    );
    assert_eq!(
        listing(&outcome),
        [
            "d 755 0:0 etc",
            "f 644 0:0 etc/machine-id \"\"",
            "f 644 0:0 etc/shadow \"root:*:3652:0:99999:7:::\\n\"",
            "d 755 0:0 lib",
            "d 755 0:0 mixed",
            "d 755 0:0 mixed/__pycache__",
            "f 644 0:0 mixed/__pycache__/data \"\"",
            "d 755 0:0 var",
            "d 755 0:0 var/cache",
            "d 755 0:0 var/cache/apt",
            "d 755 0:0 var/cache/apt/archives",
            "d 755 0:0 var/log",
            "d 755 0:0 var/log/apt",
        ]
    );
}

#[test]
fn a_folder_is_an_output_of_its_own() {
    let scene = Scene::new("folder", lower);
    let (outcome, _) = scene.run(shell("printf x > lower/x"), Output::Folder(path("lower/other")));
    assert_eq!(listing(&outcome.unwrap()), ["f 644 0:0 file \"file\""]);
    let (outcome, _) = scene.run(shell("ln -s / out"), Output::Folder(path("out/etc")));
    assert_eq!(outcome.unwrap_err().message(), "the command left no folder `/out/etc`");
}

#[test]
fn the_root_is_as_its_trees_say() {
    let mut scene = Scene::new("root", lower);
    let gone = Entry { kind: EntryKind::Whiteout, ..Entry::directory(path("lower/folder")) };
    let deflated = deflated(&mut scene, "higher/deflated", &b"deflated ".repeat(1000));
    scene.tree(vec![gone, deflated]);
    let lines =
        scene.says("stat -c '%n %a %u:%g %h %Y' lower/* higher higher/*; cat higher/deflated | wc -c");
    assert_eq!(
        lines,
        [
            "lower/a 644 0:0 2 315532800",
            "lower/b 644 0:0 2 315532800",
            "lower/capable 755 0:0 1 315532800",
            "lower/other 755 0:0 2 315532800",
            "lower/owned 4750 33:65534 1 1000000000",
            "lower/symlink 777 0:0 1 315532800",
            "higher 755 0:0 2 315532800",
            "higher/deflated 644 0:0 1 315532800",
            "9000",
        ]
    );
}

fn deflated(scene: &mut Scene, name: &str, bytes: &[u8]) -> Entry {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    let blob = encoder.finish().unwrap();
    let digest = BlobDigest(Sha256::of(&blob));
    let file = scene.folder.join(digest.hex());
    std::fs::write(&file, &blob).unwrap();
    scene.blobs.insert(digest, file);
    let (length, size, crc32) = (blob.len() as u64, bytes.len() as u64, crc32fast::hash(bytes));
    Entry::file(path(name), Content::Deflated { blob: digest, offset: 0, length, crc32, size }, 0o644)
}

#[test]
fn every_command_finds_the_same_world() {
    let scene = Scene::empty("world");
    let script = "busybox env | busybox sort; busybox hostname; busybox id -u; umask; pwd; echo $$ > /dev/null
                  ls -d /proc/[0-9]*; ls /dev; ls -A / /tmp /run /dev/fd/; cat; ls /proc/self/fd; busybox id -G";
    let lines = scene.says(script);
    let expected = "\
        HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PWD=/ \
        PYTHONHASHSEED=0 SHLVL=1 SOURCE_DATE_EPOCH=315532800 TZ=UTC assemble 0 0022 /";
    assert_eq!(lines[..12].join(" "), expected);
    assert!(
        lines.windows(4).any(|some| some == ["0", "1", "2", "3"]),
        "no open file but `ls`'s own: {lines:#?}"
    );
    assert_eq!(lines.last().unwrap(), "0", "no group but root's");
    let devices = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert!(lines.windows(devices.len()).any(|some| some == devices), "{lines:#?}");
    assert_eq!(listing(&scene.difference("touch /tmp/a /run/b /dev/shm/c; echo > /dev/null")), [""; 0]);
}

/// `/dev/null` cannot be synced: outside, this fails.
#[test]
fn no_command_waits_for_the_disk() {
    assert_eq!(
        Scene::empty("sync")
            .says("busybox dd if=/dev/null of=/dev/null conv=fsync 2>/dev/null && echo at once"),
        ["at once"]
    );
}

#[test]
fn a_command_has_its_environment_and_binds() {
    let scene = Scene::empty("binds");
    let source = scene.folder.join("bound");
    std::fs::write(&source, "bound").unwrap();
    let mut command =
        shell("cat /etc/new/file; echo \" $NAME $TZ\"; pwd; ! touch /etc/new/file").variable("NAME", "value");
    command.environment.insert("TZ".to_owned(), "CET".to_owned());
    command.working_directory = "/bin".to_owned();
    command.binds.push(Bind { source, target: "/etc/new/file".into(), writable: false });
    let (outcome, lines) = scene.run(command, Output::Difference);
    assert_eq!(listing(&outcome.unwrap()), [""; 0]);
    assert_eq!(lines[..2], ["bound value CET", "/bin"]);
}

#[test]
fn a_bind_may_stand_on_a_link_that_leads_nowhere() {
    // Nothing of it changes, its owner and time neither.
    let link = Entry::symlink(path("etc/resolv.conf"), "../run/nowhere");
    let scene =
        Scene::new("dangling", |_| vec![Entry { uid: 1000, gid: 1000, mtime: 1_234_567_890, ..link }]);
    let source = scene.folder.join("bound");
    std::fs::write(&source, "bound").unwrap();
    let mut command = shell("cat /etc/resolv.conf; touch etc/new");
    command.binds.push(Bind { source, target: "/etc/resolv.conf".into(), writable: false });
    let (outcome, lines) = scene.run(command, Output::Difference);
    assert_eq!(listing(&outcome.unwrap()), ["d 755 0:0 etc", "f 644 0:0 etc/new \"\""]);
    assert_eq!(lines, ["bound"]);
}

#[test]
fn there_is_no_network() {
    let scene = Scene::empty("network");
    assert_eq!(
        scene.says(
            "cat /proc/net/dev | busybox tail -n +3 | busybox wc -l
             busybox wget -q -O - http://127.0.0.1:1/ 2>&1 | busybox grep -c 'Connection refused'"
        ),
        ["1", "1"]
    );
    assert_eq!(
        scene.says("busybox nc -w 2 1.1.1.1 80 2>&1 || true"),
        ["nc: can't connect to remote host (1.1.1.1): Network is unreachable"]
    );
}

#[test]
fn a_command_reaches_what_its_caller_serves_and_nothing_else() {
    let scene = Scene::empty("served");
    // A service of the host's, on the same port of its own loopback interface.
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let command = shell(&format!(
        "cat /proc/net/dev | busybox tail -n +3 | busybox wc -l
         for at in '127.0.0.1 {port}' '127.0.0.1 22' '1.1.1.1 80'; do
            echo hello | busybox nc -w 2 $at 2>&1 || true
         done"
    ));
    let job = scene.job(Task::Run { command, listen: Some(port), output: None });
    let mut lines = Vec::new();
    let mut servers = Vec::new();
    let mut serve = |listener: TcpListener| {
        servers.push(std::thread::spawn(move || {
            let (mut connection, from) = listener.accept().unwrap();
            let mut said = String::new();
            BufReader::new(connection.try_clone().unwrap()).read_line(&mut said).unwrap();
            writeln!(connection, "{} served", said.trim()).unwrap();
            from.ip()
        }));
    };
    sandbox().run_served(&job, &mut serve, &mut |line| lines.push(line.to_owned())).unwrap();
    let refused = ["127.0.0.1): Connection refused", "1.1.1.1): Network is unreachable"]
        .map(|why| format!("nc: can't connect to remote host ({why}"));
    assert_eq!(lines, [&["1".to_owned(), "hello served".to_owned()], &refused[..]].concat());
    let [server] = servers.try_into().unwrap();
    assert!(server.join().unwrap().is_loopback());
    // Nothing came to the host's.
    host.set_nonblocking(true).unwrap();
    assert_eq!(host.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_failed_command_shows_its_last_lines() {
    let scene = Scene::empty("failed");
    let error =
        scene.error(shell("for i in $(busybox seq 30); do echo line $i; done; printf last >&2; exit 7"));
    assert_eq!(error.kind(), Kind::Build);
    assert!(error.message().ends_with("failed: exit code 7"), "{error}");
    assert_eq!(
        (error.details().len(), &error.details()[0][..], &error.details()[19][..]),
        (20, "line 12", "last")
    );
}

#[test]
fn what_cannot_start_is_named() {
    let mut scene = Scene::new("missing", lower);
    let script = scene.file("bin/script", b"#!/bin/nothing\n", 0o755);
    scene.tree(vec![script]);
    let message = |command| scene.error(command).message().to_owned();
    assert_eq!(
        message(Command::new(["frob", "it"])),
        "`frob it` cannot start: there is no program `frob` in the root"
    );
    assert_eq!(
        message(Command::new(["/bin/script"])),
        "`/bin/script` cannot start: the interpreter of `/bin/script` is not in the root"
    );
    assert_eq!(
        message(Command::new(["/lower/a"])),
        "`/lower/a` cannot start: `/lower/a` may not be executed"
    );
    let mut command = shell("true");
    command.working_directory = "/nowhere".to_owned();
    assert_eq!(message(command), "the root has no working directory `/nowhere`");
}

#[test]
fn what_no_layer_holds_is_refused() {
    let scene = Scene::empty("special");
    let error = scene.error(shell("busybox mkfifo pipe"));
    assert_eq!(error.message(), "the command left a named pipe at `/pipe`");
    let error = scene.error(shell("touch .wh.name"));
    assert_eq!(error.message(), "the command left `.wh.name`");
    let error = scene.error(shell("chmod 700 /"));
    assert_eq!(error.message(), "the command changed the folder `/` itself");
}

/// How a script ends that has met a limit.
fn limited(name: &str, limit: &str, script: &str) -> Error {
    let scene = Scene::empty(&format!("limit-{name}"));
    let mut limits = Limits::default();
    limits.set(limit).unwrap();
    let job = scene.job(Task::Run { command: shell(script), listen: None, output: Some(Output::Difference) });
    let error = sandbox().with_limits(limits).run(&job, &mut |_| ()).expect_err("it should meet its limit");
    assert_eq!(error.kind(), Kind::Build, "{error}");
    error
}

#[test]
fn a_limit_that_is_met_is_named() {
    let all_of = "for i in $(busybox seq 200); do";
    for (limit, script) in [
        ("time=1", "sleep 100".to_owned()),
        ("log=100K", "busybox yes".to_owned()),
        ("processes=50", format!("{all_of} sleep 30 & done; wait")),
        ("memory=100M", "busybox dd if=/dev/zero of=/dev/null bs=600M count=1".to_owned()),
        ("disk=20M", "busybox dd if=/dev/zero of=/big bs=1M count=50".to_owned()),
        ("disk=20M", format!("{all_of} busybox dd if=/dev/zero of=/tmp/$i bs=1M count=4; sleep 0.1; done")),
        // At once, and of holes that a layer does not have.
        ("disk=20M", "for i in 1 2 3 4 5; do busybox fallocate -l 9M $i; done".to_owned()),
        ("disk=100M", "for i in 1 2 3 4 5; do busybox truncate -s 90M $i; done".to_owned()),
    ] {
        let (name, _) = limit.split_once('=').unwrap();
        let error = limited(name, limit, &script);
        let hint = error.hint_text().unwrap_or_default();
        assert!(hint.contains(&format!("`--limit {name}=NUMBER`")), "{limit}: {error}");
    }
}

/// A control group limits the step as a whole; without one each process has as much.
#[test]
fn memory_is_limited_as_a_whole_where_a_group_may_be_made() {
    let version_2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t0");
    let group = root && version_2.contains("memory") && version_2.contains("pids");
    // Four processes of 60 MB, each of which is allowed.
    let script = "for i in 1 2 3 4; do
                    busybox dd if=/dev/zero bs=60M count=1 2>/dev/null | busybox sort -z >/dev/null &
                  done; wait; for i in 1 2 3 4; do busybox dd if=/dev/zero of=/dev/shm/$i bs=20M count=1; done";
    let scene = Scene::empty("group");
    let mut limits = Limits::default();
    limits.set("memory=100M").unwrap();
    let job = scene.job(Task::Run { command: shell(script), listen: None, output: Some(Output::Difference) });
    let done = sandbox().with_limits(limits).run(&job, &mut |_| ());
    if group {
        let error = done.expect_err("it needs more than 100 MB");
        assert!(error.hint_text().unwrap_or_default().contains("`--limit memory=NUMBER`"), "{error}");
    }
}

#[test]
fn folders_in_folders_end_in_an_error_and_are_removed() {
    let scene = Scene::empty("deep");
    // A shell cannot enter what it cannot name, so one half is moved below the other.
    let script = "for half in x y; do
                    mkdir /$half; cd /$half; i=0
                    while [ $i -lt 1200 ]; do mkdir aa; cd aa; i=$((i+1)); done
                  done; mv /x .";
    let error = scene.error(shell(script));
    assert_eq!(error.message(), "the command left a path that is too long");
}

/// A root that an earlier command has left, or a tree, is as hostile as a command: its links lead nowhere
/// but into it, those into `/proc` neither.
#[test]
fn links_of_the_root_do_not_lead_a_command_out() {
    for number in 3..30 {
        let target = format!("/proc/self/fd/{number}");
        let scene = Scene::new(&format!("link-{number}"), |_| vec![Entry::symlink(path("w"), &*target)]);
        let mut command = shell("busybox pwd; ls -d /proc/[0-9]* | busybox wc -l; ls ..");
        command.working_directory = "/w".to_owned();
        assert_eq!(scene.error(command).message(), "the root has no working directory `/w`");
    }
    for name in ["dev", "proc", "run", "tmp"] {
        let scene = |target| {
            Scene::new(&format!("link-{name}"), |_| {
                vec![Entry::symlink(path(name), target), Entry::directory(path("elsewhere"))]
            })
        };
        for target in ["/elsewhere", "../.."] {
            let error = scene(target).error(shell("true"));
            assert_eq!(error.message(), format!("`/{name}` is no folder of the root"));
        }
        // One that leads nowhere stands aside for a folder meanwhile.
        let says = scene("/nowhere/3").says("ls /proc/1/status; echo 1 > /dev/null; echo well");
        assert_eq!(says, ["/proc/1/status", "well"]);
    }
    let scene = Scene::new("link-bind", |_| vec![Entry::symlink(path("etc"), "/proc/self/fd/3")]);
    let source = scene.folder.join("bound");
    std::fs::write(&source, "bound").unwrap();
    let mut command = shell("cat /etc/passwd");
    command.binds.push(Bind { source, target: "/etc/passwd".into(), writable: false });
    let (outcome, lines) = scene.run(command, Output::Difference);
    assert_eq!((listing(&outcome.unwrap()), lines), (Vec::new(), vec!["bound".to_owned()]));
}

#[test]
fn what_is_read_of_a_root_is_a_plain_file() {
    let files = ["etc/shadow", "etc/machine-id", "var/lib/dpkg/status", "var/lib/apt/extended_states"];
    let scene = Scene::empty("pipes");
    // A named pipe is refused, and nobody waits for it to be written.
    for file in files {
        let error =
            scene.error(shell(&format!("mkdir -p $(busybox dirname /{file}); busybox mkfifo /{file}")));
        assert_eq!(error.message(), format!("the command left a named pipe at `/{file}`"));
    }
    // A link leads to what it names inside.
    let outcome = scene
        .difference("mkdir etc; ln -s /proc/1/root/etc/shadow etc/shadow; ln -s /etc/passwd etc/machine-id");
    assert_eq!(
        listing(&outcome),
        ["d 755 0:0 etc", "l etc/machine-id -> /etc/passwd", "l etc/shadow -> /proc/1/root/etc/shadow",]
    );
}

#[test]
fn lines_come_as_they_are_written() {
    let scene = Scene::empty("live");
    let job = scene.job(Task::Run {
        command: shell("echo first; sleep 1; echo second"),
        listen: None,
        output: None,
    });
    let mut times = Vec::new();
    sandbox().run(&job, &mut |_| times.push(Instant::now())).unwrap();
    assert!(times[1] - times[0] > Duration::from_millis(800));
}

#[test]
fn nothing_outlives_its_command() {
    let scene = Scene::empty("daemon");
    let begin = Instant::now();
    let lines = scene.says("busybox setsid sleep 4321 & echo started");
    assert_eq!(lines, ["started"]);
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(!runs("sleep\x004321"));
}

#[test]
fn nothing_outlives_its_caller() {
    let scene = Scene::empty("caller");
    // This test again, in a process of its own that can be killed.
    let mut caller = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", name(a_caller_to_kill), "--nocapture", "--ignored"])
        .env(
            "ASSEMBLE_TEST_JOB",
            serde_json::to_string(&scene.job(Task::Run {
                command: shell("echo ready; busybox setsid sleep 8765 & sleep 8765"),
                listen: None,
                output: None,
            }))
            .unwrap(),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(caller.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    assert!(waits_until(|| runs("sleep\x008765")));
    caller.kill().unwrap();
    caller.wait().unwrap();
    assert!(waits_until(|| !runs("sleep\x008765")), "a command outlived its caller");
}

/// Not a test: [`nothing_outlives_its_caller`] starts and kills it.
#[test]
#[ignore = "it waits to be killed"]
fn a_caller_to_kill() {
    let Ok(job) = std::env::var("ASSEMBLE_TEST_JOB") else { return };
    let job: Job = serde_json::from_str(&job).unwrap();
    sandbox().run(&job, &mut |line| println!("{line}")).unwrap();
}

fn waits_until(condition: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Whether a process has these words in its command line.
fn runs(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).starts_with(words)
    })
}

/// Engines make a folder that a layer does not name, with mode 0755.
#[test]
fn the_folders_above_a_change_are_in_the_difference_as_they_are() {
    let folder = |name: &str, mode, gid| Entry { mode, gid, ..Entry::directory(path(name)) };
    let scene = Scene::new("parents", |scene| {
        let mut marked = folder("etc/ssl", 0o2750, 0);
        marked.xattrs.insert("user.a".to_owned(), RawBytes(b"b".to_vec()));
        vec![
            folder("root", 0o700, 0),
            marked,
            folder("etc/ssl/private", 0o710, 101),
            scene.file("etc/ssl/private/old", b"old", 0o600),
            folder("srv", 0o1777, 7),
            folder("srv/untouched", 0o700, 7),
        ]
    });
    let script =
        "umask 0; echo new > etc/ssl/private/new; rm etc/ssl/private/old; echo x > root/.bash_aliases";
    let outcome = scene.difference(script);
    assert_eq!(
        listing(&outcome),
        [
            "d 755 0:0 etc",
            "d 2750 0:0 etc/ssl",
            "d 710 0:101 etc/ssl/private",
            "f 666 0:0 etc/ssl/private/new \"new\\n\"",
            "- etc/ssl/private/old",
            "d 700 0:0 root",
            "f 666 0:0 root/.bash_aliases \"x\\n\"",
        ]
    );
    let marked = outcome.tree.find(&path("etc/ssl")).unwrap();
    assert_eq!(marked.xattrs["user.a"].0, b"b");
}

const VARIED: &str =
    "mkdir a; printf 1 > a/1; ln a/1 a/2; busybox chown 7:8 a/1; chmod 4711 a/1; printf 2 > lower/owned
                      rm lower/a; chmod 711 lower/capable; touch -d @1 a/old; ln -s x a/l";

#[test]
fn the_same_job_has_the_same_digest() {
    let scene = Scene::new("twice", lower);
    let (one, other) = (scene.difference(VARIED), scene.difference(VARIED));
    assert_eq!((one.diff_id, &one.tree), (other.diff_id, &other.tree));
    assert_eq!(Sha256::of(&std::fs::read(&one.tar).unwrap()), one.diff_id.0);
    // Version 2 of `run` has the folders above what changed. The same for every user: `everything_again_as_an_ordinary_user` runs this test, too.
    assert_eq!(
        one.diff_id.to_string(),
        "sha256:179b016b02a45a1554173553a4b84d8fd76aab245750f183948233ff7bfaf423"
    );
}

#[test]
fn a_machine_that_forbids_namespaces_says_which_setting() {
    // Settings and mounts of namespaces around the caller's, so that the machine keeps its own.
    let refused = |options: &str, script: &str| {
        let this = std::env::current_exe().unwrap();
        let output = Process::new("unshare")
            .args([options, "sh", "-euc", &format!("{script}; exec \"$0\" \"$@\"")])
            .arg(this)
            .args(["--exact", name(a_refused_caller), "--nocapture", "--ignored"])
            .output()
            .expect("unshare (package `util-linux`)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = refused("-Ur", "echo 0 > /proc/sys/user/max_user_namespaces");
    assert!(text.contains("hint: `sudo sysctl -w user.max_user_namespaces=65536`"), "{text}");
    let text = refused("-Ur", ":");
    assert!(
        text.contains("needs the capabilities SETUID and SETGID, and 65535 ids beside its own"),
        "{text}"
    );
    if is_root("a container's `/proc`") {
        // One `/proc` that is whole, anywhere, would do.
        let others =
            "awk '/ - proc / && $5 != \"/proc\" { print $5 }' /proc/self/mountinfo | xargs -r umount";
        let text = refused("-m", &format!("{others}; mount -t tmpfs none /proc/fs"));
        assert!(text.contains("--security-opt systempaths=unconfined"), "{text}");
    }
}

/// Not a test: others start it where it must fail.
#[test]
#[ignore = "it is refused"]
fn a_refused_caller() {
    let scene = Scene::empty("refused");
    let error = scene.error(shell("true"));
    println!("{error}");
    assert_eq!(error.kind(), Kind::Machine);
    // `remove` would be refused as well.
    std::fs::remove_dir_all(&scene.folder).unwrap();
}

#[test]
fn everything_again_as_an_ordinary_user() {
    if !is_root("an ordinary user") {
        return;
    }
    let user = User::make();
    // Another umask, and an open file, for neither may reach a command.
    let output = user.test("umask 077; exec 9< /", &["sandbox::", "--skip", "everything_again"]);
    assert!(output.contains("test sandbox::the_same_job_has_the_same_digest ... ok"), "{output}");
    assert!(output.contains("test result: ok"), "{output}");
}

#[test]
fn a_user_is_told_what_is_missing() {
    if !is_root("users without this or that") {
        return;
    }
    let refused = ["--exact", name(a_refused_caller), "--nocapture", "--ignored"];
    let output = User::nobody().test(":", &refused);
    assert!(output.contains("`sudo usermod --add-subuids 100000-165535"), "{output}");
    let user = User::make();
    let output = user.test("ln -s $(command -v id) . && PATH=$PWD", &refused);
    assert!(output.contains("hint: `apt-get install uidmap`"), "{output}");
}

fn is_root(what: &str) -> bool {
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t0");
    if !root {
        // Not `eprintln`: the harness hides it.
        let _ = writeln!(std::io::stderr().lock(), "skipped: only root can test {what}");
    }
    root
}

/// A user, for as long as this lives, and a folder with the program and these tests: the build's own
/// need not be open to others.
struct User {
    name: String,
    folder: PathBuf,
    made: bool,
}

impl User {
    /// A user with subordinate ids.
    fn make() -> Self {
        let user = Self::new("assemble-test", true);
        let options = ["--system", "--user-group", "--no-create-home", "--add-subids-for-system", &user.name];
        let made = Process::new("useradd").args(options).status().expect("useradd (package `passwd`)");
        assert!(made.success());
        user
    }

    /// A user without.
    fn nobody() -> Self {
        Self::new("nobody", false)
    }

    fn new(name: &str, made: bool) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let id =
            format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let name = if made { format!("{name}-{id}") } else { name.to_owned() };
        let folder = std::env::temp_dir().join(format!("assemble-user-{id}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o1777)).unwrap();
        // Not copied by this process: a file that it has open for writing, and with it every process that
        // another test starts in that moment, cannot be executed.
        let tests = std::env::current_exe().unwrap();
        for (from, to) in [(Path::new(env!("CARGO_BIN_EXE_assemble")), "assemble"), (&tests, "tests")] {
            assert!(Process::new("cp").arg(from).arg(folder.join(to)).status().unwrap().success());
        }
        Self { name, folder, made }
    }

    /// Runs these tests after a bit of shell.
    fn test(&self, before: &str, arguments: &[&str]) -> String {
        let uid = Process::new("id").args(["-u", &self.name]).output().unwrap();
        let gid = Process::new("id").args(["-g", &self.name]).output().unwrap();
        let [uid, gid] = [uid, gid].map(|id| String::from_utf8(id.stdout).unwrap().trim().to_owned());
        let output = Process::new("setpriv")
            .args([format!("--reuid={uid}"), format!("--regid={gid}")])
            .args(["--init-groups", "--reset-env", "sh", "-euc", &format!("{before}; exec \"$@\""), "sh"])
            .arg(self.folder.join("tests"))
            .args(arguments)
            .current_dir(&self.folder)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        if self.made {
            let _ = Process::new("userdel").arg(&self.name).status();
        }
    }
}

/// A package of a folder, a file, a link, a conffile, and nothing to run.
fn small_deb(folder: &std::path::Path) -> PathBuf {
    let tar = |entries: &[(&str, tar::EntryType, &str)]| {
        let mut bytes = Vec::new();
        let mut builder = tar::Builder::new(&mut bytes);
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if *kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
            header.set_mtime(1_000_000_000);
            header.set_uid(0);
            header.set_gid(0);
            if *kind == tar::EntryType::Symlink {
                header.set_size(0);
                builder.append_link(&mut header, name, content).unwrap();
            } else {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
        }
        builder.finish().unwrap();
        drop(builder);
        bytes
    };
    let (file, directory, symlink) =
        (tar::EntryType::Regular, tar::EntryType::Directory, tar::EntryType::Symlink);
    let control = "Package: small\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <nobody@example>\n\
                   Description: a package\n of a test\n";
    let control = tar(&[("./control", file, control), ("./conffiles", file, "/etc/small.conf\n")]);
    let data = tar(&[
        ("./", directory, ""),
        ("./etc/", directory, ""),
        ("./etc/small.conf", file, "answer = 42\n"),
        ("./lib/", directory, ""),
        ("./lib/small", file, "small\n"),
        ("./lib/link", symlink, "small"),
    ]);
    let mut ar = b"!<arch>\n".to_vec();
    for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", &control), ("data.tar", &data)] {
        ar.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", bytes.len()).bytes(),
        );
        ar.extend(bytes);
        ar.resize(ar.len().next_multiple_of(2), b'\n');
    }
    let path = folder.join("small.deb");
    std::fs::write(&path, ar).unwrap();
    path
}

/// `unpack-debs` makes a tree of known identity.
/// A root of Debian's, as far as unpacking asks for one, whose `dpkg` is a script.
fn debian(scene: &mut Scene, dpkg: &str) -> Vec<Entry> {
    let status = "Package: base\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\
                  Maintainer: Nobody <nobody@example>\nDescription: a base\n\n";
    vec![
        // The links of a merged /usr, which entries are rewritten through.
        Entry::symlink(path("lib"), "usr/lib"),
        Entry::directory(path("usr")),
        Entry::directory(path("usr/bin")),
        Entry::directory(path("usr/lib")),
        Entry::directory(path("usr/sbin")),
        scene.file("usr/bin/dpkg", format!("#!/bin/sh\n{dpkg}").as_bytes(), 0o755),
        scene.file("var/lib/dpkg/status", status.as_bytes(), 0o644),
        Entry::directory(path("var/lib/dpkg/triggers")),
        scene.file("var/lib/dpkg/info/base.list", b"/.\n", 0o644),
        scene.file("var/lib/dpkg/info/format", b"1\n", 0o644),
    ]
}

/// As maintainer scripts do: while packages are configured.
#[test]
fn what_is_made_by_chance_while_packages_are_configured_is_left_out() {
    let configure = "mkdir -p /etc/ssh /etc/ssl/certs /etc/ssl/private /var/lib/mysql/sys
        date >/etc/ssh/ssh_host_rsa_key; date >/etc/ssh/ssh_host_rsa_key.pub; echo Port 22 >/etc/ssh/sshd_config
        date >/etc/ssl/private/ssl-cert-snakeoil.key; date >/etc/ssl/certs/ssl-cert-snakeoil.pem
        ln -sf ssl-cert-snakeoil.pem /etc/ssl/certs/2db8f5f8.0
        date >/var/lib/mysql/sys/user.frm; date >/var/lib/mysql/ibdata1; date >/var/lib/mysql-files
        date >/etc/ssh/ssh_host_old_key\n";
    let scene = Scene::new("chance", |scene| {
        let mut root = debian(scene, configure);
        // What lies below is not ours to take away, though a script writes it again.
        root.push(scene.file("etc/ssh/ssh_host_old_key", b"old", 0o600));
        root
    });
    let deb = DebFile { package: "small".to_owned(), path: small_deb(&scene.folder), automatic: false };
    let names = |without: &[&str]| {
        let without = without.iter().map(|name| path(*name)).collect();
        let job = scene.job(Task::UnpackDebs { packages: vec![deb.clone()], without });
        let outcome = sandbox().run(&job, &mut |_| ()).unwrap();
        let names = outcome.tree.entries().iter().map(|entry| entry.path.to_string());
        let made = ["etc/ssh", "etc/ssl", "var/lib/mysql"];
        names.filter(|name| made.iter().any(|folder| name.starts_with(folder))).collect::<Vec<_>>()
    };
    let always = [
        "etc/ssh",
        "etc/ssh/ssh_host_old_key",
        "etc/ssh/sshd_config",
        "etc/ssl",
        "etc/ssl/certs",
        "etc/ssl/private",
        "var/lib/mysql",
    ];
    let database =
        ["var/lib/mysql-files", "var/lib/mysql/ibdata1", "var/lib/mysql/sys", "var/lib/mysql/sys/user.frm"];
    assert_eq!(names(&[]), [&always[..], &database].concat());
    assert_eq!(names(&["var/lib/mysql", "var/lib/mysql-files"]), always);
}

/// The sandbox unpacks packages itself, by threads of its own: that is no use of the step's.
#[test]
fn a_limit_is_the_step_s_own() {
    let unpacked = |limit: &str| {
        let scene = Scene::new(&format!("debs-{limit}"), |scene| debian(scene, "exit 0\n"));
        let deb = DebFile { package: "small".to_owned(), path: small_deb(&scene.folder), automatic: false };
        let job = scene.job(Task::UnpackDebs { packages: vec![deb], without: Vec::new() });
        let mut limits = Limits::default();
        limits.set(limit).unwrap();
        sandbox().with_limits(limits).run(&job, &mut |_| ())
    };
    unpacked("processes=8").unwrap();
    unpacked("memory=20M").unwrap();
    // Configuring them is.
    let error = unpacked("processes=1").unwrap_err();
    assert!(error.hint_text().unwrap_or_default().contains("`--limit processes=NUMBER`"), "{error}");
    let error = limited("open-files", "open-files=3", "busybox cp /bin/busybox /copy");
    assert!(error.hint_text().unwrap_or_default().contains("`--limit open-files=NUMBER`"), "{error}");
}

#[test]
fn a_package_becomes_a_known_tree() {
    let scene = Scene::new("debs", |scene| debian(scene, "exit 0\n"));
    let deb = DebFile { package: "small".to_owned(), path: small_deb(&scene.folder), automatic: false };
    let job = scene.job(Task::UnpackDebs { packages: vec![deb], without: Vec::new() });
    let outcome = sandbox().run(&job, &mut |_| ()).unwrap();
    let listing = listing(&outcome);
    for line in ["f 644 0:0 usr/lib/small \"small\\n\"", "l usr/lib/link -> small"] {
        assert!(listing.iter().any(|found| found == line), "{line}: {listing:#?}");
    }
    assert_eq!(
        outcome.diff_id.hex(),
        // Version 2 has the folders above what changed.
        "852acd5792372cecfe44f1c2030c0ed695a090159ad5aafe5bf656c7a2edab90",
        "`unpack-debs` makes another tree of the same input: raise the builder's version in \
         layers/src/derivation.rs, then write the new diffID here: {listing:#?}"
    );
}
