// One element at a time: binary, affine, unary and copy. All are bound by memory, so their loops
// are plain; what matters is that they run over long runs (runs.h) in whole vectors.
#pragma once

#include "activation.h"
#include "runs.h"

namespace hubtool::HUBTOOL_ISA {

// f(simple): whether the activation is free of branches, as a constant.
template <class F> HUBTOOL_INLINE void with_activation(const Activation &activation, F &&f) {
    if (activation.simple()) f(std::true_type{});
    else f(std::false_type{});
}

// y[i] = f(i), whole vectors first; f(i, count) is asked for the part that is left.
template <class Y, class F> HUBTOOL_INLINE void fill(const Y &y, int64_t at, int64_t count, F &&f) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) y.put(at + i, f(i, LANES));
    if (i < count) y.put_some(at + i, f(i, int(count - i)), int(count - i));
}
// As many elements as `count` says; a whole vector where that is known when compiled.
template <class X> HUBTOOL_INLINE Vec take(const X &x, int64_t i, int count) {
    return count == LANES ? x.get(i) : x.get_some(i, count);
}

template <int64_t OP> HUBTOOL_INLINE Vec combine(Vec x, Vec z) {
    if constexpr (OP == binary::add) return x + z;
    if constexpr (OP == binary::sub) return x - z;
    if constexpr (OP == binary::mul) return x * z;
    if constexpr (OP == binary::div) return x / z;
    if constexpr (OP == binary::max) return maximum(x, z);
    return minimum(x, z);
}

template <class E, int64_t OP> void run_binary_as(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    const Activation activation(step);
    const E x(call.x, step.x), y(call.y, step.y), z(call.z, step.z);
    const auto runs = runs_of<3>(step.y, {step.x, step.y, {step.z, step.spread}});
    const bool number = runs.number[2], flip = step.flip;
    with_activation(activation, [&](auto simple) {
        for_runs(team, runs, [&](const int64_t (&at)[3], int64_t count) {
            auto result = [&](Vec a, Vec b) {
                return activation.template apply<simple>(flip ? combine<OP>(b, a)
                                                              : combine<OP>(a, b));
            };
            if (number) {
                const Vec all = splat(z.get_some(at[2], 1)[0]);
                fill(y, at[1], count, [&](int64_t i, int some) {
                    return result(take(x, at[0] + i, some), all);
                });
            } else {
                fill(y, at[1], count, [&](int64_t i, int some) {
                    return result(take(x, at[0] + i, some), take(z, at[2] + i, some));
                });
            }
        });
    });
}

template <class E> void run_binary_of(const Call &call, Pool::Team &team) {
    switch (call.step.op) {
#define HUBTOOL_CASE(name)                                                                        \
    case binary::name: return run_binary_as<E, binary::name>(call, team);
        HUBTOOL_BINARIES(HUBTOOL_CASE)
#undef HUBTOOL_CASE
    }
}

inline void run_binary(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    const bool alike = step.x.type == step.y.type && step.z.type == step.y.type;
    if (!alike) run_binary_of<Either>(call, team);
    else if (step.y.type == BF16) run_binary_of<Known<bf16>>(call, team);
    else run_binary_of<Known<float>>(call, team);
}

// scale and shift lie in the weights, padded: whole vectors can be read.
template <class E> void run_affine_as(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    const Activation activation(step);
    const E x(call.x, step.x), y(call.y, step.y);
    const float *scale = static_cast<const float *>(call.weights), *shift = call.bias;
    View row = step.y; // of channels
    row.pixel = round_up(row.c, 16);
    const auto runs = runs_of<3>(step.y, {step.x, step.y, {row, spread::channels}});
    with_activation(activation, [&](auto simple) {
        for_runs(team, runs, [&](const int64_t (&at)[3], int64_t count) {
            fill(y, at[1], count, [&](int64_t i, int some) {
                const Vec v = take(x, at[0] + i, some), by = load(scale + at[2] + i);
                const Vec sum = shift ? v * by + load(shift + at[2] + i) : v * by;
                return activation.template apply<simple>(sum);
            });
        });
    });
}
inline void run_affine(const Call &call, Pool::Team &team) {
    if (call.step.x.type == F32 && call.step.y.type == F32) run_affine_as<Known<float>>(call, team);
    else run_affine_as<Either>(call, team);
}

template <int64_t ACT> void run_unary_as(const Call &call, Pool::Team &team) {
    const Step &step = call.step;
    const Either x(call.x, step.x), y(call.y, step.y);
    const float a = float(step.a), b = float(step.b);
    const auto runs = runs_of<2>(step.y, {step.x, step.y});
    for_runs(team, runs, [&](const int64_t (&at)[2], int64_t count) {
        fill(y, at[1], count, [&](int64_t i, int some) {
            return activate_as<ACT>(take(x, at[0] + i, some), a, b);
        });
    });
}
inline void run_unary(const Call &call, Pool::Team &team) {
    switch (call.step.act) {
#define HUBTOOL_CASE(name)                                                                        \
    case act::name: return run_unary_as<act::name>(call, team);
        HUBTOOL_ACTIVATIONS(HUBTOOL_CASE)
#undef HUBTOOL_CASE
    }
}

inline void run_copy(const Call &call, Pool::Team &team) { run_unary_as<act::none>(call, team); }

} // namespace hubtool::HUBTOOL_ISA
