// All kernels, for the instruction set that the including file names; and their table.
#include "activation.h"
#include "depthwise.h"
#include "direct.h"
#include "elementwise.h"
#include "layout.h"
#include "matmul.h"
#include "normalize.h"
#include "pooling.h"
#include "winograd.h"

namespace hubtool::HUBTOOL_ISA {

inline void run_conv(const Call &call, Pool::Team &team) {
    switch (call.step.algorithm) {
    case algorithm::winograd2: return run_winograd<2>(call, team);
    case algorithm::winograd4: return run_winograd<4>(call, team);
    default: return run_direct(call, team);
    }
}

inline int64_t scratch(const Step &s) {
    if (s.kind == kind::matmul) return matmul_scratch(s);
    if (s.kind != kind::conv) return 0;
    switch (s.algorithm) {
    case algorithm::winograd2: return winograd_scratch<2>(s);
    case algorithm::winograd4: return winograd_scratch<4>(s);
    default: return 0;
    }
}

inline int64_t packed(const Step &s) {
    if (s.kind == kind::depthwise) return depthwise_packed(s);
    switch (s.algorithm) {
    case algorithm::winograd2: return winograd_packed<2>(s);
    case algorithm::winograd4: return winograd_packed<4>(s);
    default: return direct_packed(s);
    }
}

inline void pack(const Step &s, const float *W, void *to, Pool::Team &team) {
    if (s.kind == kind::depthwise) return depthwise_pack(s, W, to);
    switch (s.algorithm) {
    case algorithm::winograd2: return winograd_pack<2>(s, W, to, team);
    case algorithm::winograd4: return winograd_pack<4>(s, W, to, team);
    default: return direct_pack(s, W, to, team);
    }
}

// Whether the step's algorithm can do it, in the types that it has.
inline bool fits(const Step &s) {
    const bool narrow = s.x.type == BF16 || s.y.type == BF16;
#if !defined(__AVX512BF16__)
    if (narrow) return false;
#endif
    if (s.kind == kind::matmul) return !narrow;
    if (s.kind != kind::conv) return true;
    if (s.z.where != NOWHERE && s.z.type != s.y.type) return false;
    if (s.algorithm != algorithm::direct) return winograd_fits(s);
    const int64_t M = s.y.c / s.groups, share = s.x.c / s.groups;
    if (s.x.type == BF16 && share % 2 && !in_one_run(s)) return false;
    if (s.y.type == BF16 && s.groups > 1 && M % 16) return false;
    return s.kh * s.kw <= MOST_TAPS;
}

constexpr Kernels table(const char *name) {
    Kernels k{};
    k.name = name;
#if defined(__AVX512BF16__)
    k.bf16 = true;
#endif
    k.run[kind::conv] = run_conv;
    k.run[kind::depthwise] = run_depthwise;
    k.run[kind::matmul] = run_matmul;
    k.run[kind::max_pool] = run_max_pool;
    k.run[kind::average_pool] = run_average_pool;
    k.run[kind::global_average] = run_global_average;
    k.run[kind::global_max] = run_global_max;
    k.run[kind::binary] = run_binary;
    k.run[kind::affine] = run_affine;
    k.run[kind::unary] = run_unary;
    k.run[kind::copy] = run_copy;
    k.run[kind::from_nchw] = run_from_nchw;
    k.run[kind::to_nchw] = run_to_nchw;
    k.run[kind::softmax] = run_softmax;
    k.run[kind::lrn] = run_lrn;
    k.run[kind::upsample] = run_upsample;
    k.scratch = scratch;
    k.packed = packed;
    k.pack = pack;
    k.fits = fits;
    return k;
}

} // namespace hubtool::HUBTOOL_ISA
