// A fiber for every CUDA thread: a stack of its own, and switches between it and the scheduler.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define EMULATOR_HIDDEN __attribute__((visibility("hidden")))

namespace emulator {

struct Place {  // in the source
    const char* file;
    int line;
    bool operator==(const Place& other) const { return line == other.line && strcmp(file, other.file) == 0; }
};
#define EMULATOR_HERE (emulator::Place{__FILE__, __LINE__})

enum class State : uint8_t { unborn, ready, at_barrier, at_warp_intrinsic, ended };

enum class Intrinsic : uint8_t { none, shuffle, vote, sync, matrix_product };

struct alignas(16) Exchange {  // what a lane gives to an intrinsic of its warp, and what it gets
    unsigned char given[64];
    unsigned char got[32];
};

struct Thread {
    uint3 index;  // threadIdx
    int lane, warp;
    State state;
    // What it waits at.
    Place place;
    Intrinsic intrinsic;
    unsigned mask;
    int source;  // the lane from which a shuffle takes
    Exchange exchange;
    // Its fiber.
    char* stack;
    void* stack_pointer;
    void* sanitizer_frames;
};

inline Thread* running = nullptr;
inline void (*thread_body)(const void*) = nullptr;
inline const void* thread_argument = nullptr;

constexpr size_t stack_bytes = 256 << 10;  // only the pages that are touched take memory
constexpr size_t page_bytes = 4096;

extern "C" EMULATOR_HIDDEN void emulator_switch(void** saved_stack_pointer, void* stack_pointer);

// Saves the registers that a function must keep on this stack, and takes them from the other one.
#if defined(__x86_64__)
asm(R"(
    .text
    .type emulator_switch, @function
    emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
constexpr int saved_words = 6;
#elif defined(__aarch64__)
asm(R"(
    .text
    .type emulator_switch, %function
    emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
constexpr int saved_words = 20;
constexpr int return_address_word = 11;  // x30
#else
#error "the emulator switches stacks on x86-64 and aarch64 only"
#endif

// AddressSanitizer must know on which stack the program is.
#if defined(__SANITIZE_ADDRESS__)
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_stack_bytes = 0;
inline void leave_for(void** frames, const void* stack, size_t bytes) {
    __sanitizer_start_switch_fiber(frames, stack, bytes);
}
inline void arrive_on_fiber(void* frames) {
    __sanitizer_finish_switch_fiber(frames, &scheduler_stack, &scheduler_stack_bytes);
}
inline void arrive_at_scheduler(void* frames) { __sanitizer_finish_switch_fiber(frames, nullptr, nullptr); }
inline void clean_stack(char* stack) { __asan_unpoison_memory_region(stack, stack_bytes); }
#else
constexpr const void* scheduler_stack = nullptr;
constexpr size_t scheduler_stack_bytes = 0;
inline void leave_for(void**, const void*, size_t) {}
inline void arrive_on_fiber(void*) {}
inline void arrive_at_scheduler(void*) {}
inline void clean_stack(char*) {}
#endif

inline void* scheduler_stack_pointer = nullptr;

// Called by a thread: back to the scheduler, until that resumes the thread.
inline void suspend() {
    Thread* thread = running;
    leave_for(thread->state == State::ended ? nullptr : &thread->sanitizer_frames, scheduler_stack,
              scheduler_stack_bytes);
    emulator_switch(&thread->stack_pointer, scheduler_stack_pointer);
    arrive_on_fiber(thread->sanitizer_frames);
}

inline void thread_main() {
    arrive_on_fiber(nullptr);
    thread_body(thread_argument);
    running->state = State::ended;
    suspend();
    abort();
}

// All libraries of kernels in a process share them: a process has room for 65,530 pieces of memory (Linux's
// max_map_count), and every stack with its guard is two.
inline std::vector<char*>* shared_stacks = nullptr;

inline std::vector<char*>& free_stacks() {
    return *shared_stacks;
}

inline char* take_stack() {
    if (free_stacks().empty()) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (stack == MAP_FAILED) {
            fprintf(stderr, "no memory for the stack of a CUDA thread\n");
            abort();
        }
        mprotect(stack, page_bytes, PROT_NONE);  // an overflow crashes instead of writing into a neighbour
        free_stacks().push_back(static_cast<char*>(stack));
    }
    char* stack = free_stacks().back();
    free_stacks().pop_back();
    return stack;
}

inline void give_stack_back(Thread* thread) {
    free_stacks().push_back(thread->stack);
    thread->stack = nullptr;
}

// Lays a stack out as if emulator_switch had been called at the start of thread_main.
inline void prepare_stack(Thread* thread) {
    thread->stack = take_stack();
    clean_stack(thread->stack);
    void** top = reinterpret_cast<void**>(thread->stack + stack_bytes - 64);
#if defined(__x86_64__)
    *--top = nullptr;  // so that the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(&thread_main);
    for (int word = 0; word < saved_words; ++word) *--top = nullptr;
#else
    top -= saved_words;
    memset(top, 0, saved_words * sizeof(void*));
    top[return_address_word] = reinterpret_cast<void*>(&thread_main);
#endif
    thread->stack_pointer = top;
}

// Called by the scheduler: runs a thread until it waits or ends.
inline void resume(Thread* thread) {
    if (thread->state == State::unborn) {
        thread->state = State::ready;
        prepare_stack(thread);
    }
    running = thread;
    void* frames = nullptr;
    leave_for(&frames, thread->stack, stack_bytes);
    emulator_switch(&scheduler_stack_pointer, thread->stack_pointer);
    arrive_at_scheduler(frames);
    running = nullptr;
    if (thread->state == State::ended) give_stack_back(thread);
}

}  // namespace emulator
