// Many threads in one engine, for ThreadSanitizer to watch: what it must not find is a race.
//
//   one plan       run by several threads at once, so that runs meet in a busy pool and in the
//                  arenas that are kept for later
//   several plans  over one pool, each with a thread of its own
//   many pools     made, used and freed, by several threads at once
//   after a fork   the child starts threads of its own
//
// Every result is looked at too. `races N` goes N rounds; 1 comes back where a number is wrong.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "plan.h"

extern "C" {
const char *hubtool_isas();
void *hubtool_pool(int threads);
void hubtool_pool_free(void *);
void *hubtool_plan(const char *, const hubtool::Step *, int64_t, int64_t, const void *, void *);
void hubtool_plan_free(void *);
int hubtool_run(void *, void *const *, void *const *, double *);
}

// The child of a fork starts threads.
extern "C" const char *__tsan_default_options() { return "die_after_fork=0"; }

using namespace hubtool;

namespace {

constexpr int64_t ROWS = 1000, CHANNELS = 48, COUNT = ROWS * CHANNELS; // several tasks a step
constexpr int THREADS = 3, CALLERS = 4;

View rows(Where where, int64_t offset) {
    View v{};
    v.where = where;
    v.offset = offset;
    v.n = ROWS;
    v.h = v.w = 1;
    v.c = v.pixel = v.row = v.image = CHANNELS;
    return v;
}

Step step(kind::Kind kind, View x, View y, act::Act act) {
    Step s{};
    s.kind = kind;
    s.weights = s.bias = -1;
    s.kh = s.kw = s.sh = s.sw = s.dh = s.dw = s.groups = 1;
    s.act = act;
    s.x = x;
    s.y = y;
    return s;
}

// y = max(-(x + x), 0): three steps, two values in the arena.
struct Doubled {
    void *plan;

    explicit Doubled(void *pool) {
        const View first = rows(ARENA, 0), second = rows(ARENA, COUNT * 4);
        Step sum = step(kind::binary, rows(INPUT, 0), first, act::none);
        sum.op = binary::add;
        sum.spread = spread::same;
        sum.z = rows(INPUT, 0);
        const Step steps[] = {sum, step(kind::unary, first, second, act::neg),
                              step(kind::unary, second, rows(OUTPUT, 0), act::relu)};
        plan = hubtool_plan("portable", steps, 3, 2 * COUNT * 4, nullptr, pool);
    }
    ~Doubled() { hubtool_plan_free(plan); }
    Doubled(const Doubled &) = delete;

    bool right(int seed) const {
        std::vector<float> x(COUNT), y(COUNT, -1);
        for (int64_t i = 0; i < COUNT; ++i) x[size_t(i)] = float((i * 7 + seed) % 13 - 6);
        void *inputs[] = {x.data()}, *outputs[] = {y.data()};
        if (hubtool_run(plan, inputs, outputs, nullptr)) return false;
        for (size_t i = 0; i < x.size(); ++i)
            if (y[i] != (x[i] < 0 ? -2 * x[i] : 0)) return false;
        return true;
    }
};

std::atomic<int> wrong{0};

void expect(bool good, const char *what) {
    if (good) return;
    wrong.fetch_add(1);
    std::fprintf(stderr, "WRONG: %s\n", what);
}

template <class F> void together(F &&f) {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < CALLERS; ++caller) callers.emplace_back(f, caller);
    for (auto &caller : callers) caller.join();
}

void one_plan(void *pool, int rounds) {
    Doubled doubled(pool);
    together([&](int caller) {
        for (int round = 0; round < rounds; ++round)
            expect(doubled.right(caller + round), "one plan, many callers");
    });
}

void several_plans(void *pool, int rounds) {
    together([&](int caller) {
        Doubled doubled(pool);
        for (int round = 0; round < rounds; ++round)
            expect(doubled.right(caller + round), "several plans over one pool");
    });
}

void many_pools(int rounds) {
    together([&](int caller) {
        for (int round = 0; round < rounds; ++round) {
            void *pool = hubtool_pool(1 + (caller + round) % THREADS);
            expect(Doubled(pool).right(caller + round), "a pool for one run");
            hubtool_pool_free(pool);
        }
    });
}

void after_a_fork(void *pool) {
    Doubled doubled(pool);
    expect(doubled.right(0), "before a fork");
    const pid_t child = fork();
    if (!child) _exit(doubled.right(1) ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    expect(status == 0, "the child of a fork");
    expect(doubled.right(2), "the parent of a fork");
}

} // namespace

int main(int count, char **given) {
    const int rounds = count > 1 ? std::atoi(given[1]) : 100;
    void *pool = hubtool_pool(THREADS);
    after_a_fork(pool);
    one_plan(pool, rounds);
    several_plans(pool, rounds);
    many_pools(rounds / 4 + 1);
    hubtool_pool_free(pool);
    std::printf("%d rounds, %d wrong\n", rounds, wrong.load());
    return wrong.load() ? 1 : 0;
}
