// A block of CUDA threads on the CPU: fibers, barriers, shared memory, and memory accesses that are checked.
//
// What a GPU leaves open is decided against the program: warps take turns in an order that changes from block to block
// and run as far ahead as barriers let them; an asynchronous copy spoils its target at once and arrives only when
// waited for; shared memory starts as NaN; an element of global memory is written once at most, and read only if it
// is an input or has been written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace emulation {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kSharedBase = 1024;  // so that an offset that lacks its base is noticed

// One memory that kernels may touch.
struct Memory {
  const unsigned char* begin;
  size_t size;
  bool output;
  std::vector<bool> written;  // of an output
};

// Forgets all memories; those added from then on are what kernels may touch.
void forget_memories();
void add_input(const void* data, size_t size);
void add_output(void* data, size_t size);

// Runs body() in every thread of every block; the empty string, or what went wrong first.
std::string run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);

// The rest is called from within body().
int thread();
int64_t block();
void barrier();

// `execute` gets what the 32 lanes of the warp passed, once all of them have arrived at the same `execute`.
using Collective = void (*)(void* const (&lanes)[kWarp]);
void together(Collective execute, void* mine);

void check_read(const void* source, size_t size);
void check_write(const void* target, size_t size);  // marks it as written
unsigned char* shared(uint32_t address, size_t size);
void copy_async(uint32_t target, const void* source, size_t size, bool valid);
void commit();
void wait(int pending);

}  // namespace emulation
