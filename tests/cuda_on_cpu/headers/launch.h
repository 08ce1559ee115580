// A launch: all blocks of a grid, one after the other, with shared memory that nobody has written before.
#pragma once

#include <algorithm>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "warp.h"

// The linker names where the section of static shared memory begins and ends.
extern "C" char __start_emulator_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emulator_shared[] __attribute__((weak, visibility("hidden")));

namespace emulator {

constexpr size_t most_threads = 1024, most_dynamic_shared = 227 << 10, red_zone_bytes = 4096;
constexpr unsigned char red = 0x5a;

inline void poison_shared(size_t dynamic_bytes) {
    static char* room = new char[most_dynamic_shared + red_zone_bytes + 128];
    dynamic_shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(room) + 127) & ~uintptr_t(127));
    memset(dynamic_shared, 0xff, dynamic_bytes);
    memset(dynamic_shared + dynamic_bytes, red, red_zone_bytes);
    if (__start_emulator_shared) memset(__start_emulator_shared, 0xff, __stop_emulator_shared - __start_emulator_shared);
}

inline bool red_zone_is_whole(size_t dynamic_bytes) {
    const char* zone = dynamic_shared + dynamic_bytes;
    return std::all_of(zone, zone + red_zone_bytes, [](char c) { return (unsigned char)c == red; });
}

// The stacks of threads that will never end.
inline void drop_threads() {
    for (Thread& thread : threads) {
        if (thread.state != State::unborn && thread.state != State::ended) give_stack_back(&thread);
    }
}

inline bool run_grid(dim3 grid, dim3 block, size_t dynamic_bytes) {
    error[0] = 0;
    const size_t count = size_t(block.x) * block.y * block.z;
    grid_shape = grid;
    block_shape = block;
    if (!count || count > most_threads || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) {
        fail("a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads cannot be launched", grid.x, grid.y, grid.z,
             block.x, block.y, block.z);
        return false;
    }
    if (dynamic_bytes > most_dynamic_shared) {
        fail("%zu bytes of dynamic shared memory are more than a block can have", dynamic_bytes);
        return false;
    }
    threads.resize(count);
    for (size_t i = 0; i < count; ++i) {
        threads[i].index = uint3{unsigned(i % block.x), unsigned(i / block.x % block.y), unsigned(i / block.x / block.y)};
        threads[i].lane = int(i % 32);
        threads[i].warp = int(i / 32);
    }
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                block_index = uint3{x, y, z};
                poison_shared(dynamic_bytes);
                order_threads();
                if (!run_block()) {
                    drop_threads();
                    return false;
                }
                if (!red_zone_is_whole(dynamic_bytes)) {
                    fail("it writes past its %zu bytes of dynamic shared memory", dynamic_bytes);
                    return false;
                }
            }
    return true;
}

template <class... A, size_t... I>
inline void call(void (*kernel)(A...), void* const* arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A>
inline bool launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t dynamic_bytes,
                   void** arguments) {
    struct Call {
        void (*kernel)(A...);
        void** arguments;
    };
    const Call made{kernel, arguments};
    thread_argument = &made;
    thread_body = [](const void* given) {
        const Call* c = static_cast<const Call*>(given);
        call(c->kernel, c->arguments, std::index_sequence_for<A...>{});
    };
    return run_grid(dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), dynamic_bytes);
}

// What a parameter is, for Python: P a pointer, i and u an integer, f a float, s a struct; and its bytes.
template <class T>
inline std::string kind_of() {
    const char* kind = std::is_pointer<T>::value          ? "P"
                       : std::is_floating_point<T>::value ? "f"
                       : !std::is_integral<T>::value      ? "s"
                       : std::is_signed<T>::value         ? "i"
                                                          : "u";
    return kind + std::to_string(sizeof(T)) + " ";
}

template <class... A>
inline std::string signature(void (*)(A...)) {
    return (std::string() + ... + kind_of<A>());
}

}  // namespace emulator
