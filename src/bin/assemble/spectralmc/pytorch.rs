//! Steps 3 and 6 of the source variant: PyTorch, compiled for Maxwell into `/opt/pytorch`, and the
//! `.pth` file by which Python finds it there.

use assemble::recipe::{
    AnyPart, Command, GitFiles, Named, Packages, ProjectInstall, Python, Result, SdistBuild, Tools, Wheel,
};

use super::cuda11::Toolchain;

const VERSION: &str = "2.4.1";
/// The tag `v2.4.1`.
const COMMIT: &str = "ee1b6804381c57161c477caa380a840a84167676";

/// What the build needs and the image does not.
const PACKAGES: [&str; 3] = ["ccache", "cmake", "ninja-build"];
/// PyTorch's own `[build-system]`; its `setup.py` still wants what setuptools 75 removed.
const DISTRIBUTIONS: [&str; 8] =
    ["astunparse", "numpy>=2,<3", "pyyaml", "requests", "setuptools<75", "six", "typing-extensions", "wheel"];

const PREFIX: &str = "/opt/pytorch";
const FOLDER: &str = "/usr/src/pytorch";
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

/// What is needed for building alone, over the toolchain.
fn tools(toolchain: &Toolchain) -> Packages {
    toolchain.packages.install(PACKAGES).named("pytorch-build").titled("pytorch's build tools")
}

/// From the repository to `/opt/pytorch`.
pub fn layer(toolchain: &Toolchain, python: &Python) -> Wheel {
    let command = ["python3", "setup.py", "bdist_wheel", "--dist-dir", "/opt/wheels"];
    let build = toolchain.parts.iter().fold(Command::new(command), Command::over);
    let build = build
        .over(tools(toolchain))
        .over(
            python
                .collection("pytorch-build", DISTRIBUTIONS)
                .named("pytorch's build requirements")
                .together(),
        )
        .over(GitFiles::new("pytorch", "https://github.com/pytorch/pytorch", COMMIT, FOLDER))
        .env(ENVIRONMENT)
        .folder(FOLDER)
        .output("/opt/wheels")
        .cache("pytorch", CACHE)
        .jobs("MAX_JOBS", MEMORY)
        .named("pytorch");
    Wheel::new("torch", VERSION, &build, PREFIX).step("source build").history(&format!(
        "TORCH_CUDA_ARCH_LIST=5.2 python3 setup.py bdist_wheel: torch {VERSION} in {PREFIX}"
    ))
}

/// How this variant builds what has no wheel: with the same compilers, for the same GPUs. CuPy's sdist
/// reads what is its own.
///
/// # Errors
/// None is known.
pub fn sdists(toolchain: &Toolchain) -> Result<SdistBuild> {
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
    let shared = ENVIRONMENT.into_iter().filter(|(name, _)| OWN.contains(name));
    let cupy = [
        ("CUDA_PATH", "/usr/local/cuda"),
        ("NVCC", "ccache /usr/local/cuda/bin/nvcc"),
        ("CUPY_NVCC_GENERATE_CODE", "arch=compute_52,code=sm_52"),
    ];
    toolchain
        .parts
        .iter()
        .fold(SdistBuild::default(), SdistBuild::over)
        .over(tools(toolchain))
        .env(shared.chain(cupy))
        .jobs("CUPY_NUM_BUILD_JOBS", MEMORY)
        .cache("pytorch", CACHE)
}

/// The `.pth` file. It is written where all that Python finds is there, and pip's own check says that
/// what the wheel requires is what Poetry has installed: a requirement that is not met fails by name.
pub fn swap(pip: &Tools, pytorch: &Wheel, installed: &ProjectInstall) -> Command {
    let library = r#"$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"#;
    let script = format!("echo {PREFIX} >\"{library}/pytorch.pth\" && exec python3 -m pip check");
    let parts: [AnyPart; 3] = [pip.into(), pytorch.into(), installed.into()];
    parts
        .into_iter()
        .fold(Command::shell(&script), Command::over)
        .env([("PYTHONDONTWRITEBYTECODE", "1")])
        .named("pytorch on the path")
        .step("swap")
}
