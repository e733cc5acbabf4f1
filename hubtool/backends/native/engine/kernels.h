// The kernels of one instruction set, as the plan calls them: one function a kind of step.
#pragma once

#include "plan.h"
#include "pool.h"

namespace hubtool {

// A step with its pointers: views at their first pixel, weights and bias where there are any.
struct Call {
    const Step &step;
    void *x, *y, *z;
    const void *weights;
    const float *bias;
    char *scratch;        // `scratch(step)` bytes for each worker, at multiples of 64
    int64_t scratch_each; // from one worker's to the next
};

using Kernel = void (*)(const Call &, Pool::Team &);

struct Kernels {
    const char *name;
    bool bf16;                                    // has products of bfloat16
    Kernel run[kind::count];
    int64_t (*scratch)(const Step &);             // bytes a worker needs
    int64_t (*packed)(const Step &);              // bytes of a convolution's weights, packed
    void (*pack)(const Step &, const float *W, void *to, Pool::Team &); // from [M, C/groups, kh, kw]
    bool (*fits)(const Step &); // whether the step's algorithm can do it
};

extern const Kernels kernels_avx512bf16, kernels_avx512, kernels_avx2, kernels_portable;

} // namespace hubtool
