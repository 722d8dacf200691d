//! What an index lists of a project, as the simple API has it: JSON (PEP 691, with the sizes and times
//! of PEP 700), or HTML (PEP 503) for an older pip or Poetry.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fetch::python::{Listed, Metadata};

pub const JSON: &str = "application/vnd.pypi.simple.v1+json";
pub const HTML: &str = "text/html; charset=utf-8";

/// A page that leads to `address_of` each file. Where a name stands twice, the first counts.
pub fn render(json: bool, project: &str, files: &[Listed], address_of: &dyn Fn(&str) -> String) -> Vec<u8> {
    let mut names = BTreeSet::new();
    let files = files.iter().filter(|file| names.insert(&file.name));
    if json {
        let files: Vec<_> = files.map(|file| as_json(file, &address_of(&file.name))).collect();
        let meta = json!({ "api-version": "1.0" });
        return json!({ "meta": meta, "name": project, "files": files }).to_string().into_bytes();
    }
    let links: String = files.map(|file| as_html(file, &address_of(&file.name))).collect();
    format!("<!DOCTYPE html><html><body>\n{links}</body></html>\n").into_bytes()
}

fn as_json(file: &Listed, address: &str) -> Value {
    let hashes = |sha256| json!({ "sha256": sha256 });
    let mut value = json!({
        "filename": file.name,
        "url": address,
        "hashes": file.sha256.map_or_else(|| json!({}), |sha256| hashes(sha256.to_string())),
        "requires-python": file.requires_python,
        "yanked": match file.yanked.as_deref() {
            None => json!(false),
            Some("") => json!(true),
            Some(why) => json!(why),
        },
        "core-metadata": match file.metadata {
            None => json!(false),
            Some(Metadata { sha256: None }) => json!(true),
            Some(Metadata { sha256: Some(sha256) }) => hashes(sha256.to_string()),
        },
    });
    if let Some(size) = file.size {
        value["size"] = json!(size);
    }
    if let Some(uploaded) = &file.uploaded {
        value["upload-time"] = json!(uploaded);
    }
    value
}

fn as_html(file: &Listed, address: &str) -> String {
    let digest = file.sha256.map(|sha256| format!("#sha256={sha256}")).unwrap_or_default();
    let metadata = file.metadata.as_ref().map(|metadata| match metadata.sha256 {
        Some(sha256) => format!("sha256={sha256}"),
        None => "true".to_owned(),
    });
    // PEP 714: the old name is for clients that know no other.
    let attributes = [
        ("data-requires-python", &file.requires_python),
        ("data-yanked", &file.yanked),
        ("data-core-metadata", &metadata),
        ("data-dist-info-metadata", &metadata),
    ];
    let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let attributes: String =
        attributes.map(|(name, value)| format!(" {name}=\"{}\"", escape(value))).collect();
    let (address, name) = (escape(address), escape(&file.name));
    format!("<a href=\"{address}{digest}\"{attributes}>{name}</a><br/>\n")
}

fn escape(text: &str) -> String {
    let escaped = |c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}
