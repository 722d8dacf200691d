//! SpectralMC's two images as their recipes declare them from the committed lock: what they share, and
//! what a change reaches. Nothing is built.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use assemble_layers::lock::Selection;
use assemble_layers::project::{ProjectFile, ProjectFileKind};
use assemble_layers::recipe::Base;
use assemble_layers::wheels::sdist::Build;
use assemble_layers::wheels::{self, Alone};
use assemble_layers::{Builder, Graph, Image, Lock, NodeId, Project, Recipes, Sha256, TreePath};
use serde_json::Value;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

fn lock() -> Lock {
    assemble::lock::read(&Path::new(PROJECT).join("assemble.lock")).unwrap().unwrap()
}

fn project(code: &[u8]) -> Project {
    let file = |(path, bytes): (&str, &[u8])| ProjectFile {
        path: TreePath::new(path).unwrap(),
        kind: ProjectFileKind::File {
            sha256: Sha256::of(bytes),
            size: bytes.len() as u64,
            executable: false,
        },
    };
    let files: [(&str, &[u8]); 3] =
        [("poetry.toml", b"p"), ("pyproject.toml", b"m"), ("spectralmc/__init__.py", code)];
    Project { files: files.map(file).to_vec() }
}

fn image(variant: &str, lock: &Lock, code: &[u8]) -> Image {
    crate::spectralmc::program().image(variant, Base::Archive, lock, &project(code)).unwrap()
}

/// A derivation by all that it is made from, as if each came to its own key.
fn identity(graph: &Graph, node: NodeId, known: &mut BTreeMap<NodeId, Sha256>) -> Sha256 {
    if let Some(identity) = known.get(&node) {
        return *identity;
    }
    let resolved = graph.node(node).builder.try_map(|input| Ok::<_, ()>(identity(graph, *input, known)));
    let identity = resolved.unwrap().key(graph.platform).0;
    known.insert(node, identity);
    identity
}

/// Step, name and identity of each layer.
fn layers(image: &Image) -> Vec<(String, String, Sha256)> {
    let mut known = BTreeMap::new();
    let layers = image.layers.iter().map(|layer| {
        let name = image.graph.node(layer.tree).name.clone();
        (layer.step.clone(), name, identity(&image.graph, layer.tree, &mut known))
    });
    layers.collect()
}

/// The steps of which a layer changed.
fn changed(one: &Image, other: &Image) -> Vec<String> {
    let (one, other) = (layers(one), layers(other));
    let mut steps: Vec<String> =
        other.iter().filter(|layer| !one.iter().any(|it| it.2 == layer.2)).map(|it| it.0.clone()).collect();
    steps.dedup();
    steps
}

#[test]
fn the_variants_share_what_is_the_same() {
    let lock = lock();
    let (binary, source) = (layers(&image("binary", &lock, b"")), layers(&image("source", &lock, b"")));
    let shared: Vec<_> =
        source.iter().filter(|layer| binary.contains(layer)).map(|it| it.0.as_str()).collect();
    for step in ["base", "system dependencies", "pip + poetry", "manifest", "application"] {
        assert!(shared.contains(&step), "{step} is not shared: {shared:?}");
    }
    // `poetry install` shares what is large and in both.
    assert!(shared.contains(&"poetry install"), "{shared:?}");
    assert!(!shared.contains(&"toolchain") && !shared.contains(&"source build"), "{shared:?}");
}

#[test]
fn steps_stand_in_the_originals_order() {
    let mut steps: Vec<_> = layers(&image("source", &lock(), b"")).into_iter().map(|it| it.0).collect();
    steps.dedup();
    assert_eq!(
        steps,
        [
            "base",
            "system dependencies",
            "toolchain",
            "source build",
            "pip + poetry",
            "manifest",
            "poetry install",
            "swap",
            "application"
        ]
    );
}

/// A distribution that shares a file with another is given a layer of its own, so that the recipe can say
/// whose counts.
#[test]
fn a_small_wheel_can_have_a_layer_of_its_own() {
    let lock = lock();
    let mut graph = Graph::default();
    let build = Build::new(&lock, Vec::new()).unwrap();
    let groups = Selection { with: vec!["binary-torch".to_owned()], ..Selection::default() };
    let mut install = |named: &[&str]| {
        let alone = Alone { large: wheels::LARGE, named };
        wheels::project(&mut graph, &lock, &groups, &lock.python.tools, alone, &build)
    };
    let (with, without) = (install(&["jinja2"]).unwrap(), install(&[]).unwrap());
    assert_eq!(with.large.len(), without.large.len() + 1);
    let error = install(&["jinja3"]).unwrap_err().to_string();
    assert_eq!(error, "`poetry install` installs no `jinja3`");
    let tree = with.tree_of(&graph, "jinja2").unwrap();
    assert!(graph.node(tree).name.starts_with("jinja2 "));
    assert!(without.tree_of(&graph, "jinja2").is_err());
}

#[test]
fn binary_torch_is_nowhere_in_the_source_variant() {
    let image = image("source", &lock(), b"");
    let files: Vec<_> = image
        .graph
        .nodes()
        .filter_map(|(_, node)| match &node.builder {
            Builder::Fetch(fetch) => Some(fetch.file.as_str()),
            _ => None,
        })
        .collect();
    assert!(!files.iter().any(|file| file.starts_with("torch-")), "{files:?}");
    assert!(files.iter().any(|file| file.starts_with("cupy_cuda11x-")), "{files:?}");
}

#[test]
fn a_change_of_the_code_reaches_one_layer() {
    let lock = lock();
    for variant in ["binary", "source"] {
        assert_eq!(changed(&image(variant, &lock, b""), &image(variant, &lock, b"#")), ["application"]);
    }
}

#[test]
fn a_change_of_the_manifest_does_not_reach_the_source_build() {
    let lock = lock();
    let mut other = lock.clone();
    let scipy = other.python.packages.iter_mut().find(|one| one.name == "scipy").unwrap();
    scipy.file.sha256 = Sha256::of(b"another version");
    let steps = changed(&image("source", &lock, b""), &image("source", &other, b""));
    // In the swap it is checked again that what torch requires is there.
    assert_eq!(steps, ["poetry install", "swap"]);
}

#[test]
fn another_commit_reaches_the_source_build_and_another_mirror_does_not() {
    let lock = lock();
    let source = image("source", &lock, b"");
    let mut other = lock.clone();
    let git = other.requirements.git.get_mut("pytorch").unwrap();
    git.url = "/somewhere/else".to_owned();
    assert_eq!(changed(&source, &image("source", &other, b"")), [""; 0]);
    let git = other.requirements.git.get_mut("pytorch").unwrap();
    git.commit = "1234567890123456789012345678901234567890".parse().unwrap();
    assert_eq!(changed(&source, &image("source", &other, b"")), ["source build", "swap"]);
    assert_eq!(changed(&image("binary", &lock, b""), &image("binary", &other, b"")), [""; 0]);
}

/// `assemble plan` where nothing is there and nothing is fetched: the graph is known all the same.
fn plan(arguments: &[&str]) -> Output {
    let store = tempfile::tempdir().unwrap();
    let mut plan = Command::new(env!("CARGO_BIN_EXE_assemble"));
    plan.args(["plan", "--variant", "source", "--locked", "--offline", "--json", "--project", PROJECT]);
    plan.arg("--store").arg(store.path()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What the plan says of a step.
fn about(plan: &Output, name: &str) -> Vec<String> {
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let step = plan["steps"].as_array().unwrap().iter().find(|step| step["name"] == name);
    let about = step.unwrap_or_else(|| panic!("no step {name}"))["about"].as_array().unwrap().iter();
    about.map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_plan_shows_pytorchs_commit_and_switches() {
    let plan = plan(&[]);
    let [source] = &about(&plan, "pytorch source")[..] else { panic!("not one line") };
    assert!(source.ends_with(" at ee1b6804381c57161c477caa380a840a84167676"), "{source}");
    let switches = about(&plan, "pytorch");
    for switch in [
        "TORCH_CUDA_ARCH_LIST=5.2",
        "USE_CUDA=1",
        "USE_CUDNN=1",
        "USE_NCCL=0",
        "USE_FLASH_ATTENTION=0",
        "USE_MEM_EFF_ATTENTION=0",
        "BLAS=OpenBLAS",
        "USE_LAPACK=1",
        "PYTORCH_BUILD_VERSION=2.4.1",
        "PYTORCH_BUILD_NUMBER=1",
        "BUILD_TEST=0",
    ] {
        assert!(switches.iter().any(|line| line == switch), "no {switch} in {switches:#?}");
    }
    assert!(!switches.iter().any(|line| line.starts_with("MAX_JOBS=")), "that is the machine's");
}

#[test]
fn a_source_can_be_another_repository() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let git = |arguments: &[&str]| {
        let who = ["-c", "user.name=A", "-c", "user.email=a@example.org"];
        let output = Command::new("git").arg("-C").arg(&folder).args(who).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "x"]);
    let (folder, head) = (folder.to_str().unwrap(), git(&["rev-parse", "HEAD"]));
    let other = "1234567890123456789012345678901234567890";
    let source = |text: &str| plan(&["--source", &format!("pytorch={text}")]);
    for place in [folder, "https://git.invalid/fork", "git@git.invalid:team/fork"] {
        let plan = source(&format!("{place}@{other}"));
        assert_eq!(about(&plan, "pytorch source"), [format!("{place} at {other}")]);
    }
    assert_eq!(about(&source(folder), "pytorch source"), [format!("{folder} at {head}")]);

    for (arguments, word) in [
        (["--source", "pytorch=https://git.invalid/fork"], "neither a folder nor URL@COMMIT"),
        (["--source", "pytorch=https://git.invalid/fork@main"], "a commit is named whole"),
        (["--source", "tensorflow=/"], "those that are compiled: `pytorch`"),
        (["--git-mirror", "https://git.invalid/"], "it is not FROM=TO"),
    ] {
        let plan = plan(&arguments);
        let said = String::from_utf8_lossy(&plan.stderr);
        assert!(plan.status.code() == Some(2) && said.contains(word), "{arguments:?}: {said}");
    }
}
