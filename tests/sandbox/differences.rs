//! What a command changed, as a layer.

use super::*;

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
pub(super) fn the_same_job_has_the_same_digest() {
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
fn what_no_layer_holds_is_refused() {
    let scene = Scene::empty("special");
    let error = scene.error(shell("busybox mkfifo pipe"));
    assert_eq!(error.message(), "the command left a named pipe at `/pipe`");
    let error = scene.error(shell("touch .wh.name"));
    assert_eq!(error.message(), "the command left `.wh.name`");
    let error = scene.error(shell("chmod 700 /"));
    assert_eq!(error.message(), "the command changed the folder `/` itself");
}
