//! What records the build and not the result: left out of the difference, or rewritten.

use std::path::Path;

use assemble_layers::tree::{Entry, Kind, MTIME, TreePath};
use fs_err as fs;

use super::keystore;
use super::materialise::{Snapshot, Stamp};
use super::walk::{Folder, read_file};
use crate::Result;

/// How much of a path is meant.
enum Reach {
    /// The path itself.
    Itself,
    /// The files below it; its folders stay, for programs count on them.
    FilesBelow,
    /// Everything below it.
    AllBelow,
}
use Reach::{AllBelow, FilesBelow, Itself};

/// Paths that are left out, each with the reason.
const LEFT_OUT: &[(&str, Reach, &str)] = &[
    ("etc/group-", Itself, "a backup of the last change but one"),
    ("etc/gshadow-", Itself, "a backup"),
    ("etc/passwd-", Itself, "a backup"),
    ("etc/shadow-", Itself, "a backup"),
    ("etc/subgid-", Itself, "a backup"),
    ("etc/subuid-", Itself, "a backup"),
    ("run", AllBelow, "made anew at every start"),
    ("tmp", AllBelow, "made anew at every start"),
    ("var/cache/apt", FilesBelow, "made anew by apt, from lists and status"),
    ("var/cache/debconf/config.dat-old", Itself, "a backup"),
    ("var/cache/debconf/passwords.dat-old", Itself, "a backup"),
    ("var/cache/debconf/templates.dat-old", Itself, "a backup"),
    ("var/cache/ldconfig/aux-cache", Itself, "holds inodes and change times"),
    ("var/lib/apt/lists", FilesBelow, "the archive as it was, not as it is"),
    ("var/lib/dpkg/available-old", Itself, "a backup"),
    ("var/lib/dpkg/diversions-old", Itself, "a backup"),
    ("var/lib/dpkg/statoverride-old", Itself, "a backup"),
    ("var/lib/dpkg/status-old", Itself, "a backup"),
    ("var/log/alternatives.log", Itself, "holds times"),
    ("var/log/apt", FilesBelow, "holds times"),
    ("var/log/bootstrap.log", Itself, "holds times"),
    ("var/log/dpkg.log", Itself, "holds times"),
];

/// A package whose script makes keys, what they are, and what makes them at a container's first start.
/// They are in no layer: every container of the image would have the same ones, and whoever has the image
/// has them.
pub const KEYS_MADE_AT_RANDOM: [(&str, &str, &str); 2] = [
    ("openssh-server", "SSH host keys", "ssh-keygen -A"),
    ("ssl-cert", "self-signed certificate", "make-ssl-cert generate-default-snakeoil"),
];

/// Whether an entry is one of those keys, or of what belongs to one.
pub fn is_made_at_random(entry: &Entry) -> bool {
    let text = entry.path.as_bytes();
    let host_key = text.strip_prefix(b"etc/ssh/ssh_host_");
    let host_key = host_key.is_some_and(|name| name.ends_with(b"_key") || name.ends_with(b"_key.pub"));
    // Certificates are found by a hash of their subject, which is the name of a link.
    let link = |target: &[u8]| target == b"ssl-cert-snakeoil.pem" && text.starts_with(b"etc/ssl/certs/");
    let linked = matches!(&entry.kind, Kind::Symlink(target) if link(&target.0));
    let pair = [&b"etc/ssl/certs/ssl-cert-snakeoil.pem"[..], b"etc/ssl/private/ssl-cert-snakeoil.key"];
    host_key || linked || pair.contains(&text)
}

/// Whether an entry is left out of the difference.
///
/// That it is gone, where a lower tree had it, is not left out.
pub fn leaves_out(path: &TreePath, folder: bool) -> bool {
    is_bytecode(path, folder)
        || LEFT_OUT.iter().any(|(place, reach, _)| {
            let rest = path.as_bytes().strip_prefix(place.as_bytes());
            match (reach, rest) {
                (Itself, Some(rest)) => rest.is_empty(),
                (AllBelow, Some(rest)) => rest.starts_with(b"/"),
                (FilesBelow, Some(rest)) => rest.starts_with(b"/") && !folder,
                (_, None) => false,
            }
        })
}

/// Python's compiled files hold the times of their sources.
fn is_bytecode(path: &TreePath, folder: bool) -> bool {
    !folder && (path.name().ends_with(b".pyc") || path.name().ends_with(b".pyo"))
}

/// A folder that holds nothing once [`leaves_out`] had its say is left out as well.
pub fn leaves_out_empty(path: &TreePath) -> bool {
    path.name() == b"__pycache__"
}

/// Rewrites the files that must be there but not as they are, if the job made or changed them.
pub fn rewrite(snapshot: &Snapshot) -> Result<()> {
    // The machine's identity is the first start's to make (machine-id(5), "Initialization").
    rewrite_file(snapshot, "etc/machine-id", |_| Vec::new())?;
    rewrite_file(snapshot, "var/lib/dbus/machine-id", |_| Vec::new())?;
    rewrite_file(snapshot, "etc/shadow", |text| date_passwords(&text))?;
    rewrite_file(snapshot, "etc/ssl/certs/java/cacerts", |store| keystore::dated(&store).unwrap_or(store))
}

/// The bytes of such a file.
const LARGEST: u64 = 16 << 20;

fn rewrite_file(snapshot: &Snapshot, name: &str, new: impl Fn(Vec<u8>) -> Vec<u8>) -> Result<()> {
    let name = TreePath::new(name)?;
    let path = Path::new("/").join(name.as_path());
    // What is reached through a link has another name, by which it is looked at.
    let parent = name.parent().map_or(Vec::new(), |parent| parent.as_bytes().to_vec());
    let Ok(stat) = rustix::fs::lstat(&path) else { return Ok(()) };
    let untouched = snapshot.entries.get(&name).is_some_and(|lower| lower.stamp == Stamp::of(&stat));
    let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    if untouched || !is_file || stat.st_size == 0 || Folder::open(&parent).is_err() {
        return Ok(());
    }
    let text = read_file(&path, LARGEST)?.unwrap_or_default();
    Ok(fs::write(&path, new(text))?)
}

/// Sets the days of the last change, the third of shadow(5)'s nine fields, to the one constant time.
/// An empty field and 0, "to be changed", stay.
fn date_passwords(text: &[u8]) -> Vec<u8> {
    let day = (MTIME / 86_400).to_string();
    let lines = text.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        if fields.len() == 9 && !matches!(fields[2], b"" | b"0") {
            fields[2] = day.as_bytes();
        }
        fields.join(&b':')
    });
    lines.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_is_left_out() {
        let leaves_out = |path: &str, folder| leaves_out(&TreePath::new(path).unwrap(), folder);
        for path in
            ["etc/passwd-", "run/lock", "tmp/a/b", "var/log/apt/term.log", "usr/lib/a/__pycache__/b.pyc"]
        {
            assert!(leaves_out(path, false), "{path}");
        }
        for path in ["etc/passwd", "run", "tmp", "var/log/dpkg.log.1", "runner/file", "var/log/aptitude"] {
            assert!(!leaves_out(path, false), "{path}");
        }
        assert!(!leaves_out("var/cache/apt/archives/partial", true));
        assert!(leaves_out("run/lock", true));
    }

    #[test]
    fn keys_and_what_belongs_to_them_are_known_by_name() {
        let link = |path: &str, target: &str| Entry::symlink(TreePath::new(path).unwrap(), target);
        for entry in [
            link("etc/ssh/ssh_host_ed25519_key", "x"),
            link("etc/ssh/ssh_host_rsa_key.pub", "x"),
            link("etc/ssl/private/ssl-cert-snakeoil.key", "x"),
            link("etc/ssl/certs/ssl-cert-snakeoil.pem", "x"),
            link("etc/ssl/certs/2db8f5f8.0", "ssl-cert-snakeoil.pem"),
        ] {
            assert!(is_made_at_random(&entry), "{entry:?}");
        }
        for entry in [
            link("etc/ssh/sshd_config", "x"),
            link("etc/ssl/certs/2db8f5f8.0", "ISRG_Root_X1.pem"),
            link("srv/2db8f5f8.0", "ssl-cert-snakeoil.pem"),
            link("srv/etc/ssh/ssh_host_rsa_key", "x"),
        ] {
            assert!(!is_made_at_random(&entry), "{entry:?}");
        }
    }

    #[test]
    fn the_days_of_passwords_are_one_constant() {
        let text = b"root:*:19876:0:99999:7:::\nnew:!:0:0:99999:7:::\nold:!::0:99999:7:::\nbroken:1\n";
        let dated = b"root:*:3652:0:99999:7:::\nnew:!:0:0:99999:7:::\nold:!::0:99999:7:::\nbroken:1\n";
        assert_eq!(date_passwords(text), dated);
    }
}
