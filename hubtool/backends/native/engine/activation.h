// Activations of a vector, as numpy computes them in float32: to a few units in the last place,
// with NaN in, NaN out, and infinities where they belong.
//
// The cheap ones (none, relu, clip, leaky_relu) are a handful of instructions in the kernel's own
// loop; the others lie behind one call. They all stand on eᵗ - 1 = t + t² P(t) for |t| <= ln 2 / 2,
// and so are free of cancellation:
//
//   eˣ = 2ⁿ (1 + expm1(t)),  x = n ln 2 + t      tanh x = m / (m + 2),         m = expm1(2x)
//   mish x = x m / (m + 2),  m = eˣ (eˣ + 2)     log1p u = 2 s + s³ L(s²),     s = u / (u + 2)
//   erf x = x E(x²), near 0        erfc x = e^(-x²) C(s), x > 0,     s = (x - 3) / (x + 3)
//
// where P, L, E and C are polynomials of least relative error.
#pragma once

#include "plan.h"
#include "simd.h"

namespace hubtool::HUBTOOL_ISA {

// One max or min instruction each, and a NaN in `v` goes through. (Where `low` is a constant zero,
// GCC makes three of the ternary; its unmasked AVX-512 intrinsics warn of their own innards.)
HUBTOOL_INLINE Vec at_least(Vec low, Vec v) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)low, (__m512)v);
#elif defined(__AVX2__)
    return (Vec)_mm256_max_ps((__m256)low, (__m256)v);
#else
    return low > v ? low : v;
#endif
}
HUBTOOL_INLINE Vec at_most(Vec high, Vec v) { return high < v ? high : v; }

HUBTOOL_INLINE Vec absolute(Vec v) { return (Vec)((Bits)v & 0x7fffffffu); }
HUBTOOL_INLINE Vec with_sign_of(Vec sign, Vec v) { // v >= 0
    return (Vec)((Bits)v | ((Bits)sign & 0x80000000u));
}

HUBTOOL_INLINE Vec square_root(Vec v) {
    for (int i = 0; i < LANES; ++i) v[i] = std::sqrt(v[i]);
    return v;
}

// x + beyond = n ln 2 + t, and expm1(t); for -150 <= n <= 130.
struct Reduced {
    Vec n, tail;
    Bits power; // n, as an integer
};
HUBTOOL_INLINE Reduced reduce(Vec x, Vec beyond) {
    const float round = 12582912.0f; // 1.5 · 2²³: what is added to it loses its fraction
    Vec shifted = x * 1.44269504f + round;
    Vec n = shifted - round;
    Vec t = x - n * 0.693359375f; // exact: ln 2 in 9 bits, and what it lacks
    t = t + n * 2.12194440e-4f + beyond;
    Vec p = t * 0.00139553519f + 0.00837169588f;
    p = p * t + 0.0416661315f;
    p = p * t + 0.166664943f;
    p = p * t + 0.5f;
    return {n, p * (t * t) + t, (Bits)shifted - 0x4b400000u};
}
HUBTOOL_INLINE Vec power_of_two(Bits n) { return (Vec)((n + 127u) << 23); } // -126 <= n <= 127

// e^(x + beyond), where beyond is small.
HUBTOOL_INLINE Vec exponential(Vec x, Vec beyond = Vec{}) {
    Reduced r = reduce(at_most(splat(89.5f), at_least(splat(-104.5f), x)), beyond);
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)(r.tail + 1.0f), (__m512)r.n);
#else
    Bits half = (Bits)((Int)r.power >> 1); // in two steps, for what is subnormal or overflows
    return (r.tail + 1.0f) * power_of_two(half) * power_of_two(r.power - half);
#endif
}
HUBTOOL_INLINE Vec exponential_minus_one(Vec x) { // -80 <= x <= 80
    Reduced r = reduce(x, Vec{});
    Vec power = power_of_two(r.power);
    return power * r.tail + (power - 1.0f);
}
HUBTOOL_INLINE Vec logarithm_of_one_more(Vec u) { // log(1 + u), 0 <= u <= 1
    Vec s = u / (u + 2.0f), q = s * s;
    Vec p = q * 0.243009388f + 0.214276567f;
    p = p * q + 0.286168844f;
    p = p * q + 0.39998877f;
    p = p * q + 0.666666746f;
    return 2.0f * s + s * q * p;
}
HUBTOOL_INLINE Vec hyperbolic_tangent(Vec x) {
    Vec m = exponential_minus_one(2.0f * at_most(splat(10.0f), absolute(x)));
    return with_sign_of(x, m / (m + 2.0f));
}
HUBTOOL_INLINE Vec logistic(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// 1 - erf(x), x >= 0. x² is split, so that its rounding error does not grow in the exponential.
HUBTOOL_INLINE Vec error_left(Vec x) {
    x = at_most(splat(10.5f), x);
    Vec upper = (Vec)((Bits)x & 0xfffff000u);
    Vec s = (x - 3.0f) / (x + 3.0f);
    Vec p = s * 5.60514891e-05f + 2.91955002e-05f;
    p = p * s - 0.000594430778f;
    p = p * s + 0.0007155817f;
    p = p * s + 0.00426876592f;
    p = p * s - 0.0243942123f;
    p = p * s + 0.0716658831f;
    p = p * s - 0.150115788f;
    p = p * s + 0.2456038f;
    p = p * s - 0.326233566f;
    p = p * s + 0.179001153f;
    return p * exponential(-upper * upper, -(x - upper) * (x + upper));
}
HUBTOOL_INLINE Vec error_function(Vec x) {
    Vec z = absolute(x), q = at_most(splat(1.0f), x * x);
    Vec p = q * 7.85385491e-05f - 0.000801019138f;
    p = p * q + 0.00518832728f;
    p = p * q - 0.026853811f;
    p = p * q + 0.112835854f;
    p = p * q - 0.37612626f;
    p = p * q + 1.12837911f;
    return choose(z < 1.0f, x * p, with_sign_of(x, 1.0f - error_left(z)));
}

template <int64_t ACT> HUBTOOL_INLINE Vec activate_as(Vec v, float a, float b) {
    const Vec zero = {}, one = splat(1.0f);
    if constexpr (ACT == act::relu) return at_least(zero, v);
    if constexpr (ACT == act::clip) return at_most(splat(b), at_least(splat(a), v));
    if constexpr (ACT == act::leaky_relu) return choose(v < zero, v * a, v);
    if constexpr (ACT == act::sigmoid) return logistic(v);
    if constexpr (ACT == act::tanh) return hyperbolic_tangent(v);
    if constexpr (ACT == act::hard_sigmoid) return at_most(one, at_least(zero, v * a + b));
    if constexpr (ACT == act::hard_swish)
        return v * at_most(one, at_least(zero, v * (1.0f / 6.0f) + 0.5f));
    if constexpr (ACT == act::silu) return v / (1.0f + exponential(-v));
    if constexpr (ACT == act::elu)
        return choose(v > zero, v,
                      a * exponential_minus_one(at_most(zero, at_least(splat(-80.0f), v))));
    if constexpr (ACT == act::gelu) {
        Vec left = 0.5f * error_left(absolute(v) * 0.707106781f);
        return v * choose(v < zero, left, 1.0f - left);
    }
    if constexpr (ACT == act::exp) return exponential(v);
    if constexpr (ACT == act::sqrt) return square_root(v);
    if constexpr (ACT == act::neg) return -v;
    if constexpr (ACT == act::abs) return absolute(v);
    if constexpr (ACT == act::reciprocal) return 1.0f / v;
    if constexpr (ACT == act::softplus)
        return at_least(zero, v) + logarithm_of_one_more(exponential(-absolute(v)));
    if constexpr (ACT == act::mish) {
        Vec e = exponential(at_most(splat(20.0f), v)), m = e * (e + 2.0f);
        return v * (m / (m + 2.0f));
    }
    if constexpr (ACT == act::erf) return error_function(v);
    if constexpr (ACT == act::gelu_tanh)
        return v * logistic(v * (1.59576912f + 0.0713548163f * (v * v))); // 2 √(2/π) = 1.59…
    return v;
}

// All but the cheap ones: one copy, behind a call.
inline __attribute__((noinline)) Vec activate_costly(Vec v, int64_t act, float a, float b) {
    switch (act) {
#define HUBTOOL_CASE(name)                                                                        \
    case act::name: return activate_as<act::name>(v, a, b);
        HUBTOOL_ACTIVATIONS(HUBTOOL_CASE)
#undef HUBTOOL_CASE
    }
    return v;
}

constexpr bool costly(int64_t act) { return act > act::leaky_relu; }

HUBTOOL_INLINE Vec activate(Vec v, int64_t act, float a, float b) {
    if (act == act::none) return v;
    if (act == act::relu) return activate_as<act::relu>(v, a, b);
    if (act == act::clip) return activate_as<act::clip>(v, a, b);
    if (act == act::leaky_relu) return activate_as<act::leaky_relu>(v, a, b);
    return activate_costly(v, act, a, b);
}

// A step's activation, for inner loops: none, relu and clip are one max and one min, no branch.
struct Activation {
    Vec low, high;
    int64_t act;
    float a, b;
    explicit Activation(const Step &step) : act(step.act), a(float(step.a)), b(float(step.b)) {
        const float inf = std::numeric_limits<float>::infinity();
        low = splat(act == act::relu ? 0.0f : act == act::clip ? a : -inf);
        high = splat(act == act::clip ? b : inf);
    }
    HUBTOOL_INLINE bool simple() const { return act <= act::clip; }
    template <bool SIMPLE = false> HUBTOOL_INLINE Vec apply(Vec v) const {
        if constexpr (SIMPLE) return at_most(high, at_least(low, v));
        return simple() ? at_most(high, at_least(low, v)) : activate(v, act, a, b);
    }
};

} // namespace hubtool::HUBTOOL_ISA
