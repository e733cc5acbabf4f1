// The micro-kernel: a tile of M pixels x NV vectors of output channels, held in registers.
//
//            k ──▶                        acc[m][v] += a[m][k] · b[k][v]
//        a0 ┌──────┐    b ┌────┐ k
//   pixels  │      │      │    │ │      b is packed: for every tap, for every k, NV vectors
//        a1 ├──────┤      │    │ ▼
//           └──────┘      └────┘
//
// Two halves of the pixels begin at a0 and a1, `step` apart inside a half: so a tile may be one row
// of 14 or two rows of 7. An implicit matrix product over a convolution's taps is the same loop with
// the pixels shifted by each tap's offset. Bias, residual and activation are applied before the
// result leaves the registers.
#pragma once

#include <utility>

#include "activation.h"
#include "kernels.h"
#include "simd.h"

namespace hubtool::HUBTOOL_ISA {

constexpr int64_t AHEAD_BYTES = 8 << 10; // of weights: some 100 ns of products

// Everything that a tile reads and writes. Offsets and strides are in elements.
template <class X, class Y> struct Tile {
    const X *a0, *a1;
    int64_t step;
    const int64_t *taps;
    int64_t count; // of taps
    int64_t k;     // products a tap
    const void *b;
    const char *next; // weights to be asked of memory meanwhile (see ask_ahead),
    int64_t next_step; // so many bytes further at each k
    const float *bias; // NV vectors, or null
    const Y *z0, *z1;  // the residual, or null
    int64_t z_step;
    Y *y0, *y1;
    int64_t y_step;
    int64_t columns; // output channels to be stored: NV * LANES, or fewer at the end of a row
    int64_t act;
    float alpha, beta;
    bool fetch; // y and z are not in the cache
};

// Says which weights a tile asks of memory. Where `sharers` tiles use the same weights, one after the
// other, each asks for its share of those that follow; a tile that has them for itself asks for its
// own, a little ahead. Nothing is read: what lies beyond the weights does no harm.
template <class X, class Y>
HUBTOOL_INLINE void ask_ahead(Tile<X, Y> &t, int64_t vectors, const void *following = nullptr,
                              int64_t sharer = 0, int64_t sharers = 1) {
    const int64_t each = vectors * LANES * 4;
    if (sharers == 1) {
        t.next = static_cast<const char *>(t.b) + AHEAD_BYTES;
        t.next_step = each;
        return;
    }
    t.next_step = each / sharers;
    t.next = static_cast<const char *>(following) + t.count * t.k * t.next_step * sharer;
}

template <class X, class Y> using TileKernel = void (*)(const Tile<X, Y> &);

// Where the pixels of half a tile are: [p + i * step] for i < 7 as addresses that the processor
// can form from two pointers and two strides.
struct Pixels {
    const char *p0, *p5;
    int64_t step, step3;
    HUBTOOL_INLINE Pixels(const char *first, int64_t bytes)
        : p0(first), p5(first + 5 * bytes), step(bytes), step3(3 * bytes) {}
    template <int I> HUBTOOL_INLINE const char *at() const {
        if constexpr (I == 0) return p0;
        else if constexpr (I == 1) return p0 + step;
        else if constexpr (I == 2) return p0 + 2 * step;
        else if constexpr (I == 3) return p0 + step3;
        else if constexpr (I == 4) return p0 + 4 * step;
        else if constexpr (I == 5) return p5;
        else return p0 + 2 * step3;
    }
};

HUBTOOL_INLINE void multiply_add(Vec &acc, const float *a, Vec b) { acc += splat(*a) * b; }

#if defined(__AVX512BF16__)
// Two products of bfloat16 at once: a's pair with every pair of b.
HUBTOOL_INLINE void multiply_add(Vec &acc, const bf16 *a, Vec b) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof pair);
    acc = (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)(__m512i)b);
}
#endif

template <int M, int NV, int I, class X>
HUBTOOL_INLINE void multiply_pixels(Vec (&acc)[M][NV], const Pixels &low, const Pixels &high,
                                    int64_t at, const Vec (&b)[NV]) {
    if constexpr (I < M) {
        constexpr int HALF = (M + 1) / 2;
        const char *p = I < HALF ? low.at<I % HALF>() : high.at<I % HALF>();
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v)
            multiply_add(acc[I][v], reinterpret_cast<const X *>(p + at), b[v]);
        multiply_pixels<M, NV, I + 1, X>(acc, low, high, at, b);
    }
}

// Pixel m of a tile of M, whose halves begin at `low` and `high`.
template <int M, class T> HUBTOOL_INLINE T *pixel(T *low, T *high, int64_t step, int64_t m) {
    constexpr int HALF = (M + 1) / 2;
    return m < HALF ? low + m * step : high + (m - HALF) * step;
}

// Asks memory for what the end of a tile reads and writes: one pixel at each call.
template <int M, int NV, class X, class Y> struct Ahead {
    static constexpr int64_t LINE = 64 / sizeof(Y); // of the cache
    const Tile<X, Y> &t;
    int64_t m;
    HUBTOOL_INLINE void next() {
        if (m >= M) return;
        const Y *y = pixel<M>(t.y0, t.y1, t.y_step, m);
        const Y *z = t.z0 ? pixel<M>(t.z0, t.z1, t.z_step, m) : nullptr;
        for (int64_t i = 0; i < NV * LANES; i += LINE) {
            __builtin_prefetch(y + i, 1);
            if (z) __builtin_prefetch(z + i);
        }
        ++m;
    }
};

// Bias, residual, activation; and to memory. Each asks once whether it is wanted, for all sums. Whole
// vectors are what nearly all tiles store; parts of one are float32, as the caller's arrays are.
template <class X, class Y, int M, int NV>
HUBTOOL_INLINE void finish(const Tile<X, Y> &t, Vec (&acc)[M][NV]) {
    auto each = [&](auto &&f) {
#pragma GCC unroll 14
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
            for (int v = 0; v < NV; ++v) f(acc[m][v], m, v);
    };
    auto y_at = [&](int m, int v) { return pixel<M>(t.y0, t.y1, t.y_step, m) + v * LANES; };
    auto z_at = [&](int m, int v) { return pixel<M>(t.z0, t.z1, t.z_step, m) + v * LANES; };
    auto left = [&](int v) { return t.columns - v * LANES; };
    const bool whole = left(NV) >= 0;
    if (t.bias) {
        Vec bias[NV];
        for (int v = 0; v < NV; ++v) bias[v] = load(t.bias + v * LANES);
        each([&](Vec &r, int, int v) { r += bias[v]; });
    }
    if (t.z0 && whole) {
        each([&](Vec &r, int m, int v) { r += load(z_at(m, v)); });
    } else if (t.z0) {
        each([&](Vec &r, int m, int v) {
            if (left(v) >= LANES) r += load(z_at(m, v));
            else if constexpr (sizeof(Y) == sizeof(float))
                if (left(v) > 0) r += load_some(z_at(m, v), int(left(v)));
        });
    }
    if (t.act == act::relu) {
        each([&](Vec &r, int, int) { r = activate_as<act::relu>(r, 0, 0); });
    } else if (t.act == act::clip) {
        each([&](Vec &r, int, int) { r = activate_as<act::clip>(r, t.alpha, t.beta); });
    } else if (t.act != act::none) {
        Vec held[M * NV];
        each([&](Vec &r, int m, int v) { held[m * NV + v] = r; });
        for (Vec &r : held) r = activate(r, t.act, t.alpha, t.beta);
        each([&](Vec &r, int m, int v) { r = held[m * NV + v]; });
    }
    if (whole) {
        each([&](Vec &r, int m, int v) { store(y_at(m, v), r); });
    } else {
        each([&](Vec &r, int m, int v) {
            if (left(v) >= LANES) store(y_at(m, v), r);
            else if constexpr (sizeof(Y) == sizeof(float))
                if (left(v) > 0) store_some(y_at(m, v), r, int(left(v)));
        });
    }
}

template <class X, class Y, int M, int NV> void tile(const Tile<X, Y> &t) {
    constexpr int64_t A = 4; // bytes of a pixel that one k takes: a float, or two bfloat16
    Ahead<M, NV, X, Y> ahead{t, t.fetch ? 0 : M};
    Vec acc[M][NV] = {};
    const float *b = static_cast<const float *>(t.b);
    const char *next = t.next;
    for (int64_t tap = 0; tap < t.count; ++tap) {
        int64_t bytes = t.step * int64_t(sizeof(X));
        Pixels low(reinterpret_cast<const char *>(t.a0 + t.taps[tap]), bytes);
        Pixels high(reinterpret_cast<const char *>(t.a1 + t.taps[tap]), bytes);
        const int64_t end = t.k * A;
        for (int64_t at = 0; at < end; at += A) {
            ahead.next();
            Vec weights[NV];
#pragma GCC unroll 2
            for (int v = 0; v < NV; ++v) weights[v] = load(b + v * LANES);
            for (int64_t line = 0; line < NV * LANES * 4; line += 64) __builtin_prefetch(next + line);
            next += t.next_step;
            multiply_pixels<M, NV, 0, X>(acc, low, high, at, weights);
            b += NV * LANES;
        }
    }
    finish(t, acc);
}

template <class X, class Y, int NV, int... M>
constexpr TileKernel<X, Y> tile_of(int rows, std::integer_sequence<int, M...>) {
    constexpr TileKernel<X, Y> table[] = {tile<X, Y, M + 1, NV>...};
    return table[rows - 1];
}

// The micro-kernel of so many pixels (1 to ROWS) and vectors (1 or 2).
template <class X, class Y> TileKernel<X, Y> tile_kernel(int rows, int vectors) {
    using Rows = std::make_integer_sequence<int, ROWS>;
    return vectors == 1 ? tile_of<X, Y, 1>(rows, Rows{}) : tile_of<X, Y, 2>(rows, Rows{});
}

} // namespace hubtool::HUBTOOL_ISA
