// CUDA C++ for g++: lets a .cu file be compiled for the CPU and run there, to test it without a GPU.
//
// Every CUDA thread of a block is a fiber (fibers.h), blocks run one after another (block.h). A fiber runs until
// __syncthreads or a *_sync intrinsic of its warp (warp.h) makes it wait, or until it ends. So a launch takes the
// same course each time, for one schedule: threads in order, in reverse, or shuffled by a seed. What depends on
// the schedule is a race. Shared memory is NaN before each block, as nobody may count on what is in it.
//
// It is strict where a GPU may let things pass: threads that wait at different __syncthreads, or have ended before
// one; lanes that are not in their own mask. It does not see: reads outside of arrays (AddressSanitizer does, see
// test_sanitized.py), races between blocks, and threads that wait for another in a loop (they never end).
#pragma once

#include "types.h"

#include "fibers.h"

#include "block.h"

#include "warp.h"

#include "tensor_cores.h"

#include "intrinsics.h"

#include "launch.h"
