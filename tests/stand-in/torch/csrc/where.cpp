#include <cblas.h>
#include <cudnn.h>

// What a path of the build could get into: __FILE__, and the message of an assertion.
extern "C" const char *stand_in_file() { return __FILE__; }

// Compiled against and found at run time: both 89xx.
extern "C" int stand_in_cudnn() { return CUDNN_VERSION / 100 == cudnnGetVersion() / 100 ? CUDNN_VERSION : 0; }

// By OpenBLAS: the sum of the absolute values.
extern "C" double stand_in_asum(const double *values, int count) { return cblas_dasum(count, values, 1); }
