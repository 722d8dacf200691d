//! An image as a whole: what no layer can know by itself.
//!
//! - **A folder is one thing.** Of several layers that hold it, an engine believes the highest. So the
//!   highest says what the image has: what a package or a step made of a folder counts over the 0755 of a
//!   layer that only needs it to be there. A layer that says otherwise is [mended](assemble_layers::amend).
//! - **A path has one owner.** Two layers hold the same file only where one is made over the other, or where
//!   both hold the same bytes with the same mode, owner and attributes, so that nobody can tell which is
//!   seen; else it is an error, unless the recipe says whose word counts.
//! - **A private key is in no layer**, unless the recipe says that it may be.
//! - **A container can start**: its user has a name in the image, its folder is one.
//!
//! What was found is remembered by the layers' diffIDs, so an image that did not change is not looked at. Of
//! a layer of files it is remembered by all but their contents, unless these decided something: a changed
//! line of the application changes nothing else.

mod container;
mod folders;
mod owners;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use assemble_layers::amend::{Amend, Folder};
use assemble_layers::derivation::{FileEntry, FileSource};
use assemble_layers::encode::Encoder;
use assemble_layers::graph::Node;
use assemble_layers::image::MOST_LAYERS;
use assemble_layers::{Builder, DiffId, Image, NodeId, Sha256, Tree, TreePath};
use serde::{Deserialize, Serialize};

use super::{Engine, Realisation, Realised, RealisedLayer, at_once};
use crate::store::{Findings, Outcome, Record, Store};
use crate::{Error, Kind, Result};

/// Raised when the same layers are judged otherwise.
const VERSION: u32 = 4;

/// What is known to be made by chance, by the layer's name: another machine has other bytes.
pub type ByChance = Vec<(String, TreePath)>;

/// An image that was made real and checked.
#[derive(Clone, Debug)]
pub struct Whole {
    /// As it was declared, but for layers that had to be mended: theirs are other derivations.
    pub image: Image,
    /// In its order.
    pub layers: Vec<RealisedLayer>,
    /// What of its layers cannot be seen, as its recipe wants it.
    pub shadowed: Vec<Shadowed>,
    pub by_chance: ByChance,
    /// Paths of the recipe's [`meant`](Image::meant) that decide nothing: a name that is misspelt, or an
    /// exception that is needed no more.
    pub unused: Vec<TreePath>,
}

/// Files that another layer's counts for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shadowed {
    /// The layer whose files cannot be seen, and the one whose can.
    pub layer: String,
    pub by: String,
    /// The first of them.
    pub path: TreePath,
    pub count: usize,
}

/// What the check came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Verdict {
    /// By the place of the layer.
    mended: BTreeMap<usize, Mended>,
    shadowed: Vec<Shadowed>,
    /// Paths of `Image::meant.owners` that decide nothing.
    unused: Vec<TreePath>,
}

/// What is mended of one layer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Mended {
    folders: Vec<Folder>,
    without: Vec<TreePath>,
}

/// A verdict that is remembered, and what it is about.
#[derive(Serialize, Deserialize)]
struct Note {
    about: Sha256,
    /// The paths whose contents were compared.
    compared: BTreeSet<TreePath>,
    verdict: Verdict,
}

/// The layers of an image, as far as the check needs them.
struct View<'a> {
    image: &'a Image,
    /// In the image's order, as all lists here.
    trees: Vec<Rc<Tree>>,
    /// The trees that each is made over, lowest first, whether they are layers or not.
    below: Vec<Vec<Rc<Tree>>>,
    /// Which layers each is made over.
    over: Vec<BTreeSet<usize>>,
    /// Paths of `Image::meant.owners` that have decided something.
    decided: RefCell<BTreeSet<TreePath>>,
}

impl View<'_> {
    /// Whose word counts at `path`, as the recipe has it.
    fn owner(&self, path: &TreePath) -> Option<NodeId> {
        let (decided, owner) = self.image.meant.owner(path)?;
        self.decided.borrow_mut().insert(decided.clone());
        Some(owner)
    }

    fn builder(&self, layer: usize) -> &Builder<NodeId> {
        &self.image.graph.node(self.image.layers[layer].tree).builder
    }

    /// The name of a layer, and the step it belongs to.
    fn describe(&self, layer: usize) -> String {
        let declared = &self.image.layers[layer];
        format!("`{}` ({})", self.name(layer), declared.step)
    }

    fn name(&self, layer: usize) -> &str {
        &self.image.graph.node(self.image.layers[layer].tree).name
    }
}

impl Engine<'_> {
    /// The image with its layers mended, as the last check of the same layers found it; as it was declared
    /// where it is not known yet.
    pub(super) fn mended(&self, image: &Image, layers: &[DiffId]) -> Image {
        self.known_verdict(image, layers).map_or_else(|| image.clone(), |verdict| mend(image, &verdict))
    }

    fn known_verdict(&self, image: &Image, layers: &[DiffId]) -> Option<Verdict> {
        let note = self.store.note::<Note>(&note_name(image))?;
        (note.about == self.about(image, layers, &note.compared)).then_some(note.verdict)
    }

    /// All that a verdict depends on: what a layer is made over is part of how its content came about.
    fn about(&self, image: &Image, layers: &[DiffId], compared: &BTreeSet<TreePath>) -> Sha256 {
        let mut encoder = Encoder::default();
        encoder.put("assemble whole").put(&VERSION).put(&(layers.len() as u64));
        let place = |node: NodeId| image.layers.iter().position(|layer| layer.tree == node);
        for (index, diff_id) in layers.iter().enumerate() {
            let node = image.graph.node(image.layers[index].tree);
            let lower = lower(image, index);
            let places: Vec<u64> = lower.iter().filter_map(|node| place(*node)).map(|it| it as u64).collect();
            encoder
                .put(&without_contents(&node.builder, compared).unwrap_or(diff_id.0))
                .put(node.builder.name())
                .put(&node.name)
                .put(&(lower.len() as u64))
                .put(&places);
        }
        let owners =
            image.meant.owners.iter().map(|(path, node)| (path.clone(), place(*node).map(|it| it as u64)));
        let config = &image.config;
        encoder.put(&owners.collect::<BTreeMap<_, _>>());
        encoder
            .put(config.user.as_deref().unwrap_or_default())
            .put(&config.working_directory)
            .put(&config.volumes);
        encoder.finish()
    }
}

impl<'a> Realisation<'a> {
    /// Makes every layer real, checks them together, and mends what must be.
    pub(super) fn whole(engine: &'a Engine<'a>, image: &Image, elsewhere: bool) -> Result<Whole> {
        check_count(image)?;
        let mut before: Vec<RealisedLayer> = Vec::new();
        // Each round makes a promise true, and there are no more than derivations.
        loop {
            let run = Realisation::new(engine, &image.graph);
            let nodes = image.layers.iter().map(|layer| layer.tree);
            // Each layer has a thread, before one of them looks for inputs that have none.
            for node in nodes.clone() {
                run.begin(node);
            }
            // A layer is packed as soon as its tree is there: few are mended.
            let mut layers: Vec<RealisedLayer> = at_once(nodes, |node| run.layer(node, elsewhere))?;
            // What was built a moment ago was built for this image.
            for (layer, before) in layers.iter_mut().zip(before) {
                if layer.packed == before.packed && before.had > layer.had {
                    (layer.had, layer.took) = (before.had, before.took);
                }
            }
            if !run.promises.were_broken()
                && let Some(whole) = run.checked(image, &mut layers, elsewhere)?
            {
                engine.store.unremoved().iter().for_each(|error| engine.warn(error.to_string()));
                return Ok(whole);
            }
            before = layers;
        }
    }

    /// The image of these layers; nothing where the check found a promise broken.
    fn checked(self, image: &Image, layers: &mut [RealisedLayer], elsewhere: bool) -> Result<Option<Whole>> {
        let (by_chance, mut unused) = self.check_findings(image)?;
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let verdict = match self.verdict(image, &diff_ids) {
            // What was judged is not what the image is made of.
            _ if self.promises.were_broken() => return Ok(None),
            verdict => verdict?,
        };
        let whole = mend(image, &verdict);
        if !verdict.mended.is_empty() {
            let mut rerun = Realisation::new(self.engine, &whole.graph);
            rerun.know(self);
            for place in verdict.mended.keys() {
                layers[*place] = rerun.layer(whole.layers[*place].tree, elsewhere)?;
            }
            if rerun.promises.were_broken() {
                return Ok(None);
            }
        }
        let (layers, shadowed) = (layers.to_vec(), verdict.shadowed);
        unused.extend(verdict.unused);
        Ok(Some(Whole { image: whole, layers, shadowed, by_chance, unused }))
    }

    fn verdict(&self, image: &Image, diff_ids: &[DiffId]) -> Result<Verdict> {
        if let Some(known) = self.engine.known_verdict(image, diff_ids) {
            return Ok(known);
        }
        let view = self.view(image)?;
        let mut verdict = Verdict::default();
        let mut compared = owners::check(self, &view, &mut verdict)?;
        folders::check(&view, &mut verdict)?;
        compared.extend(container::check(self, &view)?);
        let decided = view.decided.into_inner();
        verdict.unused = image.meant.owners.keys().filter(|path| !decided.contains(path)).cloned().collect();
        let about = self.engine.about(image, diff_ids, &compared);
        let note = Note { about, compared, verdict: verdict.clone() };
        self.engine.store.put_note(&note_name(image), &note)?;
        Ok(verdict)
    }

    fn view<'i>(&self, image: &'i Image) -> Result<View<'i>> {
        let mut known: BTreeMap<NodeId, Rc<Tree>> = BTreeMap::new();
        let mut tree = |node: NodeId| -> Result<Rc<Tree>> {
            if let Some(tree) = known.get(&node) {
                return Ok(Rc::clone(tree));
            }
            let tree = Rc::new(self.read_tree(node)?);
            known.insert(node, Rc::clone(&tree));
            Ok(tree)
        };
        let (mut trees, mut below, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for place in 0..image.layers.len() {
            let lower = lower(image, place);
            trees.push(tree(image.layers[place].tree)?);
            below.push(lower.iter().map(|node| tree(*node)).collect::<Result<_>>()?);
            let is_over = |other: &usize| lower.contains(&image.layers[*other].tree);
            over.push((0..image.layers.len()).filter(is_over).collect());
        }
        Ok(View { image, trees, below, over, decided: RefCell::default() })
    }

    /// A base image's layer is fetched and read for this, if nobody did before: its record says what it
    /// holds.
    fn read_tree(&self, node: NodeId) -> Result<Tree> {
        let store: &Store = self.engine.store;
        let Realised { diff_id, key, size, .. } = self.tree(node)?;
        if !store.has_tree(diff_id) && self.find(node, key)?.is_none() {
            self.tree_with_content(node)?;
        }
        let tree = store.required_tree(diff_id)?;
        if store.record(key)?.is_none() {
            let Node { name, builder } = self.graph.node(node);
            let record = Record {
                builder: format!("{} {}", builder.name(), builder.version()),
                name: name.clone(),
                outcome: Outcome::Tree { diff_id, size },
                milliseconds: 0,
                findings: Findings::default(),
            };
            store.put_record(key, &record)?;
        }
        Ok(tree)
    }

    /// Refuses private keys that are not meant; returns what is made by chance, and the
    /// paths of `Image::meant.private_keys` at which there is none.
    fn check_findings(&self, image: &Image) -> Result<(ByChance, Vec<TreePath>)> {
        let (mut by_chance, mut unused) = (Vec::new(), image.meant.private_keys.clone());
        for layer in &image.layers {
            let Some(record) = self.engine.store.record(self.tree(layer.tree)?.key)? else { continue };
            let name = &image.graph.node(layer.tree).name;
            for path in &record.findings.private_keys {
                if !image.meant.allows_key(path) {
                    return Err(private_key(name, path, &image.graph.node(layer.tree).builder));
                }
                unused.retain(|allowed| !path.is_within(allowed));
            }
            by_chance.extend(record.findings.by_chance.into_iter().map(|path| (name.clone(), path)));
        }
        Ok((by_chance, unused))
    }
}

fn private_key(name: &str, path: &TreePath, builder: &Builder<NodeId>) -> Error {
    let (whence, hint) = match builder {
        Builder::UnpackDebs(_) => (
            "a package's script made it: each container would have the same one, and so has whoever has the image",
            "`Packages::without` leaves it out; a container makes its own at its first start",
        ),
        Builder::Run(_) => (
            "the step made it: each container would have the same one, and so has whoever has the image",
            "let the step remove it; a container makes its own at its first start",
        ),
        _ => (
            "it is a file of the project, or one that the recipe writes",
            "`.dockerignore` leaves a project's out; what is secret is given to the container when it starts",
        ),
    };
    Error::new(Kind::Input, format!("the layer `{name}` holds a private key: `/{path}`"))
        .detail(whence)
        .hint(format!("{hint}. If it is meant, `ImageRecipe::private_key` names it"))
}

fn check_count(image: &Image) -> Result<()> {
    let count = image.layers.len();
    if count <= MOST_LAYERS {
        return Ok(());
    }
    let message = format!("the image has {count} layers, and engines take no more than {MOST_LAYERS}");
    Err(Error::new(Kind::Input, message)
        .detail("Docker holds 127 at most, and two of them are the container's")
        .hint(
            "let wheels share a layer: a larger size for `ProjectInstall::split`; a base image's count too",
        ))
}

/// The derivations that the layer at `place` is made over. A base image's layers are made one over the other.
fn lower(image: &Image, place: usize) -> Vec<NodeId> {
    let builder = |layer: usize| &image.graph.node(image.layers[layer].tree).builder;
    match builder(place) {
        Builder::ImageLayer(_) => {
            let bases = (0..place).filter(|lower| matches!(builder(*lower), Builder::ImageLayer(_)));
            bases.map(|lower| image.layers[lower].tree).collect()
        }
        other => other.made_over().to_vec(),
    }
}

/// Everything of a layer of files but what stands in them; of those at these paths that, too. `None` where
/// the derivation does not say it.
fn without_contents(builder: &Builder<NodeId>, but: &BTreeSet<TreePath>) -> Option<Sha256> {
    let Builder::Files(files) = builder else { return None };
    let mut encoder = Encoder::default();
    encoder.put("files");
    for FileEntry { path, mode, source } in &files.entries {
        encoder.put(path).put(mode);
        match source {
            FileSource::Directory => encoder.put("directory"),
            FileSource::Symlink(target) => encoder.put("symlink").put(&target.0[..]),
            FileSource::Literal(_) | FileSource::Project { .. } if !but.contains(path) => encoder.put("file"),
            FileSource::Literal(bytes) => encoder.put("content").put(&Sha256::of(&bytes.0)),
            FileSource::Project { sha256, .. } => encoder.put("content").put(sha256),
            FileSource::Tree { .. } | FileSource::Fetched { .. } => return None,
        };
    }
    Some(encoder.finish())
}

fn note_name(image: &Image) -> String {
    format!("whole-{}", Sha256::of(format!("{}:{}", image.name, image.variant).as_bytes()))
}

/// The image with what the verdict mends.
fn mend(image: &Image, verdict: &Verdict) -> Image {
    let mut image = image.clone();
    for (place, Mended { folders, without }) in &verdict.mended {
        let tree = image.layers[*place].tree;
        let name = image.graph.node(tree).name.clone();
        let amend = Amend { tree, folders: folders.clone(), without: without.clone() };
        image.layers[*place].tree = image.graph.add(name, Builder::Amend(amend));
    }
    image
}
