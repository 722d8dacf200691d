//! The real thing, from the lock to a container that prices an option.
//!
//! Gigabytes and minutes, so it runs where `ASSEMBLE_REAL=1` asks for it, as `.ci/run` does. It needs
//! the network, a Docker engine (`.ci/with-docker COMMAND` lends one), podman, skopeo and umoci, and
//! 35 GB below `TMPDIR`. The store is the one that the environment names, so that what was fetched
//! once stays.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::finished::{self, Finished};
use crate::support::real::{run, say, step};

const PROGRAM: &str = env!("CARGO_BIN_EXE_assemble");
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_binary_image_end_to_end() {
    if let Some(reason) = finished::missing(&[]) {
        say(&format!("skipped: the real image, end to end: {reason}"));
        return;
    }
    let folder = tempfile::Builder::new().prefix("end-to-end-").tempdir().unwrap();
    let real = Real { archive: folder.path().join("image.tar") };

    step("`lock --check` can be asked (what it answers is reported, not judged)", || real.lock_check());
    let built = step("the image is built and written, and its digest printed", || real.build());
    step("a second run builds nothing and comes to the same digest", || real.build_again(&built));
    step("the streamed archive is the file, byte for byte", || real.stream());
    let finished = Finished {
        variant: "binary",
        group: "binary-torch",
        torch: "2.7.1",
        cuda: "12.8",
        libraries: ["libcudart.so.12", "libnvrtc.so.12"],
        assemble: &assemble,
        built: &built,
        folder: folder.path(),
        archive: &real.archive,
    };
    finished.holds(|_, _| ());
}

fn assemble(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(PROJECT).args(arguments);
    command
}

struct Real {
    archive: PathBuf,
}

impl Real {
    fn lock_check(&self) {
        let mut command = assemble(&["lock", "--check"]);
        // A source that the lock was made without is not asked for now either.
        let lock = std::fs::read_to_string(Path::new(PROJECT).join("assemble.lock")).unwrap();
        if lock.contains("served_by = \"default\"") {
            command.args(["--index", "pytorch-cu128=pypi"]);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.lines().collect();
        for line in &lines[lines.len().saturating_sub(12)..] {
            say(&format!("    {line}"));
        }
        assert!(output.status.code().is_some(), "killed: {}", output.status);
        say(&format!("    lock --check: {}", output.status));
    }

    /// What `--json` says.
    fn build(&self) -> Value {
        let mut command = assemble(&["image", "--variant", "binary", "--locked", "--json", "--output"]);
        let built: Value = serde_json::from_slice(&run(command.arg(&self.archive)).stdout).unwrap();
        for layer in built["layers"].as_array().unwrap() {
            let megabytes = layer["size"].as_u64().unwrap() as f64 / 1e6;
            say(&format!("    {:<12}{megabytes:>8.1} MB  {}", layer["had"].as_str().unwrap(), layer["name"]));
        }
        say(&format!("    {} in {:.1} s", built["digest"], built["seconds"].as_f64().unwrap()));
        built
    }

    fn build_again(&self, built: &Value) {
        let mut command = assemble(&["image", "--variant", "binary", "--locked", "--offline", "--json"]);
        let again: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
        assert_eq!(again["digest"], built["digest"]);
        for layer in again["layers"].as_array().unwrap() {
            assert_eq!(layer["had"], "reused", "{layer}");
        }
        say(&format!("    {:.2} s by its own account", again["seconds"].as_f64().unwrap()));
    }

    fn stream(&self) {
        let mut command =
            assemble(&["image", "--variant", "binary", "--locked", "--offline", "-q", "--output", "-"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stream = child.stdout.take().unwrap();
        let size = same_bytes(stream, File::open(&self.archive).unwrap());
        assert!(child.wait().unwrap().success());
        say(&format!("    {size} bytes"));
    }
}

/// Compares two streams, and returns their length.
fn same_bytes(one: impl Read, other: impl Read) -> u64 {
    const SIZE: usize = 1 << 20;
    let (mut one, mut other) = (BufReader::with_capacity(SIZE, one), BufReader::with_capacity(SIZE, other));
    let (mut left, mut right) = (vec![0; SIZE], vec![0; SIZE]);
    let mut offset = 0;
    loop {
        let (length, other_length) = (fill(&mut one, &mut left), fill(&mut other, &mut right));
        assert!(left[..length] == right[..other_length], "they differ after {offset} bytes");
        if length == 0 {
            return offset;
        }
        offset += length as u64;
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            length => filled += length,
        }
    }
    filled
}
