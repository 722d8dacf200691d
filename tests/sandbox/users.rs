//! Callers that are not root, and machines that forbid what is needed.

use super::*;

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
    let one = format!("test {} ... ok", name(differences::the_same_job_has_the_same_digest));
    assert!(output.contains(&one), "{output}");
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
