//! What a tree is known to hold that should be in no layer, or is another on every machine.
//!
//! A private key that is a member of a published archive (a wheel's test keys, a package's) is public
//! knowledge. What is looked at is what was made here or is the team's own: the files of the project, those
//! that a step left, and those that a package's script wrote, which the one constant time tells from those
//! that a package brought.

use assemble_layers::derivation::ANY_TAGS;
use assemble_layers::tree::MTIME;
use assemble_layers::{Builder, Kind as EntryKind, NodeId, Tree, TreePath};

use crate::Result;
use crate::pack::Contents;
use crate::store::Findings;

/// A file that holds a key is not larger, in bytes: a chain of certificates may stand beside it.
const LARGEST: u64 = 1 << 20;

/// Secrets that packages' scripts make, and that are no PEM.
const SECRETS: [&str; 3] = ["etc/bind/rndc.key", "etc/dropbear", "etc/munge/munge.key"];

/// Folders of databases, which their packages' scripts fill: with random identifiers, and the moment.
const BY_CHANCE: [&str; 2] = ["var/lib/mysql", "var/lib/postgresql"];

/// Looks at what a builder made.
///
/// # Errors
/// A content that is not there.
pub(super) fn of_tree(
    builder: &Builder<NodeId>,
    tree: &Tree,
    contents: &mut Contents<'_>,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let sandboxed = match builder {
        Builder::UnpackDebs(_) | Builder::Run(_) => true,
        Builder::Files(_) => false,
        // A wheel that is no file of an index was made by a step here.
        Builder::UnpackWheels(it) if it.wheels.iter().any(|wheel| wheel.filename.ends_with(ANY_TAGS)) => true,
        _ => return Ok(findings),
    };
    // A file that a package brought has the time that its package gives it.
    let brought = matches!(builder, Builder::UnpackDebs(_));
    for entry in tree.entries().iter().filter(|entry| !brought || entry.mtime == MTIME) {
        let (path, EntryKind::File(content)) = (&entry.path, &entry.kind) else { continue };
        if is_within(path, &SECRETS)
            || (content.size() <= LARGEST && is_private_key(&contents.to_vec(path, content)?))
        {
            findings.private_keys.push(path.clone());
        }
        if sandboxed && let Some(folder) = BY_CHANCE.iter().find(|folder| is_within(path, &[folder])) {
            let folder = TreePath::new(*folder)?;
            if !findings.by_chance.contains(&folder) {
                findings.by_chance.push(folder);
            }
        }
    }
    if sandboxed {
        findings.by_chance.extend(findings.private_keys.iter().cloned());
    }
    Ok(findings)
}

fn is_within(path: &TreePath, places: &[&str]) -> bool {
    let below = |place: &&str| {
        let rest = path.as_bytes().strip_prefix(place.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    places.iter().any(below)
}

/// Whether a file holds a private key as text (RFC 7468, OpenSSH's `PROTOCOL.key`, RFC 4880): a line that
/// begins one, a line of it, and a line that ends it. A program that names such lines holds none.
///
/// A text in JSON or in a program writes the ends of lines as `\n`, and stands in quotes.
fn is_private_key(bytes: &[u8]) -> bool {
    let mut inside = false;
    let mut body = false;
    let mut text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    while !text.is_empty() {
        let (line, rest) = split_line(text);
        text = rest;
        let line = line.trim_ascii();
        let quote = |byte: &u8| matches!(byte, b'"' | b'\'');
        let line = line.rsplit(quote).find(|part| !part.trim_ascii().is_empty()).unwrap_or(line);
        if border(line, b"-----BEGIN ") {
            (inside, body) = (true, false);
        } else if border(line, b"-----END ") {
            if inside && body {
                return true;
            }
            inside = false;
        } else if inside {
            let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
            body |= line.len() >= 16 && line.iter().all(base64);
        }
    }
    false
}

/// The text up to the next end of a line, and what follows that.
fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = |at: usize| match &text[at..] {
        [b'\n' | b'\r', ..] => Some(1),
        [b'\\', b'n' | b'r', ..] => Some(2),
        _ => None,
    };
    match (0..text.len()).find_map(|at| Some((at, end(at)?))) {
        Some((at, length)) => (&text[..at], &text[at + length..]),
        None => (text, &[]),
    }
}

fn border(line: &[u8], beginning: &[u8]) -> bool {
    const KEY: &[u8] = b"PRIVATE KEY";
    let label = line.strip_prefix(beginning).and_then(|label| label.strip_suffix(b"-----"));
    label.is_some_and(|label| label.windows(KEY.len()).any(|part| part == KEY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_lines() {
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC";
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"] {
            let key =
                format!("-----BEGIN {label}-----\nProc-Type: 4,ENCRYPTED\n\n{body}\n-----END {label}-----");
            assert!(is_private_key(key.as_bytes()), "{key}");
            assert!(is_private_key(format!("cert\r\n{}\r\n", key.replace('\n', "\r\n")).as_bytes()));
            assert!(is_private_key(key.replace('\n', "\r").as_bytes()));
            assert!(is_private_key(format!("\u{feff}{key}\n").as_bytes()));
            let json = serde_json::json!({ "id": 1, "private_key": format!("{key}\n"), "z": "" });
            assert!(is_private_key(json.to_string().as_bytes()), "{json}");
            assert!(is_private_key(format!("KEY = \"\"\"{key}\"\"\"\n").as_bytes()));
        }
        for text in [
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"),
            format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{body}\n"),
            "BEGIN = '-----BEGIN PRIVATE KEY-----'\nEND = '-----END PRIVATE KEY-----'\n".to_owned(),
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n".to_owned(),
            String::new(),
        ] {
            assert!(!is_private_key(text.as_bytes()), "{text}");
        }
    }
}
