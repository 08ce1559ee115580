// One block at a time: its threads, the order in which they run, and __syncthreads.
#pragma once

#include <stdarg.h>

#include "fibers.h"

namespace emulator {

inline uint3 block_index;  // blockIdx
inline dim3 block_shape;   // blockDim
inline dim3 grid_shape;    // gridDim
inline char* dynamic_shared = nullptr;
inline std::vector<Thread> threads;
inline char error[1024];

// Keeps the first error; the launch ends with it.
__attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    if (error[0]) return;
    int length = snprintf(error, sizeof error, "block (%u, %u, %u)", block_index.x, block_index.y, block_index.z);
    if (running) {
        const uint3 i = running->index;
        length += snprintf(error + length, sizeof error - length, ", thread (%u, %u, %u)", i.x, i.y, i.z);
    }
    length += snprintf(error + length, sizeof error - length, ": ");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error + length, sizeof error - length, format, arguments);
    va_end(arguments);
}

// Called by a thread: fails, and never runs it again.
#define EMULATOR_STOP(...)                  \
    do {                                    \
        emulator::fail(__VA_ARGS__);        \
        for (;;) emulator::suspend();       \
    } while (0)

// ---- In which order threads run ----

enum class Schedule : int { forward, reverse, random };

struct Shuffler {  // xorshift64*
    uint64_t state;
    explicit Shuffler(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u + 1) {}
    uint64_t below(uint64_t bound) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return (state * 0x2545f4914f6cdd1du >> 32) % bound;
    }
    template <class T>
    void shuffle(T* items, uint64_t count) {
        for (uint64_t i = count; i > 1; --i) {
            const uint64_t other = below(i);
            const T item = items[i - 1];
            items[i - 1] = items[other];
            items[other] = item;
        }
    }
};

inline Schedule schedule = Schedule::forward;
inline Shuffler shuffler(0);
inline std::vector<int> warp_order, lane_order;  // lane_order: per warp, its threads' numbers

inline void order(std::vector<int>& items, int first, int end) {
    if (schedule == Schedule::forward) return;
    if (schedule == Schedule::random) return shuffler.shuffle(&items[first], end - first);
    for (int i = first, j = end - 1; i < j; ++i, --j) {
        const int item = items[i];
        items[i] = items[j];
        items[j] = item;
    }
}

inline void order_threads() {
    const int count = int(threads.size());
    lane_order.resize(count);
    for (int i = 0; i < count; ++i) lane_order[i] = i;
    warp_order.resize((count + 31) / 32);
    for (int warp = 0; warp < int(warp_order.size()); ++warp) {
        warp_order[warp] = warp;
        order(lane_order, 32 * warp, 32 * warp + 32 < count ? 32 * warp + 32 : count);
    }
    order(warp_order, 0, int(warp_order.size()));
}

// ---- __syncthreads ----

struct Votes {  // of the threads at a barrier, for __syncthreads_or and the like
    int any = 0, all = 1, count = 0;
};
inline Votes coming_votes, votes;

inline void barrier(Place place, int predicate = 0) {
    coming_votes.any |= predicate != 0;
    coming_votes.all &= predicate != 0;
    coming_votes.count += predicate != 0;
    running->state = State::at_barrier;
    running->place = place;
    suspend();
}

// Nobody can run: lets all go on if all are at one barrier. False if the block can never end.
inline bool open_barrier() {
    int at_barrier = 0, at_intrinsic = 0, ended = 0;
    const Thread* first = nullptr;   // at a barrier
    const Thread* other = nullptr;   // at another one
    const Thread* lane = nullptr;    // at an intrinsic of its warp
    for (const Thread& thread : threads) {
        if (thread.state == State::at_barrier) {
            ++at_barrier;
            if (!first) first = &thread;
            if (!(thread.place == first->place)) other = &thread;
        } else if (thread.state == State::at_warp_intrinsic) {
            ++at_intrinsic;
            lane = &thread;
        } else {
            ++ended;
        }
    }
    if (at_intrinsic && at_barrier) {
        fail("deadlock: %d threads wait for lanes of their warps (%s:%d), %d at __syncthreads (%s:%d), %d have ended",
             at_intrinsic, lane->place.file, lane->place.line, at_barrier, first->place.file, first->place.line, ended);
        return false;
    }
    if (at_intrinsic) {
        fail("deadlock: %d threads wait for lanes of their warps (%s:%d), %d have ended", at_intrinsic,
             lane->place.file, lane->place.line, ended);
        return false;
    }
    if (other) {
        fail("divergent __syncthreads: threads wait at %s:%d and at %s:%d", first->place.file, first->place.line,
             other->place.file, other->place.line);
        return false;
    }
    if (ended) {
        fail("__syncthreads (%s:%d) is reached by %d of %zu threads, the others have ended", first->place.file,
             first->place.line, at_barrier, threads.size());
        return false;
    }
    votes = coming_votes;
    coming_votes = Votes();
    for (Thread& thread : threads) thread.state = State::ready;
    return true;
}

// ---- A block ----

// Runs the warp's threads until all have ended or wait for other warps. The number of threads that ended.
inline int run_warp(int warp) {
    const int first = 32 * warp;
    const int end = first + 32 < int(threads.size()) ? first + 32 : int(threads.size());
    int ended = 0;
    for (bool progress = true; progress;) {
        progress = false;
        for (int i = first; i < end; ++i) {
            Thread* thread = &threads[lane_order[i]];
            if (thread->state > State::ready) continue;
            resume(thread);
            if (error[0]) return ended;
            progress = true;
            ended += thread->state == State::ended;
        }
    }
    return ended;
}

// False if it failed, and `error` says how.
inline bool run_block() {
    for (Thread& thread : threads) thread.state = State::unborn;
    coming_votes = Votes();
    size_t ended = 0;
    for (;;) {
        for (int warp : warp_order) {
            ended += run_warp(warp);
            if (error[0]) return false;
        }
        if (ended == threads.size()) return true;
        if (!open_barrier()) return false;
        if (schedule == Schedule::random) order(warp_order, 0, int(warp_order.size()));
    }
}

}  // namespace emulator

#define threadIdx (emulator::running->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_shape)
#define gridDim (emulator::grid_shape)
constexpr int warpSize = 32;

#define __syncthreads() emulator::barrier(EMULATOR_HERE)
#define __syncthreads_or(predicate) (emulator::barrier(EMULATOR_HERE, (predicate)), emulator::votes.any)
#define __syncthreads_and(predicate) (emulator::barrier(EMULATOR_HERE, (predicate)), emulator::votes.all)
#define __syncthreads_count(predicate) (emulator::barrier(EMULATOR_HERE, (predicate)), emulator::votes.count)
