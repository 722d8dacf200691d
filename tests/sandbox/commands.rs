//! What a command finds, and what its caller hears of it.

use super::*;

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
