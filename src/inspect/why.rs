//! Why a layer was built: what differs from the inputs that it had when the same image of the same
//! project was last made with this store.

use std::collections::BTreeMap;
use std::path::Path;

use assemble_layers::derivation::FileSource;
use assemble_layers::{Builder, Graph, Image, NodeId, Sha256};

use crate::Result;
use crate::realise::{Had, RealisedLayer};
use crate::store::Store;

/// Why one layer was built, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Why {
    pub step: String,
    pub reason: String,
}

/// The inputs of a layer, by what a person calls them.
type Inputs = BTreeMap<String, String>;

/// Compares with the last time, and remembers this one.
///
/// # Errors
/// Those of the store.
pub fn why(store: &Store, project: &Path, image: &Image, layers: &[RealisedLayer]) -> Result<Vec<Why>> {
    use std::os::unix::ffi::OsStrExt;
    let folder = fs_err::canonicalize(project)?;
    let note = format!("last-{}-{}", image.variant, Sha256::of(folder.as_os_str().as_bytes()));
    let before: BTreeMap<String, Inputs> = store.note(&note).unwrap_or_default();
    let mut now: BTreeMap<String, Inputs> = BTreeMap::new();
    let mut whys = Vec::new();
    for (declared, layer) in image.layers.iter().zip(layers) {
        let name = place(image, declared.tree);
        let inputs = inputs(&image.graph, declared.tree);
        if layer.had == Had::Built {
            let reason = reason(before.get(&name), &inputs);
            whys.push(Why { step: declared.step.clone(), reason });
        }
        now.insert(name, inputs);
    }
    if now != before {
        store.put_note(&note, &now)?;
    }
    Ok(whys)
}

/// What stays of a layer's name when its version moves: `torch` of `torch 2.7.1`.
fn place(image: &Image, node: NodeId) -> String {
    image.graph.node(node).name.split([' ', ',']).next().unwrap_or_default().to_owned()
}

fn reason(before: Option<&Inputs>, now: &Inputs) -> String {
    let Some(before) = before else { return "for the first time".to_owned() };
    let changed = now.iter().filter_map(|(name, value)| match before.get(name) {
        None => Some(format!("{name} is new")),
        Some(known) if known != value => Some(format!("{name} changed")),
        Some(_) => None,
    });
    let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone"));
    let changes: Vec<_> = changed.chain(gone).collect();
    match &changes[..] {
        [] => "the step itself changed, or its result was gone".to_owned(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one}, and {} more", rest.len()),
    }
}

/// What a derivation depends on, its inputs' inputs left out: they have layers of their own.
fn inputs(graph: &Graph, node: NodeId) -> Inputs {
    let builder = &graph.node(node).builder;
    let mut inputs: Inputs = builder
        .inputs()
        .into_iter()
        .map(|input| {
            let node = graph.node(*input);
            let digest = match &node.builder {
                Builder::Fetch(fetch) => fetch.sha256.to_string(),
                _ => String::new(),
            };
            (node.name.clone(), digest)
        })
        .collect();
    if let Builder::Files(files) = builder {
        for entry in &files.entries {
            let (name, digest) = match &entry.source {
                FileSource::Project { path, sha256, .. } => (path.to_string(), sha256.to_string()),
                FileSource::Literal(bytes) => (format!("/{}", entry.path), Sha256::of(&bytes.0).to_string()),
                FileSource::Symlink(target) => {
                    (format!("/{}", entry.path), Sha256::of(&target.0).to_string())
                }
                FileSource::Directory => (format!("/{}", entry.path), String::new()),
                FileSource::Tree { path, .. } => (format!("/{}", entry.path), path.to_string()),
                FileSource::Fetched { .. } => (format!("/{}", entry.path), String::new()),
            };
            inputs.insert(name, format!("{digest} {:o}", entry.mode));
        }
    }
    inputs
}
