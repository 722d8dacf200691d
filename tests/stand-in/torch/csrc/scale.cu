#include <cstdio>
#include <cuda_runtime.h>
#include <thrust/version.h>

#include "scale.cuh"

namespace {
// Internal linkage: nvcc makes a name for it that must be the same in every build.
__device__ float bias = 1.0f;

__global__ void scale(float *values, int count) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) values[at] = scaled(values[at]) + bias;
}
}  // namespace

// 0 where it ran, else CUDA's own number of what was wrong: without a driver, 35 or 100.
extern "C" int stand_in_scale(float *values, int count) {
    float *there = nullptr;
    cudaError_t error = cudaMalloc(&there, count * sizeof(float));
    if (error != cudaSuccess) return static_cast<int>(error);
    cudaMemcpy(there, values, count * sizeof(float), cudaMemcpyHostToDevice);
    scale<<<(count + 255) / 256, 256>>>(there, count);
    error = cudaMemcpy(values, there, count * sizeof(float), cudaMemcpyDeviceToHost);
    cudaFree(there);
    return static_cast<int>(error);
}
