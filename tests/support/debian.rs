//! Debian's `docker-registry`, for tests.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Debian's `docker-registry`, on a port of loopback, with what it holds in a folder of its own.
pub struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    pub host: String,
}

impl Registry {
    /// `None` where it is not installed.
    pub fn start() -> Option<Self> {
        Self::serve(Command::new("docker-registry"), "http: {addr: '127.0.0.1:0'}")
    }

    /// The program, started in whatever way, with these sections of its configuration beside the log and
    /// the storage. `None` where it cannot be started.
    pub fn serve(mut command: Command, sections: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let configuration = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n{sections}\n",
            folder.path().join("data").display()
        );
        std::fs::write(folder.path().join("config.yml"), configuration).unwrap();
        command.arg("serve").arg(folder.path().join("config.yml"));
        command.stdin(Stdio::null()).stdout(File::create(folder.path().join("access.log")).unwrap());
        let mut child = command.stderr(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let listening = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.split(|it: char| matches!(it, '"' | ',') || it.is_whitespace()).next()?.to_owned())
        });
        // Whoever writes into a pipe that nobody reads stops.
        std::thread::spawn(move || lines.for_each(drop));
        let host = listening.expect("the registry says where it listens");
        Some(Self { child, folder, host })
    }

    /// The file of a blob, by its digest in hexadecimal digits.
    pub fn blob_file(&self, hex: &str) -> std::path::PathBuf {
        let blobs = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// What it was asked, as `METHOD /path?query STATUS`.
    pub fn requests(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap();
        let line = |line: &str| {
            let mut quoted = line.split('"');
            let request = quoted.nth(1)?.trim_end_matches(" HTTP/1.1").to_owned();
            Some(format!("{request} {}", quoted.next()?.split_whitespace().next()?))
        };
        log.lines().filter_map(line).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
