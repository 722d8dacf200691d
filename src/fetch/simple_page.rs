//! Pages of the simple API: what an index lists of a project (PEP 503, 691, 700).
//!
//! HTML is read here: the crates that there are build a tree of the page, and one of 20 MB has a million
//! anchors, each of which is a name and an address.

use std::collections::BTreeMap;

use assemble_layers::digest::Sha256;
use serde::Deserialize;

use super::http::Page;
use crate::error::{Error, Kind, Result};
use crate::net::Address;

/// A character reference is not longer, in bytes.
const LONGEST_REFERENCE: usize = 10;

/// A file that an index lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub name: String,
    pub address: Address,
    /// An encrypted page leads to it in plain text.
    pub exposed: bool,
    pub sha256: Option<Sha256>,
    /// In bytes, where the index says it (PEP 700).
    pub size: Option<u64>,
    pub requires_python: Option<String>,
    /// Why it should not be used, where that is so (PEP 592); the reason may be empty.
    pub yanked: Option<String>,
    /// Where the file's metadata stands beside it (PEP 658, PEP 714).
    pub metadata: Option<Metadata>,
    /// As the index writes it (PEP 700).
    pub uploaded: Option<String>,
}

impl Listed {
    /// Where it is, for whoever has no digest to check what comes from there.
    ///
    /// # Errors
    /// The index is encrypted and leads to plain text, where anybody on the way may write.
    pub fn unchecked_address(&self) -> Result<&Address> {
        if !self.exposed {
            return Ok(&self.address);
        }
        let message =
            format!("an encrypted index leads to `{}` in plain text, and lists no digest", self.name);
        Err(Error::new(Kind::Network, message)
            .detail(&self.address)
            .hint("whoever runs the index must list digests (`#sha256=…`), or lead to `https:`"))
    }
}

/// A file's metadata, at the file's address with `.metadata` behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    pub sha256: Option<Sha256>,
}

/// The files that a page lists.
///
/// # Errors
/// JSON that is none.
pub(crate) fn read_page(page: &Page) -> Result<Vec<Listed>> {
    let text = String::from_utf8_lossy(&page.bytes);
    if page.content_type.ends_with("json") {
        read_json(&text, &page.address)
    } else {
        read_html(&text, &page.address)
    }
}

/// PEP 691.
fn read_json(text: &str, at: &Address) -> Result<Vec<Listed>> {
    #[derive(Deserialize)]
    struct Project {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct File {
        filename: String,
        url: String,
        #[serde(default)]
        hashes: BTreeMap<String, String>,
        size: Option<u64>,
        requires_python: Option<String>,
        yanked: Option<Said>,
        core_metadata: Option<Said>,
        dist_info_metadata: Option<Said>,
        upload_time: Option<String>,
    }
    /// What may be true or false, or more than true.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Whether(bool),
        Why(String),
        Digests(BTreeMap<String, String>),
    }
    impl Default for Said {
        fn default() -> Self {
            Self::Whether(false)
        }
    }
    let sha256 = |hashes: &BTreeMap<String, String>| hashes.get("sha256")?.parse().ok();
    let project: Project = serde_json::from_str(text).map_err(|error| {
        Error::new(Kind::Network, format!("`{}` sent a page that is not of the simple API", at.host()))
            .detail(error)
            .detail(at)
    })?;
    let listed = |file: File| {
        let address = at.join(&file.url).ok()?;
        Some(Listed {
            exposed: at.is_encrypted() && !address.is_encrypted(),
            address,
            name: file.filename,
            sha256: sha256(&file.hashes),
            size: file.size,
            requires_python: file.requires_python,
            yanked: match file.yanked.unwrap_or_default() {
                Said::Whether(false) => None,
                Said::Why(why) => Some(why),
                Said::Whether(true) | Said::Digests(_) => Some(String::new()),
            },
            metadata: match file.core_metadata.or(file.dist_info_metadata).unwrap_or_default() {
                Said::Whether(false) => None,
                Said::Digests(hashes) => Some(Metadata { sha256: sha256(&hashes) }),
                Said::Whether(true) | Said::Why(_) => Some(Metadata { sha256: None }),
            },
            uploaded: file.upload_time,
        })
    };
    Ok(project.files.into_iter().filter_map(listed).collect())
}

/// PEP 503: each anchor is a file, its text the name, its `href` the address, with
/// `#sha256=…` behind it.
fn read_html(text: &str, at: &Address) -> Result<Vec<Listed>> {
    let mut base = at.clone();
    let mut files = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        rest = &rest[start..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let (tag, after) = split_tag(rest);
        rest = after;
        let Some(href) = attribute(tag, "href") else { continue };
        match tag_name(tag) {
            "base" => base = at.join(&href)?,
            "a" => {
                let name = unescape(rest.split('<').next().unwrap_or_default().trim());
                let Ok(address) = base.join(&href) else { continue };
                let digest =
                    |text: &str| text.split('&').find_map(|part| part.strip_prefix("sha256=")?.parse().ok());
                let metadata = attribute(tag, "data-core-metadata");
                let metadata = metadata.or_else(|| attribute(tag, "data-dist-info-metadata"));
                files.push(Listed {
                    name,
                    exposed: at.is_encrypted() && !address.is_encrypted(),
                    address,
                    sha256: href.split_once('#').and_then(|(_, fragment)| digest(fragment)),
                    size: None,
                    requires_python: attribute(tag, "data-requires-python"),
                    yanked: attribute(tag, "data-yanked"),
                    metadata: metadata
                        .filter(|said| said != "false")
                        .map(|said| Metadata { sha256: digest(&said) }),
                    uploaded: None,
                });
            }
            _ => {}
        }
    }
    Ok(files)
}

/// A tag without its brackets, and what follows it. A `>` in quotes does not end it.
fn split_tag(text: &str) -> (&str, &str) {
    let mut quote = None;
    for (index, c) in text.char_indices().skip(1) {
        match (quote, c) {
            (None, '>') => return (&text[1..index], &text[index + 1..]),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    (&text[1..], "")
}

fn tag_name(tag: &str) -> &str {
    let name = tag.split(|c: char| c.is_ascii_whitespace() || c == '/').next().unwrap_or_default();
    match name {
        "A" => "a",
        "BASE" => "base",
        other => other,
    }
}

/// An attribute's value, in double quotes, single ones, or none.
fn attribute(tag: &str, wanted: &str) -> Option<String> {
    let mut rest = tag.trim_start_matches(|c: char| !c.is_ascii_whitespace()).trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after = after.trim_start();
        let Some(value) = after.strip_prefix('=').map(str::trim_start) else {
            // An attribute without a value, or a lone slash.
            if name.eq_ignore_ascii_case(wanted) {
                return Some(String::new());
            }
            rest = if end == 0 { &after[after.len().min(1)..] } else { after };
            continue;
        };
        let (value, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            _ => value.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((value, "")),
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(unescape(value));
        }
        rest = after.trim_start();
    }
    None
}

/// Character references: the few by name that occur, and those by number.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        // One look at the rest for each `&` would be as many as there are bytes.
        let end = rest.bytes().take(LONGEST_REFERENCE + 1).position(|byte| byte == b';');
        let reference = end.map(|end| (&rest[1..end], &rest[end + 1..]));
        match reference.and_then(|(name, after)| Some((character(name)?, after))) {
            Some((c, after)) => {
                plain.push(c);
                rest = after;
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain + rest
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}
