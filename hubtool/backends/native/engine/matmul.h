// y[m, n] = act(x[m, k] · z[k, n] + b), where both factors are computed: z is packed at each run.
//
// Where n is large, z becomes the blocks that the micro-kernel reads, and x's rows are its pixels.
// Where n is small (a skinny product), lanes along n would stand empty: there lanes run along k,
//
//   y[m, n] = Σ over lanes of  Σₖ x[m, k…] * zᵀ[n, k…]
//
// with zᵀ in the first caches, and x asked of memory well ahead.
#pragma once

#include "direct.h"

namespace hubtool::HUBTOOL_ISA {

constexpr int64_t SKINNY = 12;                     // columns of a skinny product, at most
constexpr int ROWS_TOGETHER = LANES == 16 ? 4 : 2; // rows times columns are held as accumulators;
constexpr int COLUMNS_TOGETHER = 6;                // each row is gone through twice, if need be

HUBTOOL_INLINE bool is_skinny(const Step &s) { return s.y.c <= SKINNY && s.x.c >= 4 * LANES; }

HUBTOOL_INLINE float sum(Vec v) {
    typedef float Four __attribute__((vector_size(16)));
    Four parts[LANES / 4];
    std::memcpy(parts, &v, sizeof v);
    for (int half = LANES / 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

// Kept in a register, where the compiler would rather fetch it for each use.
HUBTOOL_INLINE Vec once(Vec v) {
#if defined(__AVX2__)
    asm("" : "+v"(v));
#endif
    return v;
}

// R rows times the columns of N from `first` on, C of them, K numbers each; zᵀ lies as
// [k / LANES][N][LANES], and ends in zeros. Meanwhile rows [FROM, TO) of those after the next are
// asked of memory, for the second cache.
template <int R, int C, int FROM, int TO>
HUBTOOL_INLINE void skinny(const float *x, int64_t x_row, const float *zt, int64_t K, int64_t N,
                           int64_t first, float (*y)[SKINNY]) {
    constexpr int AHEAD = 2 * ROWS_TOGETHER;
    Vec acc[R][C] = {};
    auto add = [&](auto part, int64_t k) {
        Vec a[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            a[r] = part(x + r * x_row + k);
            if (r >= FROM && r < TO) __builtin_prefetch(x + (r + AHEAD) * x_row + k, 0, 2);
        }
#pragma GCC unroll 6
        for (int c = 0; c < C; ++c) {
            const Vec b = once(load(zt + k * N + (first + c) * LANES));
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) acc[r][c] += a[r] * b;
        }
    };
    int64_t k = 0;
    for (; k + LANES <= K; k += LANES) add([](const float *p) { return load(p); }, k);
    if (k < K) add([&](const float *p) { return load_some(p, int(K - k)); }, k);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) y[r][first + c] = sum(acc[r][c]);
}

template <int N>
void skinny_rows(const Call &call, const float *x, const float *zt, float *y, int64_t from,
                 int64_t to) {
    constexpr int FIRST = N <= COLUMNS_TOGETHER ? N : (N + 1) / 2, REST = N - FIRST;
    const Step &s = call.step;
    const int64_t row = s.x.pixel, K = s.x.c;
    float made[ROWS_TOGETHER][SKINNY];
    auto some_rows = [&](auto count, const float *at) {
        constexpr int R = decltype(count)::value;
        constexpr int SHARE = REST > 0 ? R / 2 : R; // memory is asked evenly all the time
        skinny<R, FIRST, 0, SHARE>(at, row, zt, K, N, 0, made);
        if constexpr (REST > 0) skinny<R, REST, SHARE, R>(at, row, zt, K, N, FIRST, made);
    };
    for (int64_t m = from; m < to;) {
        const int64_t rows = to - m >= ROWS_TOGETHER ? ROWS_TOGETHER : 1;
        if (rows == 1) some_rows(std::integral_constant<int, 1>{}, x + m * row);
        else some_rows(std::integral_constant<int, ROWS_TOGETHER>{}, x + m * row);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t n = 0; n < N; n += LANES) {
                const int some = int(std::min<int64_t>(LANES, N - n));
                Vec v = load_some(made[r] + n, some);
                if (call.bias) v += load_some(call.bias + n, some);
                v = activate(v, s.act, float(s.a), float(s.b));
                store_some(y + (m + r) * s.y.pixel + n, v, some);
            }
        m += rows;
    }
}

template <int N = 1>
void skinny_of(int64_t columns, const Call &call, const float *x, const float *zt, float *y,
               int64_t from, int64_t to) {
    if constexpr (N <= SKINNY) {
        if (columns == N) return skinny_rows<N>(call, x, zt, y, from, to);
        skinny_of<N + 1>(columns, call, x, zt, y, from, to);
    }
}

// Floats of one matrix z, packed.
inline int64_t matmul_packed(const Step &s) {
    if (is_skinny(s)) return s.y.c * round_up(s.x.c, LANES);
    return s.x.c * round_up(s.y.c, LANES);
}

inline int64_t matmul_scratch(const Step &s) { return round_up(matmul_packed(s) * 4, 64); }

// Blocks [first, last) of z as the micro-kernel reads them.
inline void matmul_pack(const Step &s, const float *z, float *to, int64_t first, int64_t last) {
    const int64_t K = s.x.c, N = s.y.c;
    for (int64_t block = first; block < last; ++block) {
        const int64_t n = block * BLOCK, wide = vectors_at(n, N) * LANES;
        float *out = to + packed_before(block, N, K);
        const int64_t some = std::min(wide, N - n);
        for (int64_t k = 0; k < K; ++k) {
            std::memcpy(out + k * wide, z + k * s.z.pixel + n, size_t(some) * 4);
            if (some < wide) std::memset(out + k * wide + some, 0, size_t(wide - some) * 4);
        }
    }
}

struct Product {
    const Call &call;
    const Step &s;
    const float *x, *zp;
    float *y;

    void rows(int64_t from, int64_t to) const {
        if (is_skinny(s)) {
            skinny_of(s.y.c, call, x, zp, y, from, to);
            return;
        }
        const int64_t N = s.y.c, blocks = ceil_div(N, BLOCK), zero = 0;
        const int64_t together = blocks_together(blocks, s.x.c * BLOCK * 4);
        const int64_t tiles = ceil_div(to - from, ROWS);
        const bool whole = s.y.where == ARENA && s.y.pixel >= round_up(N, 16);
        Tile<float, float> t{};
        t.step = s.x.pixel;
        t.taps = &zero;
        t.count = 1;
        t.k = s.x.c;
        t.y_step = s.y.pixel;
        t.act = s.act;
        t.alpha = float(s.a);
        t.beta = float(s.b);
        for (int64_t first = 0; first < blocks; first += together)
            for (int64_t i = 0; i < tiles; ++i) {
                const int64_t row = from + (to - from) * i / tiles;
                const int64_t count = from + (to - from) * (i + 1) / tiles - row;
                const int64_t half = (count + 1) / 2;
                t.a0 = x + row * t.step;
                t.a1 = t.a0 + half * t.step;
                for (int64_t block = first; block < std::min(blocks, first + together); ++block) {
                    const int64_t n = block * BLOCK;
                    const int vectors = vectors_at(n, N);
                    t.b = zp + packed_before(block, N, s.x.c);
                    t.bias = call.bias ? call.bias + n : nullptr;
                    t.y0 = y + row * t.y_step + n;
                    t.y1 = t.y0 + half * t.y_step;
                    ask_ahead(t, vectors);
                    t.columns = std::min<int64_t>(BLOCK, whole ? round_up(N - n, 16) : N - n);
                    tile_kernel<float, float>(int(count), vectors)(t);
                }
            }
    }
};

inline void matmul_pack_skinny(const Step &s, const float *z, float *to) {
    const int64_t K = s.x.c, N = s.y.c;
    for (int64_t k = 0; k < round_up(K, LANES); ++k)
        for (int64_t n = 0; n < N; ++n)
            to[k / LANES * LANES * N + n * LANES + k % LANES] = k < K ? z[k * s.z.pixel + n] : 0.f;
}

inline void run_matmul(const Call &call, Pool::Team &team) {
    const Step &s = call.step;
    const float *x = static_cast<const float *>(call.x), *z = static_cast<const float *>(call.z);
    float *y = static_cast<float *>(call.y);
    const int64_t blocks = ceil_div(s.y.c, BLOCK), M = s.y.w;
    auto own = [&](int worker) {
        return reinterpret_cast<float *>(call.scratch + worker * call.scratch_each);
    };
    auto pack = [&](const float *from, float *to) {
        if (is_skinny(s)) matmul_pack_skinny(s, from, to);
        else matmul_pack(s, from, to, 0, blocks);
    };
    if (s.y.n >= 4 * team.size()) { // many products: each by one worker
        team.parallel(s.y.n, [&](int64_t n, int worker) {
            float *zp = own(worker);
            pack(z + (s.z.n == 1 ? 0 : n * s.z.image), zp);
            Product{call, s, x + (s.x.n == 1 ? 0 : n * s.x.image), zp, y + n * s.y.image}.rows(0, M);
        });
        return;
    }
    for (int64_t n = 0; n < s.y.n; ++n) { // few: each by all
        const float *from = z + (s.z.n == 1 ? 0 : n * s.z.image);
        if (n == 0 || s.z.n != 1) {
            if (is_skinny(s)) pack(from, own(0));
            else team.parallel(blocks, [&](int64_t b, int) { matmul_pack(s, from, own(0), b, b + 1); });
        }
        const Product product{call, s, x + (s.x.n == 1 ? 0 : n * s.x.image), own(0),
                              y + n * s.y.image};
        const int64_t chunks = std::min(ceil_div(M, ROWS), int64_t(8 * team.size()));
        team.parallel(chunks, [&](int64_t c, int) {
            product.rows(M * c / chunks, M * (c + 1) / chunks);
        });
    }
}

} // namespace hubtool::HUBTOOL_ISA
