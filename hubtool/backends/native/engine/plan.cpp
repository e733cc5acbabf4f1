#include "plan.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "run.h"

namespace hubtool {

namespace {

constexpr int64_t HUGE_PAGE = 2 << 20; // a huge page: large arenas begin at one
constexpr size_t SPARE = 8;       // arenas kept for later runs
constexpr int64_t WORTH_SHARING = 8 << 10; // bytes of zeros for which a thread is worth asking

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int64_t element(const View &v) { return v.type == BF16 ? 2 : 4; }

} // namespace

void Free::operator()(char *memory) const { std::free(memory); }

Plan::Plan(const Kernels &kernels, const Step *steps, int64_t count, int64_t arena,
           const char *weights, Pool &pool)
    : kernels_(kernels), steps_(steps, steps + count), arena_(padded(arena, 64)), weights_(weights),
      pool_(pool) {
    for (const Step &step : steps_)
        scratch_ = std::max(scratch_, padded(kernels_.scratch(step), 64));
}

Plan::Memory Plan::borrow() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!spare_.empty()) {
            Memory memory = std::move(spare_.back());
            spare_.pop_back();
            return memory;
        }
    }
    const int64_t bytes = arena_ + scratch_ * pool_.threads() + 64;
    const int64_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    const int64_t whole = padded(bytes, align);
    Memory memory(static_cast<char *>(std::aligned_alloc(size_t(align), size_t(whole))));
    if (!memory) return memory;
#if defined(MADV_HUGEPAGE)
    if (align == HUGE_PAGE) madvise(memory.get(), size_t(whole), MADV_HUGEPAGE);
#endif
    std::memset(memory.get(), 0, size_t(whole));
    return memory;
}

void Plan::give_back(Memory memory) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (spare_.size() < SPARE) spare_.push_back(std::move(memory));
}

// Zeros around the pixels of a view, as far as its halo reaches.
void fill_halo(const View &v, char *first, Pool::Team &team) {
    if (!(v.top | v.left | v.bottom | v.right)) return;
    const int64_t size = element(v);
    const int64_t channels = std::min(v.pixel, padded(v.c, 16));
    const int64_t each = v.h + v.top + v.bottom;
    auto zero = [&](int64_t n, int64_t row, int64_t from, int64_t to) {
        char *at = first + (n * v.image + row * v.row + from * v.pixel) * size;
        if (v.pixel == channels) {
            std::memset(at, 0, size_t((to - from) * channels * size));
            return;
        }
        for (int64_t i = from; i < to; ++i, at += v.pixel * size)
            std::memset(at, 0, size_t(channels * size));
    };
    const int64_t rows = v.n * each, bytes = rows * (v.left + v.right) * channels * size;
    const int64_t chunks = std::clamp<int64_t>(bytes / WORTH_SHARING, 1, 2 * team.size());
    team.parallel(chunks, [&](int64_t chunk, int) {
        for (int64_t i = rows * chunk / chunks; i < rows * (chunk + 1) / chunks; ++i) {
            const int64_t n = i / each, row = i % each - v.top;
            if (row < 0 || row >= v.h) {
                zero(n, row, -v.left, v.w + v.right);
            } else {
                if (v.left) zero(n, row, -v.left, 0);
                if (v.right) zero(n, row, v.w, v.w + v.right);
            }
        }
    });
}

bool Plan::run(void *const *inputs, void *const *outputs, double *seconds) {
    Memory memory = borrow();
    if (!memory) return false;
    char *arena = memory.get(), *scratch = arena + arena_;
    auto at = [&](const View &v, int64_t turn) -> char * {
        const int64_t offset = v.offset + turn * v.next;
        switch (v.where) {
        case ARENA: return arena + offset;
        case WEIGHTS: return const_cast<char *>(weights_) + offset;
        case INPUT: return static_cast<char *>(inputs[v.index]) + offset;
        case OUTPUT: return static_cast<char *>(outputs[v.index]) + offset;
        default: return nullptr;
        }
    };
    auto run_step = [&](const Step &step, int64_t turn, Pool::Team &team) {
        const char *weights = step.weights < 0 ? nullptr : weights_ + step.weights;
        const char *bias = step.bias < 0 ? nullptr : weights_ + step.bias;
        const Call call{step, at(step.x, turn), at(step.y, turn), at(step.z, turn), weights,
                        reinterpret_cast<const float *>(bias), scratch, scratch_};
        fill_halo(step.y, static_cast<char *>(call.y), team);
        kernels_.run[step.kind](call, team);
    };
    {
        Pool::Team team(pool_);
        if (seconds) std::fill_n(seconds, steps_.size(), 0.0);
        auto before = std::chrono::steady_clock::now();
        for (size_t first = 0, end; first < steps_.size(); first = end) {
            for (end = first + 1; end < steps_.size() && steps_[first].group
                                  && steps_[end].group == steps_[first].group;) ++end;
            const int64_t turns = steps_[first].group ? steps_[first].turns : 1;
            for (int64_t turn = 0; turn < turns; ++turn)
                for (size_t index = first; index < end; ++index) {
                    run_step(steps_[index], turn, team);
                    if (!seconds) continue;
                    const auto now = std::chrono::steady_clock::now();
                    seconds[index] += std::chrono::duration<double>(now - before).count();
                    before = now;
                }
        }
    }
    give_back(std::move(memory));
    return true;
}

} // namespace hubtool
