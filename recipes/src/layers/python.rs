//! What every layer of wheels shares: the scheme, and which wheel goes into which layer.

use assemble_layers::derivation::{Fetch, Layout, Origin, UnpackWheels, WheelInput};
use assemble_layers::image::Layer;
use assemble_layers::lock::{Distribution, File, Lock};
use assemble_layers::python::Scheme;
use assemble_layers::tree::InvalidPath;
use assemble_layers::{Builder, Graph, NodeId, TreePath};

/// From this size on, in bytes, a wheel has a layer of its own, so that a change to another leaves
/// it alone. The choice depends on the wheel alone: adding one moves no other.
const LARGE: u64 = 20_000_000;

/// Layers of wheels, by how they are cut.
pub struct Layers {
    /// One wheel each, the largest first.
    pub large: Vec<Layer>,
    /// All others together, if there are any.
    pub small: Option<Layer>,
}

/// What the layers of one step have in common.
pub struct Group<'a> {
    /// What a person calls the shared layer.
    pub what: &'a str,
    pub step: &'a str,
    /// What would have been typed.
    pub created_by: &'a str,
    pub layout: Layout,
}

/// Cuts distributions into layers.
pub fn layers<'a>(
    graph: &mut Graph,
    group: &Group<'_>,
    distributions: impl Iterator<Item = &'a Distribution>,
) -> Layers {
    let (mut large, small): (Vec<_>, Vec<_>) = distributions.partition(|one| one.file.size >= LARGE);
    large.sort_by(|one, other| other.file.size.cmp(&one.file.size).then_with(|| one.name.cmp(&other.name)));
    let mut layer = |name: String, members: &[&Distribution]| Layer {
        tree: unpack(graph, &name, members, &group.layout),
        step: group.step.to_owned(),
        created_by: format!("{}: {name}", group.created_by),
    };
    let large = large.into_iter().map(|one| layer(format!("{} {}", one.name, one.version), &[one])).collect();
    let small =
        (!small.is_empty()).then(|| layer(format!("{}, {} small ones", group.what, small.len()), &small));
    Layers { large, small }
}

fn unpack(graph: &mut Graph, name: &str, distributions: &[&Distribution], layout: &Layout) -> NodeId {
    let wheels = distributions.iter().map(|distribution| WheelInput {
        filename: distribution.file.name.clone(),
        file: fetch(graph, distribution),
        requested: distribution.requested
            && matches!(layout, Layout::Site(scheme) if scheme.installer == PIP),
    });
    let wheels = wheels.collect();
    graph.add(name, Builder::UnpackWheels(UnpackWheels { wheels, layout: layout.clone() }))
}

fn fetch(graph: &mut Graph, distribution: &Distribution) -> NodeId {
    let origin = Origin::Python { project: distribution.name.clone(), source: distribution.source.clone() };
    let File { name, sha256, size, .. } = distribution.file.clone();
    graph.add(name.clone(), Builder::Fetch(Fetch { file: name, sha256, size, origin }))
}

/// pip's `INSTALLER`; it alone leaves `REQUESTED`.
pub const PIP: &str = "pip\n";

/// Where Debian's Python finds what was installed system-wide (`posix_local`).
///
/// # Errors
/// None: the paths are sound.
pub fn scheme(lock: &Lock, installer: &str) -> Result<Scheme, InvalidPath> {
    let version = short_version(lock);
    Ok(Scheme {
        library: TreePath::new(format!("usr/local/lib/python{version}/dist-packages"))?,
        scripts: TreePath::new("usr/local/bin")?,
        data: TreePath::new("usr/local")?,
        headers: TreePath::new(format!("usr/local/include/python{version}"))?,
        interpreter: format!("/usr/bin/python{version}"),
        installer: installer.to_owned(),
    })
}

/// `3.11` of `3.11.2`.
fn short_version(lock: &Lock) -> String {
    lock.python.python.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}
