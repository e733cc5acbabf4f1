// Depthwise convolution: one kernel of its own for each channel.
//
//   y[h, w, c] = act(b[c] + Σ x[h sh + i dh, w sw + j dw, c] · W[i, j, c] + z[h, w, c])
//
// A vector holds the same pixel's channels. T pixels of a row are computed together, kernel row by
// kernel row: its KW weights and the T sums stay in registers, and each input is read once for
// all the taps it meets. Blocks of columns go down several rows, so that the rows which the kernel
// reads again are still in the first cache.
//
//   x   0 1 2 3 4 5          y[0] += W[0] x[0] + W[1] x[1] + W[2] x[2]
//       └─┴─┘                y[1] +=             W[0] x[1] + W[1] x[2] + W[2] x[3]
//         └─┴─┘              ...
#pragma once

#include <utility>

#include "activation.h"
#include "runs.h"

namespace hubtool::HUBTOOL_ISA {

inline int64_t depthwise_packed(const Step &step) { // bytes
    return round_up(step.kh * step.kw * round_up(step.y.c, 16) * int64_t(sizeof(float)), 64);
}

// From [C, 1, kh, kw] to [kh kw][C rounded up to 16].
inline void depthwise_pack(const Step &step, const float *W, void *to) {
    const int64_t taps = step.kh * step.kw, channels = step.y.c, wide = round_up(channels, 16);
    float *packed = static_cast<float *>(to);
    std::fill_n(packed, depthwise_packed(step) / int64_t(sizeof(float)), 0.0f);
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) packed[tap * wide + c] = W[c * taps + tap];
}

// One block: T pixels of one row, all channels.
template <class X> struct DepthwiseBlock {
    const Step &step;
    const Activation activation;
    const float *weights, *bias;
    const X *x;    // of the first pixel's first tap
    Either y, z;   // and the block's first pixel in them
    int64_t y_at, z_at;
    bool residual, plain;

    DepthwiseBlock(const Call &call)
        : step(call.step), activation(step), weights(static_cast<const float *>(call.weights)),
          bias(call.bias), x(nullptr), y(call.y, step.y), z(call.z, step.z), y_at(0), z_at(0),
          residual(call.z != nullptr), plain(!residual && !y.half && activation.simple()) {}

    template <int T> HUBTOOL_INLINE void finish(Vec (&sum)[T], int64_t c, int count) const {
        if (plain && count == LANES) { // one question for all T
            float *to = y.wide(y_at + c);
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t)
                store(to + t * step.y.pixel, activation.template apply<true>(sum[t]));
            return;
        }
        Vec held[T];
        for (int t = 0; t < T; ++t) held[t] = sum[t];
        for (int t = 0; t < T; ++t) {
            const int64_t y_i = y_at + t * step.y.pixel + c, z_i = z_at + t * step.z.pixel + c;
            if (residual) held[t] += count == LANES ? z.get(z_i) : z.get_some(z_i, count);
            held[t] = activation.apply(held[t]);
            if (count == LANES) y.put(y_i, held[t]);
            else y.put_some(y_i, held[t], count);
        }
    }

    // The input at column AT, for every pixel I that has a tap there.
    template <int KW, int SW, int AT, int T, int... I>
    static HUBTOOL_INLINE void meet(Vec (&sum)[T], Vec v, const Vec *tap,
                                    std::integer_sequence<int, I...>) {
        ((AT >= I * SW && AT < I * SW + KW ? void(sum[I] += v * tap[AT - I * SW]) : void()), ...);
    }
    template <int KW, int SW, int T, class Load, int... AT>
    static HUBTOOL_INLINE void meet_all(Vec (&sum)[T], const X *row, int64_t pixel, const Vec *tap,
                                        Load &&load_x, std::integer_sequence<int, AT...>) {
        constexpr std::make_integer_sequence<int, T> pixels;
        (meet<KW, SW, AT>(sum, load_x(row + AT * pixel), tap, pixels), ...);
    }

    // Sums of T pixels at channel c. KW, SW: kernel and stride where known and the taps are next to
    // each other; else 0.
    template <int T, int KW, int SW, class Load>
    HUBTOOL_INLINE void sums(Vec (&sum)[T], int64_t c, Load &&load_x) const {
        const int64_t wide = round_up(step.y.c, 16), pixel = step.x.pixel;
        const Vec first = bias ? load(bias + c) : Vec{};
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) sum[t] = first;
        const float *w = weights + c;
        const X *row = x + c;
#pragma GCC unroll 4
        for (int64_t i = 0; i < step.kh; ++i, row += step.dh * step.x.row) {
            if constexpr (KW > 0) {
                Vec tap[KW];
#pragma GCC unroll 16
                for (int j = 0; j < KW; ++j, w += wide) tap[j] = load(w);
                constexpr std::make_integer_sequence<int, (T - 1) * SW + KW> columns;
                meet_all<KW, SW>(sum, row, pixel, tap, load_x, columns);
            } else {
                for (int64_t j = 0; j < step.kw; ++j, w += wide) {
                    const Vec tap = load(w);
#pragma GCC unroll 16
                    for (int t = 0; t < T; ++t)
                        sum[t] += tap * load_x(row + (j * step.dw + t * step.sw) * pixel);
                }
            }
        }
    }

    template <int T, int KW, int SW> HUBTOOL_INLINE void run() const {
        const int64_t room = has_room(step.x) && has_room(step.y) &&
                             (!residual || has_room(step.z));
        const int64_t end = room ? step.y.c : step.y.c / LANES * LANES;
        for (int64_t c = 0; c < end; c += LANES) {
            Vec sum[T];
            sums<T, KW, SW>(sum, c, [](const X *p) { return load(p); });
            finish(sum, c, LANES);
        }
        if (end < step.y.c) {
            const int count = int(step.y.c - end);
            Vec sum[T];
            sums<T, 0, 0>(sum, end, [=](const X *p) { return load_some(p, count); });
            finish(sum, end, count);
        }
    }
};

template <class X, int KW, int SW, int T>
inline void depthwise_row(DepthwiseBlock<X> &block, int64_t w, int64_t end) {
    const Step &step = block.step;
    auto advance = [&](int64_t pixels) {
        w += pixels;
        block.x += pixels * step.sw * step.x.pixel;
        block.y_at += pixels * step.y.pixel;
        block.z_at += pixels * step.z.pixel;
    };
    for (; w + T <= end; advance(T)) block.template run<T, KW, SW>();
    for (; w + 3 <= end; advance(3)) block.template run<3, KW, SW>();
    for (; w < end; advance(1)) block.template run<1, KW, SW>();
}

template <class X, int KW, int SW> void depthwise_of(const Call &call, Pool::Team &team) {
    constexpr int T = 8;
    const Step &step = call.step;
    const View &x = step.x, &y = step.y, &z = step.z;
    const int64_t columns = std::max<int64_t>(T, 2048 / round_up(y.c, 16) / T * T);
    const int64_t rows = std::clamp<int64_t>(TASK / (y.w * round_up(y.c, 16)), 1, y.h);
    const int64_t bands = ceil_div(y.h, rows);
    team.parallel(y.n * bands, [&](int64_t task, int) {
        const int64_t n = task / bands, top = task % bands * rows;
        const int64_t bottom = std::min(top + rows, y.h);
        DepthwiseBlock<X> block(call);
        for (int64_t w = 0; w < y.w; w += columns) {
            for (int64_t h = top; h < bottom; ++h) {
                block.x = static_cast<const X *>(call.x) + n * x.image +
                          (h * step.sh - step.top) * x.row + (w * step.sw - step.left) * x.pixel;
                block.y_at = n * y.image + h * y.row + w * y.pixel;
                block.z_at = n * z.image + h * z.row + w * z.pixel;
                depthwise_row<X, KW, SW, T>(block, w, std::min(w + columns, y.w));
            }
        }
    });
}

inline void run_depthwise(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    with_type(step.x.type, [&](auto element) {
        using X = decltype(element);
        const int64_t known = step.dw == 1 ? step.kw * 10 + step.sw : 0;
        switch (known) {
        case 31: return depthwise_of<X, 3, 1>(call, team);
        case 32: return depthwise_of<X, 3, 2>(call, team);
        case 51: return depthwise_of<X, 5, 1>(call, team);
        case 52: return depthwise_of<X, 5, 2>(call, team);
        case 71: return depthwise_of<X, 7, 1>(call, team);
        default: return depthwise_of<X, 0, 0>(call, team);
        }
    });
}

} // namespace hubtool::HUBTOOL_ISA
