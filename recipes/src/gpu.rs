//! Which GPUs the images are for.

use assemble_layers::Lock;
use assemble_layers::gpu::{Promise, Target};
use assemble_layers::lock::GpuRequirement;

/// PyTorch's kernels. Other libraries have code for GPUs that it has none for, and less.
pub const LIBRARY: &str = "libtorch_cuda.so";

/// What PyTorch's own build scripts compile its wheels of 2.7 for CUDA 12.8 for.
const WHEEL: [Target; 6] = [
    Target::new(7, 5),
    Target::new(8, 0),
    Target::new(8, 6),
    Target::new(9, 0),
    Target::new(10, 0),
    Target::with_ptx(12, 0),
];

/// What the lock records where the wheel came from another index, and is another build.
pub fn requirement() -> GpuRequirement {
    GpuRequirement { distribution: "torch".to_owned(), library: LIBRARY.to_owned() }
}

/// What the binary wheel is for.
pub fn binary(lock: &Lock) -> Promise {
    Promise::of_locked(lock, LIBRARY, &WHEEL)
}

/// What `TORCH_CUDA_ARCH_LIST` asks for.
pub fn source() -> Promise {
    Promise::new(LIBRARY, [Target::new(5, 2)])
}
