// Convolution as an implicit matrix product: for each tile of output pixels, over all taps.
//
//   pixels ──▶ cut into tiles of up to ROWS, along rows of the picture (or along all of it, where
//              one pixel follows the next: 1x1, matrices)
//   outputs ─▶ blocks of BLOCK channels; as many blocks make a group as fit into half the L2 cache
//
//   task = a group of blocks x a run of tiles:  for tile: for block: micro-kernel
//
// So a group's weights are fetched once a task and stay in L2 while the pixels go by; the pixels of
// a tile stay in L1 while the blocks go by. Weights lie [group][block][tap][k][BLOCK]; the last
// block has one vector where that is enough.
#pragma once

#include <algorithm>

#include "micro.h"

namespace hubtool::HUBTOOL_ISA {

constexpr int64_t L2 = 1 << 20;      // what can be counted on of the second cache
constexpr int64_t MOST_TAPS = 1024;  // of one kernel

// A convolution's taps: where each begins, and how many numbers it takes.
struct KernelTaps {
    int64_t count, k;
    int64_t offsets[MOST_TAPS];
};

// Whether a row of taps is one run of numbers: pixels of few channels lie next to each other, those
// of bfloat16 in whole pairs (where the channels are odd, what completes the last is zero).
HUBTOOL_INLINE bool in_one_run(const Step &s) {
    const bool close = s.x.type == BF16 ? s.x.pixel < 16 && s.x.pixel == round_up(s.x.c, 2)
                                        : s.x.pixel == s.x.c;
    return s.groups == 1 && s.dw == 1 && close;
}

inline KernelTaps taps_of(const Step &s) {
    KernelTaps t;
    const int64_t share = s.x.c / s.groups;
    const int64_t first = -s.top * s.x.row - s.left * s.x.pixel;
    if (in_one_run(s)) {
        t.count = s.kh;
        t.k = s.x.type == BF16 ? s.kw * s.x.pixel / 2 : s.kw * share;
        for (int64_t i = 0; i < s.kh; ++i) t.offsets[i] = first + i * s.dh * s.x.row;
        return t;
    }
    t.count = s.kh * s.kw;
    t.k = s.x.type == BF16 ? ceil_div(share, 2) : share;
    for (int64_t i = 0; i < s.kh; ++i)
        for (int64_t j = 0; j < s.kw; ++j)
            t.offsets[i * s.kw + j] = first + i * s.dh * s.x.row + j * s.dw * s.x.pixel;
    return t;
}

// The vectors of a block that begins at this channel of a group of M.
HUBTOOL_INLINE int vectors_at(int64_t channel, int64_t M) { return M - channel <= LANES ? 1 : 2; }

// Floats (or pairs of bfloat16) of one group's packed weights, up to a block of that group.
HUBTOOL_INLINE int64_t packed_before(int64_t block, int64_t M, int64_t products) {
    return std::min(block * BLOCK, round_up(M, LANES)) * products;
}

inline int64_t direct_packed(const Step &s) {
    const int64_t M = s.y.c / s.groups, taps = s.kh * s.kw;
    const int64_t k = s.x.type == BF16 ? ceil_div(s.x.c / s.groups, 2) : s.x.c / s.groups;
    return round_up(s.groups * round_up(M, LANES) * taps * k * 4, 64);
}

// W [M, C/groups, kh, kw] as the micro-kernel reads it.
inline void direct_pack(const Step &s, const float *W, void *to, Pool::Team &team) {
    const int64_t M = s.y.c / s.groups, share = s.x.c / s.groups, taps = s.kh * s.kw;
    const bool narrow = s.x.type == BF16;
    const int64_t k = narrow ? ceil_div(share, 2) : share;
    char *out = static_cast<char *>(to);
    std::memset(out, 0, size_t(direct_packed(s))); // what no output and no pair fills
    const int64_t blocks = ceil_div(M, BLOCK);
    team.parallel(s.groups * blocks, [&](int64_t task, int) {
        const int64_t g = task / blocks, m0 = task % blocks * BLOCK;
        const int64_t wide = vectors_at(m0, M) * LANES;
        char *block = out + 4 * (g * round_up(M, LANES) * taps * k
                                 + packed_before(m0 / BLOCK, M, taps * k));
        const int64_t some = std::min(wide, M - m0);
        for (int64_t c = 0; c < share; ++c)
            for (int64_t tap = 0; tap < taps; ++tap) {
                const float *w = W + ((g * M + m0) * share + c) * taps + tap;
                if (narrow) {
                    char *pairs = block + 4 * (tap * k + c / 2) * wide + 2 * (c % 2);
                    for (int64_t m = 0; m < some; ++m) {
                        const uint16_t half = rounded_bf16(w[m * share * taps]);
                        std::memcpy(pairs + 4 * m, &half, 2);
                    }
                } else {
                    char *row = block + 4 * (tap * k + c) * wide;
                    for (int64_t m = 0; m < some; ++m)
                        std::memcpy(row + 4 * m, w + m * share * taps, 4);
                }
            }
    });
}

// The output pixels of a step as rows of equal length, and where each row begins in x, y and z.
struct Rows {
    int64_t count, width;
    int64_t x_step, y_step, z_step; // from pixel to pixel, in elements
    const Step &s;
    bool flat;

    // A matrix, or a picture in which one pixel follows the next: one long row.
    explicit Rows(const Step &step) : s(step) {
        const bool simple = s.kh == 1 && s.kw == 1 && s.sh == 1 && s.sw == 1 && !s.top && !s.left;
        flat = simple && follows(s.x) && follows(s.y) && (s.z.where == NOWHERE || follows(s.z));
        if (flat) {
            count = 1;
            width = s.y.n * s.y.h * s.y.w;
            x_step = apart(s.x);
            y_step = apart(s.y);
            z_step = s.z.where == NOWHERE ? 0 : apart(s.z);
        } else {
            count = s.y.n * s.y.h;
            width = s.y.w;
            x_step = s.sw * s.x.pixel;
            y_step = s.y.pixel;
            z_step = s.z.pixel;
        }
    }

    static bool follows(const View &v) {
        if (v.h == 1 && v.w == 1) return true;
        return (v.h == 1 || v.row == v.w * v.pixel) && (v.n == 1 || v.image == v.h * v.w * v.pixel);
    }
    static int64_t apart(const View &v) { return v.h == 1 && v.w == 1 ? v.image : v.pixel; }

    int64_t at_x(int64_t row) const { return at(s.x, row, s.sh); }
    int64_t at_y(int64_t row) const { return at(s.y, row, 1); }
    int64_t at_z(int64_t row) const { return s.z.where == NOWHERE ? 0 : at(s.z, row, 1); }

  private:
    int64_t at(const View &v, int64_t row, int64_t stride) const {
        return flat ? 0 : row / s.y.h * v.image + row % s.y.h * stride * v.row;
    }
};

// How rows are cut into tiles. Short rows go in pairs: the two halves of a tile.
struct Tiling {
    int64_t per_row, rows, tiles;
    bool pairs;

    explicit Tiling(const Rows &r) {
        pairs = r.count > 1 && 2 * r.width <= ROWS;
        per_row = pairs ? 1 : ceil_div(r.width, ROWS);
        rows = pairs ? ceil_div(r.count, 2) : r.count;
        tiles = rows * per_row;
    }
};

// A group of output blocks, sized so that its weights stay in the cache.
HUBTOOL_INLINE int64_t blocks_together(int64_t blocks, int64_t block_bytes) {
    return std::clamp<int64_t>(L2 / 2 / std::max<int64_t>(block_bytes, 1), 1, blocks);
}

template <class X, class Y> struct Direct {
    const Call &call;
    const Step &s;
    Rows rows;
    Tiling tiling;
    KernelTaps taps;
    int64_t M, share, blocks, products;

    explicit Direct(const Call &c)
        : call(c), s(c.step), rows(s), tiling(rows), taps(taps_of(s)), M(s.y.c / s.groups),
          share(s.x.c / s.groups), blocks(ceil_div(M, BLOCK)), products(taps.count * taps.k) {}

    void run(Pool::Team &team) {
        const int64_t together = blocks_together(blocks, products * BLOCK * 4);
        const int64_t sets = ceil_div(blocks, together) * s.groups;
        const int64_t wanted = ceil_div(8 * team.size(), sets);
        const int64_t chunks = team.size() == 1 ? 1 : std::min(tiling.tiles, wanted);
        team.parallel(sets * chunks, [&](int64_t task, int) {
            const int64_t set = task / chunks, chunk = task % chunks;
            const int64_t per_group = sets / s.groups, g = set / per_group;
            const int64_t first = set % per_group * together;
            const int64_t from = tiling.tiles * chunk / chunks;
            const int64_t to = tiling.tiles * (chunk + 1) / chunks;
            for (int64_t t = from; t < to; ++t)
                each_block(t, g, first, std::min(blocks, first + together));
        });
    }

    void each_block(int64_t t, int64_t g, int64_t first, int64_t last) const {
        Tile<X, Y> args;
        int pixels = place(t, args);
        args.taps = taps.offsets;
        args.count = taps.count;
        args.k = taps.k;
        args.fetch = products >= 16;
        args.act = s.act;
        args.alpha = float(s.a);
        args.beta = float(s.b);
        args.a0 += g * share;
        args.a1 += g * share;
        const Tile<X, Y> base = args;
        const char *weights = static_cast<const char *>(call.weights);
        for (int64_t block = first; block < last; ++block) {
            const int64_t m = block * BLOCK, channel = g * M + m;
            const int vectors = vectors_at(m, M);
            args.b = weights + 4 * (g * round_up(M, LANES) * products
                                    + packed_before(block, M, products));
            args.bias = call.bias ? call.bias + channel : nullptr;
            alignas(64) float own[BLOCK] = {};
            if (call.bias && s.groups > 1) { // the last group's may end with the array
                std::memcpy(own, call.bias + channel, size_t(std::min<int64_t>(BLOCK, M - m)) * 4);
                args.bias = own;
            }
            args.y0 = base.y0 + channel;
            args.y1 = base.y1 + channel;
            if (base.z0) {
                args.z0 = base.z0 + channel;
                args.z1 = base.z1 + channel;
            }
            args.columns = columns(m);
            ask_ahead(args, vectors);
            tile_kernel<X, Y>(pixels, vectors)(args);
        }
    }

    // What of a block is stored: whole vectors, but never beyond the group, nor beyond the
    // channels of an array that is the caller's.
    int64_t columns(int64_t m) const {
        const int64_t left = M - m;
        const bool whole = s.groups == 1 && s.y.pixel >= round_up(s.y.c, 16) && s.y.where == ARENA;
        return std::min<int64_t>(BLOCK, whole ? round_up(left, 16) : left);
    }

    // The pixels of tile t, and how many they are.
    int place(int64_t t, Tile<X, Y> &args) const {
        const X *x = static_cast<const X *>(call.x);
        const Y *z = static_cast<const Y *>(call.z);
        Y *y = static_cast<Y *>(call.y);
        args.step = rows.x_step;
        args.y_step = rows.y_step;
        args.z_step = rows.z_step;
        args.z0 = args.z1 = nullptr;
        if (tiling.pairs) {
            const int64_t row = 2 * t, next = std::min(row + 1, rows.count - 1);
            args.a0 = x + rows.at_x(row);
            args.a1 = x + rows.at_x(next);
            args.y0 = y + rows.at_y(row);
            args.y1 = y + rows.at_y(next);
            if (z) {
                args.z0 = z + rows.at_z(row);
                args.z1 = z + rows.at_z(next);
            }
            return next == row ? halve(args, rows.width) : int(2 * rows.width);
        }
        const int64_t row = t / tiling.per_row, part = t % tiling.per_row;
        const int64_t from = rows.width * part / tiling.per_row;
        const int64_t to = rows.width * (part + 1) / tiling.per_row;
        args.a0 = x + rows.at_x(row) + from * rows.x_step;
        args.y0 = y + rows.at_y(row) + from * rows.y_step;
        if (z) args.z0 = z + rows.at_z(row) + from * rows.z_step;
        return halve(args, to - from);
    }

    // The second half of the tile follows the first.
    int halve(Tile<X, Y> &args, int64_t pixels) const {
        const int64_t half = (pixels + 1) / 2;
        args.a1 = args.a0 + half * args.step;
        args.y1 = args.y0 + half * args.y_step;
        if (args.z0) args.z1 = args.z0 + half * args.z_step;
        return int(pixels);
    }
};

inline void run_direct(const Call &call, Pool::Team &team) {
    const int64_t x = call.step.x.type, y = call.step.y.type;
    if (x == F32 && y == F32) return Direct<float, float>(call).run(team);
#if defined(__AVX512BF16__)
    if (x == F32 && y == BF16) return Direct<float, bf16>(call).run(team);
    if (x == BF16 && y == F32) return Direct<bf16, float>(call).run(team);
    return Direct<bf16, bf16>(call).run(team);
#endif
}

} // namespace hubtool::HUBTOOL_ISA
