// Winograd's convolutions for 3x3 kernels of stride 1 (Lavin and Gray, https://arxiv.org/abs/1509.09308)
//
//   F(m x m, 3x3):  Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A      per tile, T = m + 2 numbers a side
//
// A tile of m x m outputs costs T² products instead of 9 m²: 2.25 times fewer for m = 2, 4 times for
// m = 4. Over all channels the ⊙ becomes T² matrix products [tiles, C] · [C, M], done by the same
// micro-kernel as the direct convolution:
//
//   x ──Bᵀ d B──▶ V [T²][tiles][C] ──· U [block][T²][C][BLOCK]──▶ [T²][tiles][BLOCK] ──Aᵀ · A──▶ y
//
// Two ways to share the work. By tiles: a task takes some tiles through all three steps, with V its
// own, in the second cache; the weights are read once for each task. By outputs: V of all tiles is
// made first, then a task takes one block of output channels; the weights are read once in all,
// which counts where they are large and the tiles few.
//
// Where x is bfloat16, F(2) multiplies bfloat16 numbers as the direct convolution does: V and U are
// rounded to it, and summed in float32. F(4), which would lose too much, stays with float32.
//
// Error: for float32 and inputs and kernels of one scale, F(2) stays below 2e-6 and F(4) below 2e-5
// of the largest output for the depths met in practice; tests/backends/test_native_error.py holds it
// to that. U is computed in float64 and rounded once.
#pragma once

#include "direct.h"

namespace hubtool::HUBTOOL_ISA {

template <int m> struct Transform;

template <> struct Transform<2> {
    static constexpr int T = 4;
    static constexpr double G[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};

    HUBTOOL_INLINE static void input(const Vec (&d)[4], Vec (&r)[4]) {
        r[0] = d[0] - d[2];
        r[1] = d[1] + d[2];
        r[2] = d[2] - d[1];
        r[3] = d[1] - d[3];
    }
    HUBTOOL_INLINE static void output(const Vec (&t)[4], Vec (&r)[2]) {
        r[0] = t[0] + t[1] + t[2];
        r[1] = t[1] - t[2] - t[3];
    }
};

template <> struct Transform<4> {
    static constexpr int T = 6;
    static constexpr double G[6][3] = {{1. / 4, 0, 0},
                                       {-1. / 6, -1. / 6, -1. / 6},
                                       {-1. / 6, 1. / 6, -1. / 6},
                                       {1. / 24, 1. / 12, 1. / 6},
                                       {1. / 24, -1. / 12, 1. / 6},
                                       {0, 0, 1}};

    HUBTOOL_INLINE static void input(const Vec (&d)[6], Vec (&r)[6]) {
        const Vec even = d[4] - 4.f * d[2], odd = d[3] - 4.f * d[1];
        const Vec near = d[4] - d[2], far = 2.f * (d[3] - d[1]);
        r[0] = 4.f * d[0] - 5.f * d[2] + d[4];
        r[1] = even + odd;
        r[2] = even - odd;
        r[3] = near + far;
        r[4] = near - far;
        r[5] = 4.f * d[1] - 5.f * d[3] + d[5];
    }
    HUBTOOL_INLINE static void output(const Vec (&t)[6], Vec (&r)[4]) {
        const Vec sum = t[1] + t[2], difference = t[1] - t[2];
        const Vec sum2 = t[3] + t[4], difference2 = t[3] - t[4];
        r[0] = t[0] + sum + sum2;
        r[1] = difference + 2.f * difference2;
        r[2] = sum + 4.f * sum2;
        r[3] = difference + 8.f * difference2 + t[5];
    }
};

// From one row of V to the next; rows a power of two apart would meet in the same lines of a cache.
HUBTOOL_INLINE int64_t winograd_stride(int64_t C) {
    const int64_t padded = round_up(C, 16);
    return padded % 256 ? padded : padded + 16;
}

// Whether V and U are bfloat16, in pairs of channels.
template <int m> constexpr bool is_narrow(const Step &s) { return m == 2 && s.x.type == BF16; }

// The products of one position for one output: channels, or pairs of them.
template <int m> int64_t winograd_depth(const Step &s) {
    return is_narrow<m>(s) ? ceil_div(s.x.c, 2) : s.x.c;
}

template <int m> int64_t winograd_packed(const Step &s) {
    constexpr int T = Transform<m>::T;
    return round_up(T * T * winograd_depth<m>(s) * round_up(s.y.c, LANES) * 4, 64);
}

// U = G g Gᵀ of every kernel, as [block][T²][C][BLOCK]; a block's kernels at once, side by side.
template <int m> void winograd_pack(const Step &s, const float *W, void *to, Pool::Team &team) {
    using W_ = Transform<m>;
    constexpr int T = W_::T;
    const int64_t C = s.x.c, M = s.y.c, depth = winograd_depth<m>(s);
    const bool narrow = is_narrow<m>(s);
    float *out = static_cast<float *>(to);
    team.parallel(ceil_div(M, BLOCK), [&](int64_t index, int) {
        const int64_t m0 = index * BLOCK, wide = vectors_at(m0, M) * LANES;
        const int64_t some = std::min(wide, M - m0);
        float *block = out + packed_before(index, M, T * T * depth);
        double g[9][BLOCK] = {}, half[T][3][BLOCK];
        for (int64_t c = 0; c < C; ++c) {
            for (int64_t o = 0; o < some; ++o)
                for (int i = 0; i < 9; ++i) g[i][o] = W[((m0 + o) * C + c) * 9 + i];
            for (int i = 0; i < T; ++i)
                for (int j = 0; j < 3; ++j)
                    for (int o = 0; o < BLOCK; ++o)
                        half[i][j][o] = W_::G[i][0] * g[j][o] + W_::G[i][1] * g[3 + j][o]
                                        + W_::G[i][2] * g[6 + j][o];
            for (int i = 0; i < T; ++i)
                for (int j = 0; j < T; ++j) {
                    float made[BLOCK];
                    for (int o = 0; o < BLOCK; ++o)
                        made[o] = float(half[i][0][o] * W_::G[j][0] + half[i][1][o] * W_::G[j][1]
                                        + half[i][2][o] * W_::G[j][2]);
                    float *u = block + ((i * T + j) * depth + (narrow ? c / 2 : c)) * wide;
                    if (!narrow) {
                        std::memcpy(u, made, size_t(wide) * 4);
                        continue;
                    }
                    for (int64_t o = 0; o < wide; ++o) {
                        const uint16_t bits = rounded_bf16(made[o]);
                        std::memcpy(reinterpret_cast<char *>(u + o) + c % 2 * 2, &bits, 2);
                    }
                }
        }
    });
}

enum WinogradVariant : int64_t { BY_SIZE, BY_TILES, BY_MORE_TILES, BY_OUTPUTS };

// E: the elements of V and U.
template <class X, class Y, int m, class E> struct Winograd {
    static constexpr int T = Transform<m>::T;
    const Call &call;
    const Step &s;
    int64_t down, across, tiles; // of one image; of all
    int64_t C, depth, M, blocks, v_row, together;
    bool by_outputs;

    static int64_t tiles_of(const Step &s) {
        return s.y.n * ceil_div(s.y.h, m) * ceil_div(s.y.w, m);
    }

    // By outputs where the weights outgrow the cache and the tiles are few.
    static bool is_by_outputs(const Step &s) {
        if (s.variant != BY_SIZE) return s.variant == BY_OUTPUTS;
        return winograd_packed<m>(s) > 2 * L2 && tiles_of(s) <= 8 * ROWS;
    }

    // The tiles that go through the steps together.
    static int64_t tiles_together(const Step &s) {
        const int64_t all = tiles_of(s);
        if (is_by_outputs(s)) return std::min<int64_t>(all, 8 * ROWS);
        const int64_t wanted = s.variant == BY_MORE_TILES ? 2 * ROWS : ROWS;
        return ceil_div(all, ceil_div(all, wanted));
    }

    static int64_t products_floats(const Step &s) { return T * T * tiles_together(s) * BLOCK; }
    static int64_t v_floats(const Step &s) {
        return T * T * tiles_together(s) * winograd_stride(s.x.c);
    }

    explicit Winograd(const Call &c)
        : call(c), s(c.step), down(ceil_div(s.y.h, m)), across(ceil_div(s.y.w, m)),
          tiles(tiles_of(s)), C(s.x.c), depth(winograd_depth<m>(s)), M(s.y.c), blocks(ceil_div(M, BLOCK)),
          v_row(winograd_stride(C)), together(tiles_together(s)), by_outputs(is_by_outputs(s)) {}

    void run(Pool::Team &team) {
        const int64_t sets = ceil_div(tiles, together);
        auto from = [&](int64_t set) { return tiles * set / sets; };
        if (!by_outputs) {
            team.parallel(sets, [&](int64_t set, int worker) {
                float *P = own(worker);
                E *V = reinterpret_cast<E *>(P + products_floats(s));
                const int64_t first = from(set), count = from(set + 1) - first;
                for (int64_t t = 0; t < count; ++t) transform_input(first + t, V + t * v_row, count, 0, C);
                for (int64_t block = 0; block < blocks; ++block) one_block(block, first, count, V, P);
            });
            return;
        }
        E *V = reinterpret_cast<E *>(own(0) + products_floats(s));
        for (int64_t set = 0; set < sets; ++set) {
            const int64_t first = from(set), count = from(set + 1) - first;
            const int64_t slices = ceil_div(C, 4 * LANES);
            team.parallel(count * slices, [&](int64_t task, int) {
                const int64_t t = task / slices, c = task % slices * 4 * LANES;
                transform_input(first + t, V + t * v_row, count, c, std::min(C, c + 4 * LANES));
            });
            team.parallel(blocks, [&](int64_t block, int worker) {
                one_block(block, first, count, V, own(worker));
            });
        }
    }

  private:
    // By outputs, V belongs to all workers and lies behind what each has of its own.
    float *own(int worker) const {
        return reinterpret_cast<float *>(call.scratch + worker * call.scratch_each);
    }

    struct Place {
        int64_t n, y, x; // of a tile's first output
    };
    Place place(int64_t tile) const {
        const int64_t each = down * across;
        return {tile / each, tile % each / across * m, tile % across * m};
    }

    // V[.][t][from..to) of one tile; v is at row t of position 0.
    void transform_input(int64_t tile, E *v, int64_t count, int64_t from, int64_t to) const {
        const Place at = place(tile);
        const X *x = static_cast<const X *>(call.x) + at.n * s.x.image
                     + (at.y - s.top) * s.x.row + (at.x - s.left) * s.x.pixel;
        // Beyond the halo there is nothing: those rows and columns count as zeros.
        const int64_t rows = std::min<int64_t>(T, s.x.h + s.x.bottom + s.top - at.y);
        const int64_t columns = std::min<int64_t>(T, s.x.w + s.x.right + s.left - at.x);
        const int64_t plane = count * v_row;
        for (int64_t c = from; c < to; c += LANES) {
            if (rows == T && columns == T) one_input<true>(x + c, v + c, plane, rows, columns);
            else one_input<false>(x + c, v + c, plane, rows, columns);
        }
    }

    template <bool WHOLE>
    void one_input(const X *x, E *v, int64_t plane, int64_t rows, int64_t columns) const {
        Vec half[T][T];
#pragma GCC unroll 6
        for (int j = 0; j < T; ++j) {
            Vec d[T], r[T];
#pragma GCC unroll 6
            for (int i = 0; i < T; ++i) {
                const bool there = WHOLE || (i < rows && j < columns);
                d[i] = there ? load(x + i * s.x.row + j * s.x.pixel) : Vec{};
            }
            Transform<m>::input(d, r);
#pragma GCC unroll 6
            for (int i = 0; i < T; ++i) half[i][j] = r[i];
        }
#pragma GCC unroll 6
        for (int i = 0; i < T; ++i) {
            Vec r[T];
            Transform<m>::input(half[i], r);
#pragma GCC unroll 6
            for (int j = 0; j < T; ++j) store(v + (i * T + j) * plane, r[j]);
        }
    }

    // The products of one block of output channels, and their way to y.
    void one_block(int64_t block, int64_t first, int64_t count, const E *V, float *P) const {
        const int64_t m0 = block * BLOCK;
        const int vectors = vectors_at(m0, M);
        const int64_t wide = vectors * LANES, zero = 0;
        const float *U = static_cast<const float *>(call.weights) + packed_before(block, M, T * T * depth);
        const int64_t parts = ceil_div(count, ROWS);
        Tile<E, float> t{};
        t.step = v_row;
        t.taps = &zero;
        t.count = 1;
        t.k = depth;
        t.y_step = wide;
        t.columns = wide;
        t.act = act::none;
        for (int position = 0; position < T * T; ++position) {
            t.b = U + position * depth * wide;
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t from = count * part / parts, rows = count * (part + 1) / parts - from;
                const int64_t half = (rows + 1) / 2;
                t.a0 = V + (position * count + from) * v_row;
                t.a1 = t.a0 + half * v_row;
                ask_ahead(t, vectors, U + (position + 1) * depth * wide, part, parts);
                t.y0 = P + (position * count + from) * wide;
                t.y1 = t.y0 + half * wide;
                tile_kernel<E, float>(int(rows), vectors)(t);
            }
        }
        for (int64_t i = 0; i < count; ++i)
            for (int v = 0; v < vectors; ++v)
                transform_output(first + i, m0 + v * LANES, P + i * wide + v * LANES, count * wide);
    }

    void transform_output(int64_t tile, int64_t channel, const float *p, int64_t plane) const {
        const Place at = place(tile);
        Vec half[m][T];
#pragma GCC unroll 6
        for (int j = 0; j < T; ++j) {
            Vec t[T], r[m];
#pragma GCC unroll 6
            for (int i = 0; i < T; ++i) t[i] = load(p + (i * T + j) * plane);
            Transform<m>::output(t, r);
#pragma GCC unroll 4
            for (int i = 0; i < m; ++i) half[i][j] = r[i];
        }
        const Vec bias = call.bias ? load(call.bias + channel) : Vec{};
        const int64_t rows = std::min<int64_t>(m, s.y.h - at.y);
        const int64_t columns = std::min<int64_t>(m, s.y.w - at.x);
        Y *y = static_cast<Y *>(call.y) + at.n * s.y.image + at.y * s.y.row + at.x * s.y.pixel + channel;
        const Y *z = call.z ? static_cast<const Y *>(call.z) + at.n * s.z.image + at.y * s.z.row
                                  + at.x * s.z.pixel + channel
                            : nullptr;
#pragma GCC unroll 4
        for (int i = 0; i < m; ++i) {
            if (i >= rows) break;
            Vec r[m];
            Transform<m>::output(half[i], r);
#pragma GCC unroll 4
            for (int j = 0; j < m; ++j) {
                if (j >= columns) break;
                Vec value = r[j] + bias;
                if (z) value += load(z + i * s.z.row + j * s.z.pixel);
                store(y + i * s.y.row + j * s.y.pixel,
                      activate(value, s.act, float(s.a), float(s.b)));
            }
        }
    }
};

// Bytes for each worker; by outputs the shared V is spread over them.
template <int m> int64_t winograd_scratch(const Step &s) {
    using Any = Winograd<float, float, m, float>;
    return round_up((Any::products_floats(s) + Any::v_floats(s)) * 4, 64);
}

template <int m> void run_winograd(const Call &call, Pool::Team &team) {
    const int64_t x = call.step.x.type, y = call.step.y.type;
    if (x == F32 && y == F32) return Winograd<float, float, m, float>(call).run(team);
#if defined(__AVX512BF16__)
    using E = std::conditional_t<m == 2, bf16, float>;
    if (x == F32 && y == BF16) return Winograd<float, bf16, m, float>(call).run(team);
    if (x == BF16 && y == F32) return Winograd<bf16, float, m, E>(call).run(team);
    return Winograd<bf16, bf16, m, E>(call).run(team);
#endif
}

// What F(m x m, 3x3) can do: the channels of x and y in whole vectors, as the arena has them.
inline bool winograd_fits(const Step &s) {
    const bool plain = s.kh == 3 && s.kw == 3 && s.sh == 1 && s.sw == 1 && s.dh == 1 && s.dw == 1;
    const bool pairs = s.x.type == F32 || s.x.c % 2 == 0;
    return plain && pairs && s.groups == 1 && s.x.pixel % 16 == 0 && s.y.pixel % 16 == 0;
}

} // namespace hubtool::HUBTOOL_ISA
