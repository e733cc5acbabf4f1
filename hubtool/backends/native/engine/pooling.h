// Pooling: windows of pixels, and whole pictures. A vector holds one pixel's channels, so every
// window is a loop over pixels. Windows stop at the border of the picture by themselves: no halo is
// read.
#pragma once

#include <vector>

#include "activation.h"
#include "runs.h"

namespace hubtool::HUBTOOL_ISA {

// The rows or columns of output `at` that lie inside: from, to; and how many there are with the
// padding, up to `behind` pixels past the end.
struct Window {
    int64_t from, to, padded;
    Window(int64_t at, int64_t kernel, int64_t stride, int64_t dilation, int64_t before,
           int64_t size, int64_t behind) {
        const int64_t first = at * stride - before;
        from = first < 0 ? ceil_div(-first, dilation) : 0;
        to = std::min(kernel, ceil_div(size - first, dilation));
        to = std::max(from, to);
        padded = std::clamp<int64_t>(ceil_div(size + behind - first, dilation), 0, kernel);
    }
};

// One output pixel's window, in taps, and its first tap in x (which may lie outside).
struct Taps {
    int64_t rows_from, rows_to, columns_from, columns_to;
    int64_t row, pixel; // from tap to tap
    bool whole3;        // 3x3, all of it inside
};

struct Largest {
    static HUBTOOL_INLINE Vec start() { return splat(-std::numeric_limits<float>::infinity()); }
    // NaN wins, and the first one stays.
    static HUBTOOL_INLINE Vec add(Vec so_far, Vec v) {
#if defined(__AVX512F__)
        const Vec larger = at_least(v, so_far); // so_far, where either is NaN
        return (Vec)_mm512_mask_mov_ps(
            (__m512)larger, _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q), (__m512)v);
#else
        return choose(v != v, v, at_least(v, so_far));
#endif
    }
};
struct Total {
    static HUBTOOL_INLINE Vec start() { return Vec{}; }
    static HUBTOOL_INLINE Vec add(Vec so_far, Vec v) { return so_far + v; }
};

template <class Fold, class Load>
HUBTOOL_INLINE Vec pool_window(const Taps &taps, Load &&at) {
    Vec result = Fold::start();
    if (taps.whole3) {
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
            Vec row = at(i * taps.row);
            row = Fold::add(row, at(i * taps.row + taps.pixel));
            row = Fold::add(row, at(i * taps.row + 2 * taps.pixel));
            result = i ? Fold::add(result, row) : row;
        }
        return result;
    }
    for (int64_t i = taps.rows_from; i < taps.rows_to; ++i) {
        Vec row = Fold::start();
        for (int64_t j = taps.columns_from; j < taps.columns_to; ++j)
            row = Fold::add(row, at(i * taps.row + j * taps.pixel));
        result = Fold::add(result, row);
    }
    return result;
}

template <class Fold, class X, class Y, class Finish>
void pool_pixel(const Taps &taps, const X *x, Y *y, int64_t channels, bool room, Finish &&finish) {
    const int64_t end = room ? channels : channels / LANES * LANES;
    for (int64_t c = 0; c < end; c += LANES)
        store(y + c, finish(pool_window<Fold>(taps, [&](int64_t i) { return load(x + i + c); })));
    if (end < channels) {
        const int count = int(channels - end);
        auto at = [&](int64_t i) { return load_some(x + i + end, count); };
        store_some(y + end, finish(pool_window<Fold>(taps, at)), count);
    }
}

template <class Fold, class X, class Y> void pool_of(const Call &call, Pool::Team &team) {
    const Step &s = call.step;
    const View &x = s.x, &y = s.y;
    const bool room = has_room(x) && has_room(y), average = std::is_same_v<Fold, Total>;
    const int64_t rows = std::clamp<int64_t>(TASK / (y.w * round_up(y.c, 16)), 1, y.h);
    const int64_t bands = ceil_div(y.h, rows);
    team.parallel(y.n * bands, [&](int64_t task, int) {
        const int64_t n = task / bands, top = task % bands * rows;
        const int64_t bottom = std::min(top + rows, y.h);
        for (int64_t h = top; h < bottom; ++h) {
            const Window down(h, s.kh, s.sh, s.dh, s.top, x.h, s.bottom);
            for (int64_t w = 0; w < y.w; ++w) {
                const Window across(w, s.kw, s.sw, s.dw, s.left, x.w, s.right);
                const bool whole3 = down.from == 0 && down.to == 3 && s.kh == 3 &&
                                    across.from == 0 && across.to == 3 && s.kw == 3;
                const Taps taps{down.from, down.to, across.from, across.to,
                                s.dh * x.row, s.dw * x.pixel, whole3};
                const X *from = static_cast<const X *>(call.x) + n * x.image +
                                (h * s.sh - s.top) * x.row + (w * s.sw - s.left) * x.pixel;
                Y *to = static_cast<Y *>(call.y) + n * y.image + h * y.row + w * y.pixel;
                const int64_t inside = (down.to - down.from) * (across.to - across.from);
                const int64_t count = s.count_pads ? down.padded * across.padded : inside;
                const Vec divisor = splat(float(count));
                pool_pixel<Fold>(taps, from, to, y.c, room,
                                 [&](Vec v) { return average ? v / divisor : v; });
            }
        }
    });
}

template <class Fold> void run_pool(const Call &call, Pool::Team &team) {
    with_type(call.step.x.type, [&](auto x) {
        with_type(call.step.y.type, [&](auto y) {
            pool_of<Fold, decltype(x), decltype(y)>(call, team);
        });
    });
}
inline void run_max_pool(const Call &call, Pool::Team &team) { run_pool<Largest>(call, team); }
inline void run_average_pool(const Call &call, Pool::Team &team) { run_pool<Total>(call, team); }

// The pixels of rows [from, to), folded into the channels at c: into at most SOME vectors. Sums are
// made of the sums of blocks of 32, so that their error grows slowly.
template <class Fold, class X, int SOME>
void fold_rows(const View &x, const X *image, int64_t from, int64_t to, int count, float *result) {
    Vec total[SOME];
    for (Vec &each : total) each = Fold::start();
    for (int64_t h = from; h < to; ++h) {
        for (int64_t first = 0; first < x.w; first += 32) {
            const int64_t last = std::min<int64_t>(first + 32, x.w);
            const X *p = image + h * x.row + first * x.pixel;
            Vec block[SOME];
            for (Vec &each : block) each = Fold::start();
            for (int64_t w = first; w < last; ++w, p += x.pixel)
#pragma GCC unroll 8
                for (int i = 0; i < SOME; ++i) {
                    if (count == LANES) block[i] = Fold::add(block[i], load(p + i * LANES));
                    else block[i] = Fold::add(block[i], load_some(p + i * LANES, count));
                }
#pragma GCC unroll 8
            for (int i = 0; i < SOME; ++i) total[i] = Fold::add(total[i], block[i]);
        }
    }
    for (int i = 0; i < SOME; ++i) store(result + i * LANES, total[i]);
}

// A task folds a range of channels of a part of the rows; the parts are folded at the end.
template <class Fold, class X> void global_of(const Call &call, Pool::Team &team) {
    const Step &s = call.step;
    const View &x = s.x, &y = s.y;
    constexpr int64_t MOST = 8 * LANES;
    const bool room = has_room(x);
    const int64_t wide = round_up(x.c, LANES), ranges = ceil_div(wide, MOST);
    const int64_t many = std::clamp<int64_t>(x.h * x.w * wide / TASK / ranges, 1, 16);
    const int64_t rows = ceil_div(x.h, std::min(many, x.h)), parts = ceil_div(x.h, rows);
    std::vector<float> partial(size_t(x.n * parts * wide));
    team.parallel(x.n * parts * ranges, [&](int64_t task, int) {
        const int64_t range = task % ranges, part = task / ranges % parts;
        const int64_t n = task / ranges / parts;
        const int64_t from = part * rows, to = std::min(from + rows, x.h);
        const int64_t end = std::min((range + 1) * MOST, wide);
        const X *image = static_cast<const X *>(call.x) + n * x.image;
        float *result = partial.data() + (n * parts + part) * wide;
        for (int64_t c = range * MOST; c < end;) {
            const bool whole = room || c + LANES <= x.c;
            if (c + MOST <= end && (room || c + MOST <= x.c)) {
                fold_rows<Fold, X, 8>(x, image + c, from, to, LANES, result + c);
                c += MOST;
            } else {
                const int count = whole ? LANES : int(x.c - c);
                fold_rows<Fold, X, 1>(x, image + c, from, to, count, result + c);
                c += LANES;
            }
        }
    });
    const Either out(call.y, y);
    const Vec divisor = splat(float(x.h * x.w));
    for (int64_t n = 0; n < x.n; ++n)
        for (int64_t c = 0; c < y.c; c += LANES) {
            Vec v = Fold::start();
            for (int64_t part = 0; part < parts; ++part)
                v = Fold::add(v, load(partial.data() + (n * parts + part) * wide + c));
            if (std::is_same_v<Fold, Total>) v = v / divisor;
            if (has_room(y) || c + LANES <= y.c) out.put(n * y.image + c, v);
            else out.put_some(n * y.image + c, v, int(y.c - c));
        }
}

inline void run_global_average(const Call &call, Pool::Team &team) {
    with_type(call.step.x.type, [&](auto x) { global_of<Total, decltype(x)>(call, team); });
}
inline void run_global_max(const Call &call, Pool::Team &team) {
    with_type(call.step.x.type, [&](auto x) { global_of<Largest, decltype(x)>(call, team); });
}

} // namespace hubtool::HUBTOOL_ISA
