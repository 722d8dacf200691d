//! What a command cannot do: too much, too long, or anything outside.

use super::packages::{debian, small_deb};
use super::*;

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
