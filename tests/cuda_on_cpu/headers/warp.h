// The *_sync intrinsics: the last lane of the mask that arrives does the work of all.
#pragma once

#include <type_traits>

#include "block.h"

namespace emulator {

// Waits for all living lanes of the mask; then `work(lanes, active)` runs once, and all go on.
template <class Work>
inline void in_warp(Place place, unsigned mask, Intrinsic intrinsic, Work work) {
    Thread* self = running;
    Thread* lanes = &threads[32 * self->warp];
    const int count = int(threads.size()) - 32 * self->warp < 32 ? int(threads.size()) - 32 * self->warp : 32;
    if (!(mask >> self->lane & 1)) {
        EMULATOR_STOP("%s:%d: lane %d is not in its own mask %#010x", place.file, place.line, self->lane, mask);
    }
    self->place = place;
    self->mask = mask;
    self->intrinsic = intrinsic;
    unsigned active = 0;
    bool complete = true;
    for (int i = 0; i < count; ++i) {
        const Thread& lane = lanes[i];
        if (!(mask >> i & 1) || lane.state == State::ended) continue;
        active |= 1u << i;
        if (&lane == self) continue;
        if (lane.state != State::at_warp_intrinsic) {
            complete = false;
        } else if (lane.mask != mask && (lane.mask >> self->lane & 1)) {
            EMULATOR_STOP("%s:%d: lanes %d and %d wait for each other with different masks, %#010x and %#010x",
                          place.file, place.line, self->lane, i, mask, lane.mask);
        } else if (lane.mask == mask && !(lane.place == place && lane.intrinsic == intrinsic)) {
            EMULATOR_STOP("lanes %d and %d of one mask are at different intrinsics, %s:%d and %s:%d", self->lane, i,
                          place.file, place.line, lane.place.file, lane.place.line);
        } else if (lane.mask != mask) {
            complete = false;  // it waits for others first
        }
    }
    if (!complete) {
        self->state = State::at_warp_intrinsic;
        suspend();
        return;
    }
    work(lanes, active);
    for (int i = 0; i < count; ++i) {
        if (&lanes[i] != self && (active >> i & 1)) lanes[i].state = State::ready;
    }
}

enum class Shuffle { indexed, up, down, exclusive_or };

// The lane from which `lane` takes; its own where the other is outside of the segment of `width` lanes.
inline int source_lane(Shuffle kind, int lane, int argument, int width) {
    const int segment = lane & ~(width - 1);
    const int position = lane & (width - 1);
    switch (kind) {
        case Shuffle::indexed: return segment | (argument & (width - 1));
        case Shuffle::up: return position - argument >= 0 ? lane - argument : lane;
        case Shuffle::down: return position + argument < width ? lane + argument : lane;
        case Shuffle::exclusive_or: return (lane ^ argument) < segment + width ? lane ^ argument : lane;
    }
    return lane;
}

template <class T>
inline T shuffle(Place place, Shuffle kind, unsigned mask, T value, int argument, int width = 32) {
    static_assert(sizeof(T) <= sizeof(Exchange::got) && std::is_trivially_copyable<T>::value, "cannot be shuffled");
    Thread* self = running;
    memcpy(self->exchange.given, &value, sizeof(T));
    self->source = source_lane(kind, self->lane, argument, width);
    in_warp(place, mask, Intrinsic::shuffle, [](Thread* lanes, unsigned active) {
        for (int i = 0; i < 32; ++i) {
            if (!(active >> i & 1)) continue;
            const int source = lanes[i].source;
            if (active >> source & 1) {
                memcpy(lanes[i].exchange.got, lanes[source].exchange.given, sizeof(T));
            } else {
                memset(lanes[i].exchange.got, 0xff, sizeof(T));  // undefined on the GPU, NaN here
            }
        }
    });
    memcpy(&value, self->exchange.got, sizeof(T));
    return value;
}

// The lanes of the mask whose predicate holds.
inline unsigned ballot(Place place, unsigned mask, bool predicate) {
    Thread* self = running;
    memcpy(self->exchange.given, &predicate, sizeof predicate);
    in_warp(place, mask, Intrinsic::vote, [](Thread* lanes, unsigned active) {
        unsigned ballots = 0;
        for (int i = 0; i < 32; ++i) {
            if ((active >> i & 1) && lanes[i].exchange.given[0]) ballots |= 1u << i;
        }
        for (int i = 0; i < 32; ++i) {
            if (active >> i & 1) memcpy(lanes[i].exchange.got, &ballots, sizeof ballots);
        }
    });
    unsigned ballots;
    memcpy(&ballots, self->exchange.got, sizeof ballots);
    return ballots;
}

inline void sync_warp(Place place, unsigned mask = 0xffffffffu) {
    in_warp(place, mask, Intrinsic::sync, [](Thread*, unsigned) {});
}

inline unsigned active_lanes() {
    unsigned active = 0;
    for (int i = 32 * running->warp; i < int(threads.size()) && i < 32 * running->warp + 32; ++i) {
        if (threads[i].state != State::ended) active |= 1u << threads[i].lane;
    }
    return active;
}

}  // namespace emulator

#define __shfl_sync(...) emulator::shuffle(EMULATOR_HERE, emulator::Shuffle::indexed, __VA_ARGS__)
#define __shfl_up_sync(...) emulator::shuffle(EMULATOR_HERE, emulator::Shuffle::up, __VA_ARGS__)
#define __shfl_down_sync(...) emulator::shuffle(EMULATOR_HERE, emulator::Shuffle::down, __VA_ARGS__)
#define __shfl_xor_sync(...) emulator::shuffle(EMULATOR_HERE, emulator::Shuffle::exclusive_or, __VA_ARGS__)
#define __ballot_sync(mask, predicate) emulator::ballot(EMULATOR_HERE, (mask), (predicate) != 0)
#define __any_sync(mask, predicate) int(emulator::ballot(EMULATOR_HERE, (mask), (predicate) != 0) != 0)
#define __all_sync(mask, predicate) int(emulator::ballot(EMULATOR_HERE, (mask), (predicate) == 0) == 0)
#define __syncwarp(...) emulator::sync_warp(EMULATOR_HERE __VA_OPT__(, ) __VA_ARGS__)
