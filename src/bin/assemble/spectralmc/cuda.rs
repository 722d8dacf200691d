//! Step 1, the base's CUDA: NVIDIA's own component wheels, laid out as `/usr/local/cuda-12.8`. They
//! hold libraries, headers, NVRTC and ptxas, not the nvcc front end.

use assemble::recipe::{Collection, Files, Named, Python};

/// What NVIDIA's container runtime and every program of the image read.
pub const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LD_LIBRARY_PATH", "/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"),
    ("CUDA_PATH", "/usr/local/cuda"),
    ("CUDA_VERSION", "12.8.1"),
    ("NVIDIA_VISIBLE_DEVICES", "all"),
    ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
    ("NVIDIA_REQUIRE_CUDA", "cuda>=12.8"),
];

/// The meta-package that names the exact version of each component.
const TOOLKIT: &str = "cuda-toolkit[all]==12.8.1";

/// A component's folders. What no rule names is an error, not left out in silence.
const RULES: [(&str, Option<&str>); 10] = [
    // The sanitizer has other versions of CUPTI's generated headers; NVIDIA keeps it apart too.
    ("nvidia/cuda_sanitizer_api/include", Some("/usr/local/cuda-12.8/compute-sanitizer/include")),
    ("nvidia/cuda_sanitizer_api/lib", Some("/usr/local/cuda-12.8/compute-sanitizer")),
    ("nvidia/*/include", Some("/usr/local/cuda-12.8/include")),
    ("nvidia/*/lib", Some("/usr/local/cuda-12.8/lib64")),
    ("nvidia/*/bin", Some("/usr/local/cuda-12.8/bin")),
    ("nvidia/*/nvvm", Some("/usr/local/cuda-12.8/nvvm")),
    // What makes Python packages of the folders, and what describes the packages.
    ("nvidia/__init__.py", None),
    ("nvidia/*/__init__.py", None),
    ("nvidia/*/.metadata", None),
    ("*.dist-info", None),
];

/// The components; large ones alone.
pub fn components(python: &Python) -> Collection {
    python.collection("cuda-12.8.1", [TOOLKIT]).named("cuda").step("base").relocated(RULES)
}

/// The link that every tool looks for.
pub fn link() -> Files {
    Files::new("cuda link").symlink("/usr/local/cuda", "cuda-12.8").step("base")
}
