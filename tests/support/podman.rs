//! podman with a store of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Its store is in `folder`, whose last name is like no other's on this machine.
pub fn podman(folder: &Path) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(folder.join("root")).arg("--runroot").arg(run_folder(folder));
    command.args(["--cgroup-manager", "cgroupfs"]);
    command
}

/// Removes the store, and whatever podman mounted for it.
pub fn reset(folder: &Path) {
    let _ = podman(folder).args(["system", "reset", "--force"]).output();
    // It mounts its layers' folder over itself.
    let _ = Command::new("umount").arg(folder.join("root/overlay")).output();
    for folder in [folder, &run_folder(folder)] {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// podman refuses one of more than 50 characters, which those below `TMPDIR` may have.
fn run_folder(folder: &Path) -> PathBuf {
    Path::new("/tmp").join(folder.file_name().unwrap())
}
