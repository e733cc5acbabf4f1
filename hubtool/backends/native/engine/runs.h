// Views walked over together: runs of elements that lie next to each other in all of them.
//
//   pixel pixel pixel ...   a run is one pixel's channels; where every view has the same stride
//   └──────── row ───────┘  from pixel to pixel, and no gap, a row is one run, then a picture,
//                           then the batch
//
// Views with room behind their channels are run over in whole vectors, padding and all; the
// caller's arrays, which have none, end with a part of a vector. A view may also be spread: stand
// still along some dimensions, or give one number for each run (`number`).
#pragma once

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace hubtool::HUBTOOL_ISA {

constexpr int64_t TASK = 8192; // elements in a task, about

// Whether whole vectors may be read and written at every pixel.
inline bool has_room(const View &view) { return view.pixel >= round_up(view.c, LANES); }

HUBTOOL_INLINE Vec load_some(const bf16 *p, int count) {
    bf16 all[LANES] = {};
    std::memcpy(all, p, size_t(count) * sizeof(bf16));
    return load(all);
}
HUBTOOL_INLINE void store_some(bf16 *p, Vec v, int count) {
    bf16 all[LANES];
    store(all, v);
    std::memcpy(p, all, size_t(count) * sizeof(bf16));
}

// f(element), a float or a bf16: for kernels compiled for each type.
template <class F> HUBTOOL_INLINE void with_type(int64_t type, F &&f) {
    if (type == BF16) f(bf16{});
    else f(float{});
}

// Elements of a known type, and of one that is asked for each time.
template <class T> struct Known {
    T *p;
    Known(void *at, const View &) : p(static_cast<T *>(at)) {}
    HUBTOOL_INLINE Vec get(int64_t i) const { return load(p + i); }
    HUBTOOL_INLINE Vec get_some(int64_t i, int count) const { return load_some(p + i, count); }
    HUBTOOL_INLINE void put(int64_t i, Vec v) const { store(p + i, v); }
    HUBTOOL_INLINE void put_some(int64_t i, Vec v, int count) const { store_some(p + i, v, count); }
};
struct Either {
    void *p;
    bool half;
    Either(void *at, const View &view) : p(at), half(view.type == BF16) {}
    HUBTOOL_INLINE float *wide(int64_t i) const { return static_cast<float *>(p) + i; }
    HUBTOOL_INLINE bf16 *narrow(int64_t i) const { return static_cast<bf16 *>(p) + i; }
    HUBTOOL_INLINE Vec get(int64_t i) const { return half ? load(narrow(i)) : load(wide(i)); }
    HUBTOOL_INLINE Vec get_some(int64_t i, int count) const {
        return half ? load_some(narrow(i), count) : load_some(wide(i), count);
    }
    HUBTOOL_INLINE void put(int64_t i, Vec v) const {
        if (half) store(narrow(i), v);
        else store(wide(i), v);
    }
    HUBTOOL_INLINE void put_some(int64_t i, Vec v, int count) const {
        if (half) store_some(narrow(i), v, count);
        else store_some(wide(i), v, count);
    }
};

template <int VIEWS> struct Runs {
    int64_t length, size[3] = {1, 1, 1}; // of a run; how many there are, innermost first
    int64_t step[VIEWS][3] = {};         // from one to the next, in each view's elements
    bool number[VIEWS] = {};             // a view with one number for each run
};

struct Walked {
    const View *view;
    int64_t pixel, row, image; // zero: the view stands still
    bool number;
    Walked(const View &v) : view(&v), pixel(v.pixel), row(v.row), image(v.image), number(false) {}
    Walked(const View &v, int64_t kind) : Walked(v) {
        if (kind == spread::channels || kind == spread::number) pixel = row = image = 0;
        if (kind == spread::image) pixel = row = 0;
        number = kind == spread::pixels || kind == spread::number;
    }
};

template <int VIEWS> Runs<VIEWS> runs_of(const View &shape, const Walked (&walked)[VIEWS]) {
    Runs<VIEWS> runs;
    bool room = true, padded = true; // to a vector; to 16
    for (const Walked &each : walked) {
        room = room && (each.number || each.view->pixel >= round_up(shape.c, LANES));
        padded = padded && (each.number || each.view->pixel >= round_up(shape.c, 16));
    }
    const int64_t size[3] = {shape.w, shape.h, shape.n};
    runs.length = padded ? round_up(shape.c, 16) : shape.c;
    int dims = 0;
    bool merged = false;
    for (int dim = 0; dim < 3; ++dim) {
        if (size[dim] == 1) continue;
        int64_t step[VIEWS];
        bool close = dims == 0;
        for (int v = 0; v < VIEWS; ++v) {
            const Walked &each = walked[v];
            step[v] = dim == 0 ? each.pixel : dim == 1 ? each.row : each.image;
            close = close && step[v] == (each.number ? 0 : runs.length);
        }
        if (close) {
            runs.length *= size[dim];
            merged = true;
            continue;
        }
        runs.size[dims] = size[dim];
        for (int v = 0; v < VIEWS; ++v) runs.step[v][dims] = step[v];
        ++dims;
    }
    for (int v = 0; v < VIEWS; ++v) runs.number[v] = walked[v].number;
    if (!merged && room) runs.length = round_up(shape.c, LANES);
    return runs;
}

// f(offsets, count) for every run, or part of a long one, shared out among the team.
template <int VIEWS, class F>
void for_runs(Pool::Team &team, const Runs<VIEWS> &runs, F &&f) {
    const int64_t rows = runs.size[1] * runs.size[2], inner = runs.size[0], length = runs.length;
    const int64_t part = length > 2 * TASK ? TASK : length, parts = ceil_div(length, part);
    const int64_t several = std::clamp<int64_t>(TASK / part, 1, inner);
    const int64_t groups = ceil_div(inner, several);
    const int64_t many = groups > 1 ? 1 : std::clamp<int64_t>(TASK / (part * inner), 1, rows);
    const int64_t across = parts * groups;
    team.parallel(ceil_div(rows, many) * across, [&](int64_t task, int) {
        const int64_t from = task / across * many, to = std::min(from + many, rows);
        const int64_t first = task % across / parts * several;
        const int64_t last = std::min(first + several, inner);
        const int64_t begin = task % parts * part, count = std::min(part, length - begin);
        for (int64_t row = from; row < to; ++row) {
            int64_t at[VIEWS];
            for (int v = 0; v < VIEWS; ++v)
                at[v] = first * runs.step[v][0] + row % runs.size[1] * runs.step[v][1] +
                        row / runs.size[1] * runs.step[v][2] + (runs.number[v] ? 0 : begin);
            for (int64_t i = first; i < last; ++i) {
                f(at, count);
                for (int v = 0; v < VIEWS; ++v) at[v] += runs.step[v][0];
            }
        }
    });
}

} // namespace hubtool::HUBTOOL_ISA
