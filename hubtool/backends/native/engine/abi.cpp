// The engine's C interface, as hubtool/backends/native/library.py calls it. Nothing throws through
// it, and every structure that crosses it is described by `hubtool_layout`.

#include <cstring>
#include <new>
#include <string>

#include "run.h"

#define HUBTOOL_API extern "C" __attribute__((visibility("default")))

using namespace hubtool;

namespace {

constexpr int VERSION = 1; // of what the steps mean; a kept plan of another is made anew

bool can(const std::string &isa) {
#if !defined(HUBTOOL_PORTABLE_ONLY)
    __builtin_cpu_init();
    if (isa == "avx512")
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
               && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               && __builtin_cpu_supports("fma");
    if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == "portable";
}

#if !defined(HUBTOOL_PORTABLE_ONLY)
bool has_bf16() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
}
#endif

const Kernels *kernels_of(const char *isa) {
    if (!can(isa)) return nullptr;
#if !defined(HUBTOOL_PORTABLE_ONLY)
    if (!std::strcmp(isa, "avx512")) return has_bf16() ? &kernels_avx512bf16 : &kernels_avx512;
    if (!std::strcmp(isa, "avx2")) return &kernels_avx2;
#endif
    return &kernels_portable;
}

std::string listed(const char *key, const char *names) {
    std::string out = std::string("\"") + key + "\":[";
    bool first = true;
    for (const char *at = names; *at;) {
        const char *end = std::strchr(at, ' ');
        if (!end) end = at + std::strlen(at);
        if (end != at) {
            out += std::string(first ? "\"" : ",\"") + std::string(at, end) + "\"";
            first = false;
        }
        at = *end ? end + 1 : end;
    }
    return out + "]";
}

} // namespace

#define HUBTOOL_NAME(name) #name " "

HUBTOOL_API const char *hubtool_layout() {
    static const std::string text =
        "{\"version\":" + std::to_string(VERSION) + "," + listed("view", HUBTOOL_VIEW(HUBTOOL_NAME)) + ","
        + listed("step", HUBTOOL_STEP(HUBTOOL_NAME)) + "," + listed("kinds", HUBTOOL_KINDS(HUBTOOL_NAME)) + ","
        + listed("algorithms", HUBTOOL_ALGORITHMS(HUBTOOL_NAME)) + ","
        + listed("activations", HUBTOOL_ACTIVATIONS(HUBTOOL_NAME)) + ","
        + listed("binaries", HUBTOOL_BINARIES(HUBTOOL_NAME)) + ","
        + listed("spreads", HUBTOOL_SPREADS(HUBTOOL_NAME)) + ","
        + listed("where", "nowhere arena weights input output") + "," + listed("types", "f32 bf16") + "}";
    return text.c_str();
}

HUBTOOL_API const char *hubtool_isas() {
    static const std::string text = [] {
        std::string out;
        for (const char *isa : {"avx512", "avx2", "portable"})
            if (can(isa)) out += (out.empty() ? "" : ",") + std::string(isa);
        return out;
    }();
    return text.c_str();
}

HUBTOOL_API int hubtool_bf16(const char *isa) {
    const Kernels *kernels = kernels_of(isa);
    return kernels && kernels->bf16;
}

HUBTOOL_API int64_t hubtool_packed(const char *isa, const Step *step) {
    return kernels_of(isa)->packed(*step);
}

HUBTOOL_API void hubtool_pack(const char *isa, const Step *step, const float *W, void *to,
                              int threads) {
    Pool pool(threads);
    Pool::Team team(pool);
    kernels_of(isa)->pack(*step, W, to, team);
}

HUBTOOL_API int hubtool_fits(const char *isa, const Step *step) {
    return kernels_of(isa)->fits(*step);
}

HUBTOOL_API void *hubtool_pool(int threads) { return new (std::nothrow) Pool(threads); }

HUBTOOL_API void hubtool_pool_free(void *pool) { delete static_cast<Pool *>(pool); }

HUBTOOL_API void *hubtool_plan(const char *isa, const Step *steps, int64_t count, int64_t arena,
                               const void *weights, void *pool) {
    return new (std::nothrow) Plan(*kernels_of(isa), steps, count, arena,
                                   static_cast<const char *>(weights), *static_cast<Pool *>(pool));
}

HUBTOOL_API void hubtool_plan_free(void *plan) { delete static_cast<Plan *>(plan); }

HUBTOOL_API int hubtool_run(void *plan, void *const *inputs, void *const *outputs,
                            double *seconds) {
    return static_cast<Plan *>(plan)->run(inputs, outputs, seconds) ? 0 : 1;
}
