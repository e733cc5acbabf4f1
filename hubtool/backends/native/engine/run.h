// A plan made ready: its steps, and the memory that its runs take.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace hubtool {

struct Free {
    void operator()(char *memory) const;
};

// Any number of threads may run one plan at a time: each run has an arena of its own, which is kept
// for the next. `weights` and `pool` must outlive the plan.
class Plan {
  public:
    Plan(const Kernels &kernels, const Step *steps, int64_t count, int64_t arena,
         const char *weights, Pool &pool);

    // False where there is no memory. seconds: one a step, or null.
    bool run(void *const *inputs, void *const *outputs, double *seconds);

  private:
    using Memory = std::unique_ptr<char, Free>;
    Memory borrow();
    void give_back(Memory memory);

    const Kernels &kernels_;
    std::vector<Step> steps_;
    int64_t arena_;
    int64_t scratch_ = 0; // bytes for each worker
    const char *weights_;
    Pool &pool_;
    std::mutex mutex_;
    std::vector<Memory> spare_;
};

} // namespace hubtool
