// Threads that take the tasks of one step, and the caller among them.
//
// A step is cut into more tasks than threads. Each thread has a share of them that lies next to each
// other, the same part of every step, so that it finds in its own cache what it wrote in the step
// before; whoever is through with its share takes from the others'. So a thread that loses its core
// delays the step by one task, not by its share. Idle threads spin for a bounded
// while (the next step follows within microseconds), then sleep. A second caller, while the pool
// is busy, does its tasks alone instead of waiting. After a fork the child has no threads: the
// pool notices and starts its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>

namespace hubtool {

class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool &) = delete;

    int threads() const { return threads_; }

    // The pool for one caller, for one run: all its threads, or nobody but the caller.
    class Team {
      public:
        explicit Team(Pool &pool);
        ~Team();
        Team(const Team &) = delete;

        int size() const { return size_; }

        // f(task, worker) for every task in [0, tasks), worker in [0, size()); back when all are done.
        template <class F> void parallel(int64_t tasks, F &&f) {
            if (tasks <= 1 || size_ == 1) {
                for (int64_t task = 0; task < tasks; ++task) f(task, 0);
                return;
            }
            dispatch(tasks, [](void *with, int64_t task, int worker) {
                (*static_cast<std::remove_reference_t<F> *>(with))(task, worker);
            }, &f);
        }

      private:
        using Call = void (*)(void *, int64_t, int);
        void dispatch(int64_t tasks, Call call, void *with);
        Pool &pool_;
        int size_;
        bool held_;
    };

  private:
    struct Shared;
    void start();
    int threads_;
    std::mutex busy_;
    std::shared_ptr<Shared> shared_;
};

} // namespace hubtool
