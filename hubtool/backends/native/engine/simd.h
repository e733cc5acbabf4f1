// Vectors of floats, for the instruction set that a file is compiled for.
//
// The kernels are written once, in the compiler's own vector extensions, and compiled three times:
// isa_avx512.cpp, isa_avx2.cpp and isa_portable.cpp each define HUBTOOL_ISA (the namespace),
// HUBTOOL_LANES (floats in a vector) and HUBTOOL_ROWS (pixels of a micro-kernel's tile), and
// include every kernel. A tile of ROWS x 2 vectors fills the registers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define HUBTOOL_INLINE inline __attribute__((always_inline))

namespace hubtool::HUBTOOL_ISA {

constexpr int LANES = HUBTOOL_LANES;
constexpr int ROWS = HUBTOOL_ROWS; // the most pixels of a tile
constexpr int BLOCK = 2 * LANES;   // the output channels of a tile

constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }
constexpr int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Int __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4))); // these may overflow
typedef uint16_t Half __attribute__((vector_size(LANES * 2)));

struct bf16 { uint16_t bits; };

HUBTOOL_INLINE Vec splat(float x) { return x - Vec{}; }

HUBTOOL_INLINE Vec load(const float *p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
HUBTOOL_INLINE void store(float *p, Vec v) { std::memcpy(p, &v, sizeof v); }

// bfloat16 is the upper half of a float; stored with rounding to nearest even, NaN kept quiet.
HUBTOOL_INLINE Vec load(const bf16 *p) {
    Half h;
    std::memcpy(&h, p, sizeof h);
    return (Vec)(__builtin_convertvector(h, Bits) << 16);
}
HUBTOOL_INLINE void store(bf16 *p, Vec v) {
#if defined(__AVX512BF16__)
    auto h = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &h, sizeof h);
#else
    Bits i = (Bits)v, upper = i >> 16;
    Bits rounded = (i + 0x7fff + (upper & 1)) >> 16;
    Bits nan = (Bits)(v != v);
    Half h = __builtin_convertvector((nan & (upper | 0x40)) | (~nan & rounded), Half);
    std::memcpy(p, &h, sizeof h);
#endif
}

HUBTOOL_INLINE uint16_t rounded_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (f != f) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The first `count` floats only, 0 < count <= LANES; the rest is zero, or left as it was.
HUBTOOL_INLINE Vec load_some(const float *p, int count) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#else
    Vec v{};
    std::memcpy(&v, p, size_t(count) * sizeof(float));
    return v;
#endif
}
HUBTOOL_INLINE void store_some(float *p, Vec v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
#else
    std::memcpy(p, &v, size_t(count) * sizeof(float));
#endif
}

HUBTOOL_INLINE Vec choose(Int mask, Vec yes, Vec no) {
    return (Vec)((mask & (Int)yes) | (~mask & (Int)no));
}
// As ONNX and numpy have it: NaN in, NaN out.
HUBTOOL_INLINE Vec maximum(Vec a, Vec b) { return choose((a > b) | (a != a), a, b); }
HUBTOOL_INLINE Vec minimum(Vec a, Vec b) { return choose((a < b) | (a != a), a, b); }

} // namespace hubtool::HUBTOOL_ISA
