// Over the channels of each pixel: softmax and local response normalization.
#pragma once

#include <vector>

#include "activation.h"
#include "runs.h"

namespace hubtool::HUBTOOL_ISA {

// f(x offset, y offset, worker) for every pixel, in tasks of about TASK elements.
template <class F>
void for_every_pixel(Pool::Team &team, const View &x, const View &y, F &&f) {
    const int64_t rows = y.n * y.h, each = std::max<int64_t>(1, TASK / y.c);
    const int64_t some = std::min(each, y.w), groups = ceil_div(y.w, some);
    const int64_t many = groups > 1 ? 1 : std::clamp<int64_t>(each / y.w, 1, rows);
    team.parallel(ceil_div(rows, many) * groups, [&](int64_t task, int worker) {
        const int64_t from = task / groups * many, first = task % groups * some;
        for (int64_t row = from; row < std::min(from + many, rows); ++row) {
            const int64_t n = row / y.h, h = row % y.h;
            for (int64_t w = first; w < std::min(first + some, y.w); ++w)
                f(n * x.image + h * x.row + w * x.pixel, n * y.image + h * y.row + w * y.pixel,
                  worker);
        }
    });
}

HUBTOOL_INLINE Vec first_lanes(Vec v, int count, float rest) { // the rest of the vector: `rest`
    Int lane;
    for (int i = 0; i < LANES; ++i) lane[i] = i;
    return choose(lane < count, v, splat(rest));
}
HUBTOOL_INLINE float sum_of(Vec v) {
    float all[LANES];
    store(all, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) all[i] += all[i + half];
    return all[0];
}

// A row of channels, whole vectors first: f(c, LANES), and f(c, count) for what is left.
template <class F> HUBTOOL_INLINE void for_channels(int64_t channels, F &&f) {
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES) f(c, LANES);
    if (c < channels) f(c, int(channels - c));
}

// softmax: e^(x - m) / s, m the largest and s the sum of them; its logarithm: x - m - log s.
inline void run_softmax(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    const Either x(call.x, step.x), y(call.y, step.y);
    const float least = -std::numeric_limits<float>::infinity();
    const int64_t channels = step.y.c;
    const bool logarithm = step.op == 1, keep = step.y.type == F32 && !logarithm;
    for_every_pixel(team, step.x, step.y, [&](int64_t from, int64_t to, int) {
        auto get = [&](const Either &view, int64_t i, int count) {
            if (count == LANES) return view.get(i);
            return first_lanes(view.get_some(i, count), count, least);
        };
        auto put = [&](int64_t i, Vec v, int count) {
            if (count == LANES) y.put(i, v);
            else y.put_some(i, v, count);
        };
        Vec largest = splat(least), total = {};
        for_channels(channels, [&](int64_t c, int count) {
            largest = at_least(largest, get(x, from + c, count));
        });
        float most = least;
        for (int i = 0; i < LANES; ++i) most = largest[i] > most ? largest[i] : most;
        for_channels(channels, [&](int64_t c, int count) {
            const Vec e = exponential(get(x, from + c, count) - most);
            if (keep) put(to + c, e, count);
            total += e;
        });
        const float sum = sum_of(total), shift = logarithm ? std::log(sum) : 0.0f;
        for_channels(channels, [&](int64_t c, int count) {
            if (keep) return put(to + c, get(y, to + c, count) / sum, count);
            const Vec v = get(x, from + c, count) - most;
            put(to + c, logarithm ? v - shift : exponential(v) / sum, count);
        });
    });
}

// v^-beta, v > 0.
inline Vec power_below(Vec v, float beta) {
    if (beta == 0.5f) return 1.0f / square_root(v);
    if (beta == 0.75f) {
        const Vec root = square_root(v);
        return 1.0f / (root * square_root(root));
    }
    if (beta == 1.0f) return 1.0f / v;
    for (int i = 0; i < LANES; ++i) v[i] = std::pow(v[i], -beta);
    return v;
}

// y[c] = x[c] / (d + a / size · Σ x²)^b, over the `size` channels around c, (size - 1) / 2 of them
// before it. The squares stand in a row of their own, with zeros on both sides.
inline void run_lrn(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    const Either x(call.x, step.x), y(call.y, step.y);
    const int64_t channels = step.y.c, size = step.kh, before = (size - 1) / 2;
    const float alpha = float(step.a / double(size)), beta = float(step.b), bias = float(step.d);
    const int64_t length = size + round_up(channels, LANES) + LANES;
    std::vector<float> rows(size_t(team.size() * length));
    for_every_pixel(team, step.x, step.y, [&](int64_t from, int64_t to, int worker) {
        float *squares = rows.data() + worker * length + before;
        auto get = [&](int64_t c, int count) {
            return count == LANES ? x.get(from + c) : x.get_some(from + c, count);
        };
        for_channels(channels, [&](int64_t c, int count) {
            const Vec v = get(c, count);
            store(squares + c, v * v);
        });
        for_channels(channels, [&](int64_t c, int count) {
            Vec sum = {};
            for (int64_t j = 0; j < size; ++j) sum += load(squares - before + c + j);
            const Vec result = get(c, count) * power_below(bias + alpha * sum, beta);
            if (count == LANES) y.put(to + c, result);
            else y.put_some(to + c, result, count);
        });
    });
}

} // namespace hubtool::HUBTOOL_ISA
