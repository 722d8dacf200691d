//! Steps 1 and 2 of the source variant: CUDA 11.8.0 with nvcc, as Debian's non-free has it, and cuDNN
//! 8.9 from the Python index, with `/usr/local/cuda-11.8` and `/usr/local/cuda` over them.

use assemble::recipe::{AnyPart, Base, Command, Files, Named, Packages, Python};

/// What NVIDIA's container runtime and every program of the image read.
pub const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LD_LIBRARY_PATH", "/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"),
    ("CUDA_PATH", "/usr/local/cuda"),
    ("CUDA_VERSION", "11.8.0"),
    ("NVIDIA_VISIBLE_DEVICES", "all"),
    ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
    ("NVIDIA_REQUIRE_CUDA", "cuda>=11.8"),
];

/// The compiler that this nvcc works with; BLAS and LAPACK for PyTorch.
const COMPILERS: [&str; 3] = ["gcc-11", "g++-11", "libopenblas-dev"];

/// cuDNN's folders, to where CMake looks, and PyTorch's `FindCUDNN.cmake`: as Debian's own package of cuDNN
/// has it.
const RULES: [(&str, Option<&str>); 5] = [
    ("nvidia/cudnn/include", Some("/usr/local/cuda-11.8/include")),
    ("nvidia/cudnn/lib", Some("/usr/local/cuda-11.8/lib64")),
    ("nvidia/__init__.py", None),
    ("nvidia/*/__init__.py", None),
    ("*.dist-info", None),
];

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

/// CUDA, and what compiles for it.
pub struct Toolchain {
    /// The packages that are compiled upon.
    pub packages: Packages,
    /// All of it, lowest first.
    pub parts: Vec<AnyPart>,
}

/// The toolkit, cuDNN and the links; over a base that has CUDA, the compilers alone.
pub fn toolchain(base: Base, system: &Packages, python: &Python) -> Toolchain {
    if base == Base::Registry {
        let packages = named(system.install(COMPILERS)).titled("compilers");
        return Toolchain { parts: vec![(&packages).into()], packages };
    }
    let toolkit =
        named(system.install([&["nvidia-cuda-toolkit"], &COMPILERS[..]].concat())).titled("cuda 11.8");
    // What it requires are libraries that Debian's toolkit has.
    let cudnn = python
        .collection("cudnn-8.9", ["nvidia-cudnn-cu11==8.9.*"])
        .only("nvidia-cudnn-cu11")
        .named("cudnn")
        .step("toolchain")
        .relocated(RULES);
    // The wheel has the library by its full name alone, and linkers look for this.
    let cudnn_link = Files::new("cudnn link")
        .symlink("/usr/local/cuda-11.8/lib64/libcudnn.so", "libcudnn.so.8")
        .step("toolchain");
    let links = Command::shell(LINK)
        .over(&toolkit)
        .named("cuda links")
        .step("toolchain")
        .history("ln -s … /usr/local/cuda-11.8 /usr/local/cuda");
    let parts = vec![(&toolkit).into(), cudnn.into(), cudnn_link.into(), links.into()];
    Toolchain { packages: toolkit, parts }
}

fn named(packages: Packages) -> Packages {
    packages.named("cuda-11.8").step("toolchain")
}
