//! Steps 1 and 2 of the source variant: CUDA 11.8.0 with nvcc, as Debian's non-free has it, and cuDNN
//! 8.9 from the Python index, with `/usr/local/cuda-11.8` and `/usr/local/cuda` over them.

use std::collections::BTreeMap;

use assemble_layers::derivation::{Effort, FileEntry, FileSource, Files, Layout, Output, Relocation, Run};
use assemble_layers::image::Layer;
use assemble_layers::recipe::RecipeError;
use assemble_layers::sdist::Build;
use assemble_layers::tree::{InvalidPath, RawBytes};
use assemble_layers::wheels::{self, Group};
use assemble_layers::{Builder, Graph, Lock, NodeId, TreePath, debian};

/// The lock's name for these packages.
pub const SET: &str = "cuda-11.8";
/// The toolkit with all libraries; the compiler that its nvcc works with; BLAS and LAPACK for PyTorch.
pub const PACKAGES: [&str; 4] = ["nvidia-cuda-toolkit", COMPILERS[0], COMPILERS[1], COMPILERS[2]];
/// Without the toolkit, where the base has it.
pub const COMPILERS: [&str; 3] = ["gcc-11", "g++-11", "libopenblas-dev"];

/// The lock's name for these distributions.
pub const COLLECTION: &str = "cudnn-8.9";
pub const DISTRIBUTIONS: [&str; 1] = ["nvidia-cudnn-cu11==8.9.*"];
/// The one that is used. What it requires are libraries that Debian's toolkit has.
const CUDNN: &str = "nvidia-cudnn-cu11";

/// Debian spreads the toolkit over `/usr`; programs that know NVIDIA's own installer look in one
/// folder. Headers are linked one by one: a link to the whole of `/usr/include` would put C's headers
/// before C++'s.
const LINK: &str = r#"
set -eu
cuda=/usr/local/cuda-11.8
mkdir -p $cuda/bin $cuda/include $cuda/lib64
packages=$(dpkg-query --show --showformat '${Package} ${Version}\n' | grep -E '~11\.8\.0-|^lib(cu\+\+|cub|thrust)-dev ')
for path in $(dpkg --listfiles $(echo "$packages" | cut -d' ' -f1)); do
    case $path in
        /usr/bin/?*) ln -sf $path $cuda/bin/ ;;
        /usr/include/*/*) ;;
        /usr/include/?*) ln -sfn $path $cuda/include/${path##*/} ;;
        /usr/lib/x86_64-linux-gnu/*/*) ;;
        /usr/lib/x86_64-linux-gnu/*.so* | /usr/lib/x86_64-linux-gnu/*.a) ln -sf $path $cuda/lib64/ ;;
    esac
done
ln -sfn /usr/lib/nvidia-cuda-toolkit $cuda/nvvm
ln -sfn cuda-11.8 /usr/local/cuda
"#;

/// What is under all that is compiled, and the image's layers of it.
pub struct Toolchain {
    /// The trees of a root that has CUDA, compilers and Python.
    pub root: Vec<NodeId>,
    pub layers: Vec<Layer>,
}

/// What NVIDIA's container runtime and every program of the image read.
pub fn environment() -> Vec<(String, String)> {
    [
        ("PATH", "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LD_LIBRARY_PATH", "/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"),
        ("CUDA_PATH", "/usr/local/cuda"),
        ("CUDA_VERSION", "11.8.0"),
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        ("NVIDIA_REQUIRE_CUDA", "cuda>=11.8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The toolkit, cuDNN and the links, over `below`.
///
/// # Errors
/// The lock has no cuDNN.
pub fn layers(graph: &mut Graph, lock: &Lock, below: &[NodeId]) -> Result<Toolchain, RecipeError> {
    let layer = |tree, created_by: String| Layer { tree, step: "toolchain".to_owned(), created_by };
    let toolkit = debian::unpack_set(graph, &lock.debian, SET, "cuda 11.8", below);
    let cudnn = cudnn(graph, lock, below)?;
    // The wheel has the library by its full name alone, and linkers look for this.
    let link = FileEntry {
        path: TreePath::new("usr/local/cuda-11.8/lib64/libcudnn.so")?,
        mode: 0o777,
        source: FileSource::Symlink(RawBytes(b"libcudnn.so.8".to_vec())),
    };
    let cudnn_link = graph.add("cudnn link", Builder::Files(Files { entries: vec![link] }));
    let mut root = below.to_vec();
    root.push(toolkit);
    let run = Run {
        root: root.clone(),
        files: Vec::new(),
        command: ["/bin/sh", "-c", LINK].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
        working_directory: "/".to_owned(),
        output: Output::Difference,
        effort: Effort::default(),
    };
    let links = graph.add("cuda links", Builder::Run(run));
    root.extend([cudnn.tree, cudnn_link, links]);
    let layers = vec![
        layer(toolkit, format!("apt-get install --no-install-recommends {}", PACKAGES.join(" "))),
        cudnn,
        layer(cudnn_link, "ln -s libcudnn.so.8 /usr/local/cuda-11.8/lib64/libcudnn.so".to_owned()),
        layer(links, "ln -s … /usr/local/cuda-11.8 /usr/local/cuda".to_owned()),
    ];
    Ok(Toolchain { root, layers })
}

/// The toolchain over a base that has CUDA and cuDNN: what else compiling needs.
pub fn compilers(graph: &mut Graph, lock: &Lock, set: &str, below: &[NodeId]) -> Toolchain {
    let tree = debian::unpack_set(graph, &lock.debian, set, "compilers", below);
    let created_by = format!("apt-get install --no-install-recommends {}", COMPILERS.join(" "));
    let layer = Layer { tree, step: "toolchain".to_owned(), created_by };
    Toolchain { root: below.iter().copied().chain([tree]).collect(), layers: vec![layer] }
}

fn cudnn(graph: &mut Graph, lock: &Lock, root: &[NodeId]) -> Result<Layer, RecipeError> {
    let locked = lock.python.collections.get(COLLECTION).into_iter().flatten();
    let group = Group {
        what: "cudnn",
        step: "toolchain",
        created_by: DISTRIBUTIONS[0],
        layout: Layout::Relocate(rules()?),
        alone: wheels::LARGE.into(),
        build: &Build::new(lock, root.to_vec())?,
    };
    let layers = wheels::layers(graph, &group, locked.filter(|distribution| distribution.name == CUDNN));
    let missing = || RecipeError(format!("the lock's collection `{COLLECTION}` has no `{CUDNN}`"));
    layers.large.into_iter().chain(layers.small).next().ok_or_else(missing)
}

/// Where CMake looks, and PyTorch's `FindCUDNN.cmake`: as Debian's own package of cuDNN has it.
fn rules() -> Result<Vec<Relocation>, InvalidPath> {
    let to =
        |from: &str, below: &str| Ok(Relocation { from: from.to_owned(), to: Some(TreePath::new(below)?) });
    let without = |from: &str| Ok(Relocation { from: from.to_owned(), to: None });
    [
        to("nvidia/cudnn/include", "usr/local/cuda-11.8/include"),
        to("nvidia/cudnn/lib", "usr/local/cuda-11.8/lib64"),
        without("nvidia/__init__.py"),
        without("nvidia/*/__init__.py"),
        without("*.dist-info"),
    ]
    .into_iter()
    .collect()
}
