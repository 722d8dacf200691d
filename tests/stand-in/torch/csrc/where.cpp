#include <cblas.h>
#include <cudnn.h>

// What a path of the build could get into: __FILE__, and the message of an assertion.
extern "C" const char *stand_in_file() { return __FILE__; }

extern "C" int stand_in_cudnn() { return CUDNN_VERSION; }

// By OpenBLAS: the sum of the absolute values.
extern "C" double stand_in_asum(const double *values, int count) { return cblas_dasum(count, values, 1); }
