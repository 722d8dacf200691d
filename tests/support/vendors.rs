//! Archives that others publish, made by their tools: a key, packages, an index, a signature.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{FileServer, output};

/// Such archives in a folder, and their server.
pub struct Vendors {
    folder: TempDir,
    server: FileServer,
}

impl Vendors {
    /// Why there are none, if so.
    pub fn missing() -> Option<String> {
        let tools = [("gpg", "gnupg"), ("dpkg-scanpackages", "dpkg-dev")];
        let lacks = tools.iter().find(|(tool, _)| Command::new(tool).arg("--version").output().is_err());
        lacks.map(|(_, package)| format!("archives of others need `{package}`"))
    }

    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let server = FileServer::start(folder.path());
        Self { folder, server }
    }

    /// The folder that is served.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}/", self.server.port)
    }

    pub fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(self.path());
        command.env("GNUPGHOME", self.path().join("gpg"));
        String::from_utf8(output(&mut command)).unwrap()
    }

    /// An archive with these packages, `NAME VERSION DEPENDS`, signed by a key of its own; that key.
    pub fn publish(&self, name: &str, suite: Option<&str>, packages: &[(&str, &str, &str)]) -> String {
        for package in packages {
            self.package(name, *package);
        }
        self.index(name, suite);
        let key = self.key(name, "");
        self.sign(name, suite, name, "");
        key
    }

    /// Each package has one file, `/usr/share/NAME/of`, which says whose it is.
    pub fn package(&self, name: &str, (package, version, depends): (&str, &str, &str)) {
        self.sh(&format!(
            "mkdir -p tree/DEBIAN tree/usr/share/{package} {name}/pool
             printf '{name} {version}\n' >tree/usr/share/{package}/of
             printf 'Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: V <v@vendor.example>\n' >tree/DEBIAN/control
             printf 'Depends: {depends}\nDescription: of {name}\n' >>tree/DEBIAN/control
             dpkg-deb --build --root-owner-group tree {name}/pool/ >&2; rm -r tree"
        ));
    }

    /// Writes `Packages` and `Release`, with an empty field and blanks at the ends of lines, as some have them.
    fn index(&self, name: &str, suite: Option<&str>) {
        let (release, folder) = match suite {
            Some(suite) => (release(name, Some(suite)), format!("dists/{suite}/tools/binary-amd64")),
            None => (release(name, None), ".".to_owned()),
        };
        self.sh(&format!(
            "mkdir -p {name}/{folder}
             (cd {name} && dpkg-scanpackages --multiversion pool >{folder}/Packages 2>/dev/null && gzip -k {folder}/Packages)
             cd {release}
             {{ printf 'Origin: {name}\nLabel: \nSuite: {}\nDate: %s  \nSHA256:\n' \"$(date -Ru)\"
                find . -name 'Packages*' | sed 's,^\\./,,' | while read -r file; do
                    printf ' %s %s %s\n' \"$(sha256sum <\"$file\" | cut -d' ' -f1)\" \"$(stat -c %s \"$file\")\" \"$file\"
                done; }} >Release",
            suite.unwrap_or_default(),
        ));
    }

    /// A new key; `options` are gpg's.
    pub fn key(&self, of: &str, options: &str) -> String {
        self.sh(&format!(
            "mkdir -p gpg; chmod 700 gpg
             gpg --batch --quiet --passphrase '' {options} --quick-generate-key '{of} <v@{of}.example>' default default never
             gpg --armor --export 'v@{of}.example'"
        ))
    }

    /// Signs an archive anew; `options` are gpg's.
    pub fn sign(&self, name: &str, suite: Option<&str>, key: &str, options: &str) {
        self.sh(&format!(
            "cd {}; gpg --batch --quiet --yes {options} --local-user 'v@{key}.example' --clearsign --output InRelease Release",
            release(name, suite)
        ));
    }

    /// Where an archive's `InRelease` is.
    #[allow(dead_code, reason = "`programs` needs it")]
    pub fn in_release(&self, name: &str, suite: Option<&str>) -> std::path::PathBuf {
        self.path().join(release(name, suite)).join("InRelease")
    }
}

fn release(name: &str, suite: Option<&str>) -> String {
    suite.map_or(name.to_owned(), |suite| format!("{name}/dists/{suite}"))
}
