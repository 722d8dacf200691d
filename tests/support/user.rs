//! An ordinary user, for tests that root runs.

use std::ffi::OsString;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A user with subordinate ids, gone with the value.
pub struct User {
    pub name: String,
}

impl User {
    pub fn make() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("assemble-user-{}-{number}", std::process::id());
        let options = ["--system", "--user-group", "--no-create-home", "--add-subids-for-system"];
        let made =
            Command::new("useradd").args(options).arg(&name).status().expect("useradd (package passwd)");
        assert!(made.success());
        Self { name }
    }

    /// What stands before a command that this user is to run, with nothing of root's environment.
    pub fn words(&self) -> Vec<OsString> {
        let id = |which: &str| {
            let id = Command::new("id").arg(which).arg(&self.name).output().unwrap().stdout;
            String::from_utf8(id).unwrap().trim().to_owned()
        };
        let [uid, gid] = [format!("--reuid={}", id("-u")), format!("--regid={}", id("-g"))];
        ["setpriv", &uid, &gid, "--init-groups", "--reset-env"].map(OsString::from).into()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.name).status();
    }
}
