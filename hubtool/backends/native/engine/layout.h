// The ways in and out: from the caller's arrays, channels first, to views, channels last, and back;
// and nearest-neighbour upsampling, which only copies.
//
// Squares of LANES channels x LANES pixels are turned round in registers, by shuffling the first
// half of the rows into the second, as a pack of cards, until rows have become columns:
//
//   a b c d     a i b j     a e i m
//   e f g h  ▶  c k d l  ▶  b f j n       row r, column c: the bits of rc are rotated by one each
//   i j k l     e m f n     c g k o       time, so that cr is left after log2(LANES) times
//   m n o p     g o h p     d h l p
#pragma once

#include <utility>

#include "activation.h"
#include "runs.h"

namespace hubtool::HUBTOOL_ISA {

template <int FROM, int... I>
HUBTOOL_INLINE Vec interleave(Vec a, Vec b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I % 2 * LANES + FROM + I / 2)...);
}

HUBTOOL_INLINE void transpose(Vec (&v)[LANES]) {
    constexpr std::make_integer_sequence<int, LANES> lanes;
    constexpr int HALF = LANES / 2;
#pragma GCC unroll 4
    for (int times = LANES; times > 1; times /= 2) {
        Vec t[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < HALF; ++i) {
            t[2 * i] = interleave<0>(v[i], v[i + HALF], lanes);
            t[2 * i + 1] = interleave<HALF>(v[i], v[i + HALF], lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) v[i] = t[i];
    }
}

// f(i, offset) for the pixels from `first` on, counted through the rows of an image.
template <class F>
HUBTOOL_INLINE void for_pixels(const View &view, int64_t first, int count, F &&f) {
    int64_t column = first % view.w, row = first / view.w * view.row;
    int64_t at = row + column * view.pixel;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
        if (i >= count) return;
        f(i, at);
        at += view.pixel;
        if (++column == view.w) {
            column = 0;
            at = row += view.row;
        }
    }
}

// square(n, channel, channels, pixel, pixels) for squares that cover view.c x view.h * view.w. The
// last ones overlap those before them, where there are enough pixels.
template <class F> void for_squares(Pool::Team &team, const View &view, F &&square) {
    const int64_t pixels = view.h * view.w, blocks = std::max<int64_t>(pixels / LANES, 1);
    const int64_t groups = ceil_div(view.c, LANES);
    const int64_t group_part = std::min<int64_t>(groups, 2 * TASK / (LANES * LANES));
    const int64_t block_part =
        std::clamp<int64_t>(2 * TASK / (LANES * LANES) / group_part, 1, blocks);
    const int64_t across = ceil_div(groups, group_part), along = ceil_div(blocks, block_part);
    team.parallel(view.n * across * along, [&](int64_t task, int) {
        const int64_t n = task / across / along, g = task % across * group_part;
        const int64_t block = task / across % along * block_part;
        const int64_t end = std::min(block + block_part, blocks);
        for (int64_t c = g * LANES; c < std::min((g + group_part) * LANES, view.c); c += LANES) {
            const int count = int(std::min<int64_t>(LANES, view.c - c));
            if (pixels < LANES) {
                square(n, c, count, 0, int(pixels));
                continue;
            }
            for (int64_t b = block; b < end; ++b) square(n, c, count, b * LANES, LANES);
            if (end == blocks && pixels % LANES) square(n, c, count, pixels - LANES, LANES);
        }
    });
}

// Three planes into one row of threes.
template <int AT, int... I>
HUBTOOL_INLINE Vec threes(Vec a, Vec b, Vec c, std::integer_sequence<int, I...>) {
    const Vec two = __builtin_shufflevector(
        a, b, ((AT + I) % 3 == 1 ? LANES + (AT + I) / 3 : (AT + I) / 3)...);
    return __builtin_shufflevector(two, c, ((AT + I) % 3 == 2 ? LANES + (AT + I) / 3 : I)...);
}
inline void interleave_threes(const float *x, int64_t plane, float *y, int64_t count) {
    constexpr std::make_integer_sequence<int, LANES> lanes;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec a = load(x + i), b = load(x + plane + i), c = load(x + 2 * plane + i);
        store(y + 3 * i, threes<0>(a, b, c, lanes));
        store(y + 3 * i + LANES, threes<LANES>(a, b, c, lanes));
        store(y + 3 * i + 2 * LANES, threes<2 * LANES>(a, b, c, lanes));
    }
    for (; i < count; ++i)
        for (int c = 0; c < 3; ++c) y[3 * i + c] = x[c * plane + i];
}

// Three planes into one row of fours of bfloat16, the fourth zero.
inline void interleave_fours(const float *x, int64_t plane, bf16 *y, int64_t count) {
    constexpr std::make_integer_sequence<int, LANES> lanes;
    auto narrow = [](const float *p) {
        Half half;
        store(reinterpret_cast<bf16 *>(&half), load(p));
        return __builtin_convertvector(half, Int);
    };
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec first = (Vec)(narrow(x + i) | (Int)((Bits)narrow(x + plane + i) << 16));
        const Vec second = (Vec)narrow(x + 2 * plane + i);
        const Vec low = interleave<0>(first, second, lanes);
        const Vec high = interleave<LANES / 2>(first, second, lanes);
        std::memcpy(y + 4 * i, &low, sizeof low);
        std::memcpy(y + 4 * i + 2 * LANES, &high, sizeof high);
    }
    for (; i < count; ++i)
        for (int c = 0; c < 4; ++c)
            y[4 * i + c].bits = c < 3 ? rounded_bf16(x[c * plane + i]) : 0;
}

inline void few_row(const float *from, int64_t plane, const View &y, float *to) {
    if (y.c == 1 && y.pixel == 1) {
        std::memcpy(to, from, size_t(y.w) * sizeof(float));
    } else if (y.c == 3 && y.pixel == 3) {
        interleave_threes(from, plane, to, y.w);
    } else {
        for (int64_t w = 0; w < y.w; ++w)
            for (int64_t c = 0; c < y.c; ++c) to[w * y.pixel + c] = from[c * plane + w];
    }
}
inline void few_row(const float *from, int64_t plane, const View &y, bf16 *to) {
    if (y.c == 3 && y.pixel == 4) {
        interleave_fours(from, plane, to, y.w);
        return;
    }
    for (int64_t w = 0; w < y.w; ++w)
        for (int64_t c = 0; c < y.pixel; ++c)
            to[w * y.pixel + c].bits = c < y.c ? rounded_bf16(from[c * plane + w]) : 0;
}

// Few channels, with no room behind them: pixel by pixel; bfloat16 in whole pairs.
template <class Y> void few_from_nchw(const Call &call, Pool::Team &team) {
    const View &y = call.step.y;
    const int64_t plane = y.h * y.w, rows = std::clamp<int64_t>(TASK / (y.w * y.c), 1, y.h);
    const int64_t bands = ceil_div(y.h, rows);
    team.parallel(y.n * bands, [&](int64_t task, int) {
        const int64_t n = task / bands, top = task % bands * rows;
        for (int64_t h = top; h < std::min(top + rows, y.h); ++h) {
            const float *from = static_cast<const float *>(call.x) + n * y.c * plane + h * y.w;
            few_row(from, plane, y, static_cast<Y *>(call.y) + n * y.image + h * y.row);
        }
    });
}

// Matrices, whose rows are the same in both orders.
inline void copy_rows(const Call &call, Pool::Team &team, View x, View y) {
    const Either from(call.x, x), to(call.y, y);
    for_runs(team, runs_of<2>(y, {x, y}), [&](const int64_t (&at)[2], int64_t count) {
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES) to.put(at[1] + i, from.get(at[0] + i));
        const int left = int(count - i);
        if (left) to.put_some(at[1] + i, from.get_some(at[0] + i, left), left);
    });
}
inline View as_rows(View view) { // the caller's side of it
    view.type = F32;
    view.pixel = view.row = view.image = view.c;
    return view;
}

inline void run_from_nchw(const Call &call, Pool::Team &team) {
    const View &y = call.step.y;
    const int64_t plane = y.h * y.w;
    if (y.type == BF16 && y.pixel < 16) return few_from_nchw<bf16>(call, team);
    if (plane == 1) return copy_rows(call, team, as_rows(y), y);
    if (y.type == F32 && !has_room(y) && y.c < 16) return few_from_nchw<float>(call, team);
    const Either to(call.y, y);
    const bool room = has_room(y);
    for_squares(team, y, [&](int64_t n, int64_t c, int channels, int64_t first, int pixels) {
        const float *x = static_cast<const float *>(call.x) + (n * y.c + c) * plane + first;
        Vec v[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) {
            if (i >= channels) v[i] = Vec{};
            else v[i] = pixels == LANES ? load(x + i * plane) : load_some(x + i * plane, pixels);
        }
        transpose(v);
        for_pixels(y, first, pixels, [&](int i, int64_t at) {
            at += n * y.image + c;
            if (room || channels == LANES) to.put(at, v[i]);
            else to.put_some(at, v[i], channels);
        });
    });
}

inline void run_to_nchw(const Call &call, Pool::Team &team) {
    const View &x = call.step.x;
    const int64_t plane = x.h * x.w;
    if (plane == 1) return copy_rows(call, team, x, as_rows(x));
    const Either from(call.x, x);
    const bool room = has_room(x);
    for_squares(team, x, [&](int64_t n, int64_t c, int channels, int64_t first, int pixels) {
        float *y = static_cast<float *>(call.y) + (n * x.c + c) * plane + first;
        Vec v[LANES] = {};
        for_pixels(x, first, pixels, [&](int i, int64_t at) {
            at += n * x.image + c;
            v[i] = room || channels == LANES ? from.get(at) : from.get_some(at, channels);
        });
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) {
            if (i >= channels) return;
            if (pixels == LANES) store(y + i * plane, v[i]);
            else store_some(y + i * plane, v[i], pixels);
        }
    });
}

inline void run_upsample(const Call &call, Pool::Team &team) {
    const Step &s = call.step;
    const View &x = s.x, &y = s.y;
    const bool room = has_room(x) && has_room(y);
    const Either from(call.x, x), to(call.y, y);
    const int64_t end = room ? x.c : x.c / LANES * LANES;
    team.parallel(y.n * y.h, [&](int64_t task, int) {
        const int64_t n = task / y.h, h = task % y.h;
        int64_t source = n * x.image + h / s.kh * x.row, target = n * y.image + h * y.row;
        for (int64_t w = 0; w < y.w; source += x.pixel)
            for (int64_t last = std::min(w + s.kw, y.w); w < last; ++w, target += y.pixel) {
                for (int64_t c = 0; c < end; c += LANES)
                    to.put(target + c, from.get(source + c));
                const int left = int(x.c - end);
                if (left > 0) to.put_some(target + end, from.get_some(source + end, left), left);
            }
    });
}

} // namespace hubtool::HUBTOOL_ISA
