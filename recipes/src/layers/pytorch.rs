//! Steps 3 and 6 of the source variant: PyTorch, compiled for Maxwell into `/opt/pytorch`, and the
//! `.pth` file by which Python finds it there.

use assemble_layers::derivation::{
    ANY_TAGS, Cache, Effort, Git, Jobs, Layout, Output, Run, UnpackWheels, WheelInput,
};
use assemble_layers::image::Layer;
use assemble_layers::lock::GitSource;
use assemble_layers::python::{PIP, Scheme};
use assemble_layers::recipe::RecipeError;
use assemble_layers::sdist::Build;
use assemble_layers::wheels::{self, Group};
use assemble_layers::{Builder, Graph, Lock, NodeId, TreePath, debian};

use super::cuda11::Toolchain;

/// The lock's name for the repository.
pub const SOURCE: &str = "pytorch";
const VERSION: &str = "2.4.1";

/// The lock's name for the packages that the build needs and the image does not.
pub const SET: &str = "pytorch-build";
pub const PACKAGES: [&str; 3] = ["ccache", "cmake", "ninja-build"];
/// The lock's name for the distributions that the build needs and the image does not.
pub const COLLECTION: &str = "pytorch-build";
/// PyTorch's own `[build-system]`; its `setup.py` still wants what setuptools 75 removed.
pub const DISTRIBUTIONS: [&str; 8] =
    ["astunparse", "numpy>=2,<3", "pyyaml", "requests", "setuptools<75", "six", "typing-extensions", "wheel"];

const PREFIX: &str = "opt/pytorch";
const FOLDER: &str = "usr/src/pytorch";
const CACHE: &str = "/var/cache/ccache";

/// What one of nvcc's compilers needs at most, in bytes.
const MEMORY: u64 = 3 << 30;

/// The original's switches, and whatever makes the compilers' output a function of their input.
const ENVIRONMENT: [(&str, &str); 30] = [
    ("TORCH_CUDA_ARCH_LIST", "5.2"),
    ("USE_CUDA", "1"),
    ("USE_CUDNN", "1"),
    ("USE_NCCL", "0"),
    // They need compute capability 8.0.
    ("USE_FLASH_ATTENTION", "0"),
    ("USE_MEM_EFF_ATTENTION", "0"),
    ("BLAS", "OpenBLAS"),
    ("USE_LAPACK", "1"),
    ("BUILD_TEST", "0"),
    ("PYTORCH_BUILD_VERSION", VERSION),
    ("PYTORCH_BUILD_NUMBER", "1"),
    ("PATH", "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("CUDA_HOME", "/usr/local/cuda"),
    ("CUDNN_ROOT", "/usr/local/cuda"),
    ("CC", "gcc-11"),
    ("CXX", "g++-11"),
    ("CUDAHOSTCXX", "g++-11"),
    ("CMAKE_GENERATOR", "Ninja"),
    ("CMAKE_C_COMPILER_LAUNCHER", "ccache"),
    ("CMAKE_CXX_COMPILER_LAUNCHER", "ccache"),
    ("CMAKE_CUDA_COMPILER_LAUNCHER", "ccache"),
    ("CFLAGS", "-ffile-prefix-map=/usr/src/pytorch=."),
    ("CXXFLAGS", "-ffile-prefix-map=/usr/src/pytorch=."),
    ("CUDAFLAGS", "-Xcompiler=-ffile-prefix-map=/usr/src/pytorch=."),
    // Else the names of its temporary files are of its process, and stand in the objects.
    ("NVCC_APPEND_FLAGS", "--objdir-as-tempdir"),
    ("CCACHE_DIR", CACHE),
    // Every root is new, and so are the times of its files.
    ("CCACHE_COMPILERCHECK", "content"),
    ("CCACHE_MAXSIZE", "20G"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("VERBOSE", "0"),
];

/// The tag `v2.4.1`.
pub fn source() -> GitSource {
    GitSource {
        url: "https://github.com/pytorch/pytorch".to_owned(),
        commit: "ee1b6804381c57161c477caa380a840a84167676".parse().expect("a commit"),
    }
}

/// From the repository to `/opt/pytorch`. `tools` is the lock's name for [`PACKAGES`].
///
/// # Errors
/// The lock lacks the source, or what its build needs.
pub fn layer(
    graph: &mut Graph,
    lock: &Lock,
    toolchain: &Toolchain,
    tools: &str,
) -> Result<Layer, RecipeError> {
    let missing = |what: &str| RecipeError(format!("the lock has no {what} `{SOURCE}`"));
    let GitSource { url, commit } =
        lock.requirements.git.get(SOURCE).cloned().ok_or_else(|| missing("source"))?;
    let files = Git { url, commit, folder: TreePath::new(FOLDER)? };
    let files = graph.add("pytorch source", Builder::Git(files));
    let mut root = with_tools(graph, lock, toolchain, tools);
    let requirements = Group {
        what: "pytorch's build requirements",
        step: "source build",
        created_by: "",
        layout: Layout::Site(Scheme::debian(&lock.python, PIP)?),
        alone: u64::MAX.into(),
        build: &Build::new(lock, toolchain.root.clone())?,
    };
    let locked = lock.python.collections.get(COLLECTION).ok_or_else(|| missing("build requirements of"))?;
    root.extend(wheels::layers(graph, &requirements, locked.iter()).small.map(|layer| layer.tree));
    root.push(files);
    let wheel = graph.add("pytorch", Builder::Run(build(root)?));
    let wheels =
        vec![WheelInput { filename: format!("torch-{VERSION}{ANY_TAGS}"), file: wheel, requested: false }];
    let unpacked = UnpackWheels { wheels, layout: Layout::Site(scheme(lock)?) };
    Ok(Layer {
        tree: graph.add(format!("torch {VERSION}"), Builder::UnpackWheels(unpacked)),
        step: "source build".to_owned(),
        created_by: format!(
            "TORCH_CUDA_ARCH_LIST=5.2 python3 setup.py bdist_wheel: torch {VERSION} in /{PREFIX}"
        ),
    })
}

/// The toolchain, and what is needed for building alone: the set `tools`.
fn with_tools(graph: &mut Graph, lock: &Lock, toolchain: &Toolchain, tools: &str) -> Vec<NodeId> {
    let tools = debian::unpack_set(graph, &lock.debian, tools, "pytorch's build tools", &toolchain.root);
    let mut root = toolchain.root.clone();
    root.push(tools);
    root
}

/// How this variant builds what has no wheel: with the same compilers, for the same GPUs. CuPy's sdist
/// reads what is its own.
///
/// # Errors
/// A version of Python in the lock that is no part of a path.
pub fn sdists(
    graph: &mut Graph,
    lock: &Lock,
    toolchain: &Toolchain,
    tools: &str,
) -> Result<Build, RecipeError> {
    const OWN: [&str; 10] = [
        "TORCH_CUDA_ARCH_LIST",
        "PATH",
        "CUDA_HOME",
        "CUDAHOSTCXX",
        "CC",
        "CXX",
        "NVCC_APPEND_FLAGS",
        "CCACHE_DIR",
        "CCACHE_COMPILERCHECK",
        "CCACHE_MAXSIZE",
    ];
    let mut build = Build::new(lock, with_tools(graph, lock, toolchain, tools))?;
    let shared = ENVIRONMENT.into_iter().filter(|(name, _)| OWN.contains(name));
    let cupy = [
        ("CUDA_PATH", "/usr/local/cuda"),
        ("NVCC", "ccache /usr/local/cuda/bin/nvcc"),
        ("CUPY_NVCC_GENERATE_CODE", "arch=compute_52,code=sm_52"),
    ];
    build.environment.extend(shared.chain(cupy).map(|(name, value)| (name.to_owned(), value.to_owned())));
    build.effort = effort("CUPY_NUM_BUILD_JOBS")?;
    Ok(build)
}

fn effort(jobs: &str) -> Result<Effort, RecipeError> {
    Ok(Effort {
        cache: Some(Cache { name: TreePath::new("pytorch")?, path: CACHE.to_owned() }),
        jobs: Some(Jobs { variable: jobs.to_owned(), memory: MEMORY }),
    })
}

fn build(root: Vec<NodeId>) -> Result<Run<NodeId>, RecipeError> {
    let command = ["python3", "setup.py", "bdist_wheel", "--dist-dir", "/opt/wheels"];
    let variable = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(Run {
        root,
        files: Vec::new(),
        command: command.map(str::to_owned).to_vec(),
        environment: ENVIRONMENT.map(variable).into(),
        working_directory: format!("/{FOLDER}"),
        output: Output::Folder(TreePath::new("opt/wheels")?),
        effort: effort("MAX_JOBS")?,
    })
}

/// No pip and no Poetry knows of it.
fn scheme(lock: &Lock) -> Result<Scheme, RecipeError> {
    let folder = |below: &str| TreePath::new(format!("{PREFIX}{below}"));
    let interpreter = format!("/usr/bin/python{}", lock.python.short_version());
    let (library, data) = (folder("")?, folder("")?);
    let installer = "assemble\n".to_owned();
    Ok(Scheme {
        library,
        scripts: folder("/bin")?,
        data,
        headers: folder("/include")?,
        interpreter,
        installer,
    })
}

/// The `.pth` file. It is written where all that Python finds is there, and pip's own check says that
/// what the wheel requires is what Poetry has installed: a requirement that is not met fails by name.
///
/// # Errors
/// A version of Python in the lock that is no part of a path.
pub fn swap(graph: &mut Graph, lock: &Lock, python: Vec<NodeId>) -> Result<Layer, RecipeError> {
    let library = Scheme::debian(&lock.python, PIP)?.library;
    let script = format!("echo /{PREFIX} >/{library}/pytorch.pth && exec python3 -m pip check");
    let run = Run {
        root: python,
        files: Vec::new(),
        command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
        environment: [("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned())].into(),
        working_directory: "/".to_owned(),
        output: Output::Difference,
        effort: Effort::default(),
    };
    Ok(Layer {
        tree: graph.add("pytorch on the path", Builder::Run(run)),
        step: "swap".to_owned(),
        created_by: script,
    })
}
