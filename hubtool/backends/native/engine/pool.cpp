#include "pool.h"

#include <condition_variable>
#include <csignal>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace hubtool {

namespace {

// How often an idle thread looks before it sleeps: some 50 microseconds, many times the pause
// between two steps of a run, and too short to be felt by others.
constexpr int SPINS = 2000;

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

} // namespace

// The tasks of one step that lie next to each other, and that one worker takes first. `left` holds
// the step's number in its upper half and how many tasks are left in its lower: a thread that comes
// late finds none left, or another number, and takes nothing; while one can be taken, the step is not
// over, and tasks, call and with are still its own.
struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
};

// One step's work.
struct Pool::Shared {
    using Call = void (*)(void *, int64_t, int);

    explicit Shared(int workers) : shares(size_t(workers)) {}

    std::vector<Share> shares; // of each worker
    std::atomic<int64_t> done{0};
    std::atomic<uint32_t> step{0};
    std::atomic<int64_t> tasks{0};
    std::atomic<Call> call{nullptr};
    std::atomic<void *> with{nullptr};

    std::atomic<bool> ending{false};
    std::atomic<int> asleep{0};
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<std::thread> threads;
    pid_t owner = getpid();

    // Where a worker's tasks end; they begin where those of the worker before end.
    int64_t end_of(int64_t worker, int64_t count) const {
        return count * (worker + 1) / int64_t(shares.size());
    }

    // Take tasks of the step of that number until there are none: first one's own, then what the
    // others have left.
    void work(uint32_t number, int worker) {
        const int64_t count = tasks.load(std::memory_order_acquire);
        Call function = call.load(std::memory_order_acquire);
        void *argument = with.load(std::memory_order_acquire);
        const size_t workers = shares.size();
        for (size_t i = 0; i < workers; ++i) {
            const size_t whose = (size_t(worker) + i) % workers;
            std::atomic<uint64_t> &left = shares[whose].left;
            uint64_t seen = left.load(std::memory_order_acquire);
            int64_t finished = 0;
            while (uint32_t(seen >> 32) == number && uint32_t(seen) > 0) {
                if (!left.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
                function(argument, end_of(int64_t(whose), count) - int64_t(uint32_t(seen)), worker);
                ++finished;
                seen = left.load(std::memory_order_acquire);
            }
            if (finished) done.fetch_add(finished, std::memory_order_acq_rel);
        }
    }

    void live(int worker) {
        uint32_t last = 0;
        for (;;) {
            uint32_t number = step.load(std::memory_order_acquire);
            for (int spin = 0; number == last && spin < SPINS; ++spin) {
                pause();
                number = step.load(std::memory_order_acquire);
            }
            if (number == last) {
                std::unique_lock<std::mutex> lock(mutex);
                asleep.fetch_add(1);
                wake.wait(lock, [&] { return step.load() != last || ending.load(); });
                asleep.fetch_sub(1);
                number = step.load(std::memory_order_acquire);
            }
            if (ending.load()) return;
            if (number == last) continue;
            last = number;
            work(number, worker);
        }
    }
};

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads) {}

void Pool::start() {
    shared_ = std::make_shared<Shared>(threads_);
    sigset_t all, before; // signals are for the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        for (int worker = 1; worker < threads_; ++worker)
            shared_->threads.emplace_back([shared = shared_.get(), worker] { shared->live(worker); });
    } catch (const std::system_error &) { // no more threads to be had: those that there are do it
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Pool::~Pool() {
    if (!shared_) return;
    if (shared_->owner != getpid()) { // the threads stayed with the parent
        new std::shared_ptr<Shared>(std::move(shared_));
        return;
    }
    {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        shared_->ending = true;
    }
    shared_->wake.notify_all();
    for (auto &thread : shared_->threads) thread.join();
}

Pool::Team::Team(Pool &pool) : pool_(pool), size_(1), held_(false) {
    if (pool.threads_ == 1) return;
    held_ = pool.busy_.try_lock();
    if (!held_) return;
    size_ = pool.threads_;
    if (pool.shared_ && pool.shared_->owner != getpid()) // after a fork; what it was is given up
        new std::shared_ptr<Shared>(std::move(pool.shared_));
    if (!pool.shared_) pool.start();
}

Pool::Team::~Team() {
    if (held_) pool_.busy_.unlock();
}

void Pool::Team::dispatch(int64_t tasks, Call call, void *with) {
    Shared &shared = *pool_.shared_;
    const uint32_t number = shared.step.load(std::memory_order_relaxed) + 1;
    shared.tasks.store(tasks, std::memory_order_relaxed);
    shared.call.store(call, std::memory_order_relaxed);
    shared.with.store(with, std::memory_order_relaxed);
    shared.done.store(0, std::memory_order_relaxed);
    const int64_t workers = int64_t(shared.shares.size());
    for (int64_t worker = 0; worker < workers; ++worker) {
        const int64_t own = shared.end_of(worker, tasks) - shared.end_of(worker - 1, tasks);
        shared.shares[size_t(worker)].left.store(uint64_t(number) << 32 | uint32_t(own),
                                                 std::memory_order_release);
    }
    shared.step.store(number, std::memory_order_seq_cst);
    if (shared.asleep.load(std::memory_order_seq_cst)) {
        std::lock_guard<std::mutex> lock(shared.mutex);
        shared.wake.notify_all();
    }
    shared.work(number, 0);
    for (int spin = 0; shared.done.load(std::memory_order_acquire) != tasks; ++spin)
        spin < SPINS ? pause() : std::this_thread::yield();
}

} // namespace hubtool
