#include "machine.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>

namespace emulation {
namespace {

constexpr size_t kStack = 256 * 1024;

struct Copy {
  uint32_t target;
  const void* source;
  size_t size;
  bool valid;
};

enum class State { ready, collective, barrier, finished };

struct Fiber {
  int thread;
  State state = State::ready;
  bool started = false;
  jmp_buf jump;
  ucontext_t context;
  Collective execute = nullptr;
  void* mine = nullptr;
  std::vector<Copy> uncommitted;
  std::deque<std::vector<Copy>> groups;
};

struct Machine {
  std::vector<Memory> memories;
  std::vector<unsigned char> shared;
  std::vector<Fiber> fibers;
  std::unique_ptr<unsigned char[]> stacks;
  size_t stacks_of = 0;
  const std::function<void()>* body = nullptr;
  int64_t block = 0;
  Fiber* current = nullptr;
  jmp_buf scheduler;
  std::string failure;
};

Machine machine;

// Back to the scheduler; returns when the scheduler resumes this fiber.
void leave(State state) {
  Fiber& self = *machine.current;
  self.state = state;
  if (_setjmp(self.jump) == 0) _longjmp(machine.scheduler, 1);
}

[[noreturn]] void fail(const std::string& what) {
  machine.failure = what + " (block " + std::to_string(machine.block) + ", thread " +
                    std::to_string(machine.current ? machine.current->thread : -1) + ")";
  leave(State::finished);
  __builtin_unreachable();
}

void enter() {
  (*machine.body)();
  Fiber& self = *machine.current;
  if (!self.uncommitted.empty() || !self.groups.empty()) fail("a thread ended before its copies arrived");
  leave(State::finished);
}

void resume(Fiber& fiber) {
  machine.current = &fiber;
  if (_setjmp(machine.scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.jump, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = machine.stacks.get() + fiber.thread * kStack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    setcontext(&fiber.context);
  }
  machine.current = nullptr;
}

// Runs one warp until all its lanes have reached the block's barrier or finished.
void run_warp(Fiber* lanes, bool backwards) {
  for (;;) {
    for (int i = 0; i < kWarp; ++i) {
      Fiber& fiber = lanes[backwards ? kWarp - 1 - i : i];
      if (fiber.state == State::ready) resume(fiber);
      if (!machine.failure.empty()) return;
    }
    int waiting = 0;
    for (int i = 0; i < kWarp; ++i) waiting += lanes[i].state == State::collective;
    if (waiting == 0) return;
    void* values[kWarp];
    for (int i = 0; i < kWarp; ++i) {
      if (waiting != kWarp || lanes[i].execute != lanes[0].execute) {
        machine.current = &lanes[i];
        machine.failure = "the lanes of a warp do not reach the same instruction together (thread " +
                          std::to_string(lanes[i].thread) + ")";
        return;
      }
      values[i] = lanes[i].mine;
    }
    machine.current = &lanes[0];
    if (_setjmp(machine.scheduler) == 0) lanes[0].execute(values);  // a failure comes back here
    if (!machine.failure.empty()) return;
    for (int i = 0; i < kWarp; ++i) lanes[i].state = State::ready;
  }
}

void run_block(int threads) {
  std::fill(machine.shared.begin(), machine.shared.end(), 0xFF);
  machine.fibers.clear();
  machine.fibers.resize(threads);
  for (int i = 0; i < threads; ++i) machine.fibers[i].thread = i;
  const int warps = threads / kWarp;
  for (int64_t round = machine.block;; ++round) {  // from barrier to barrier
    for (int w = 0; w < warps; ++w) {
      const int warp = round % 2 ? warps - 1 - w : w;
      run_warp(&machine.fibers[warp * kWarp], machine.block % 3 == 1);
      if (!machine.failure.empty()) return;
    }
    int finished = 0;
    for (const Fiber& fiber : machine.fibers) finished += fiber.state == State::finished;
    if (finished == threads) return;
    if (finished != 0) {
      machine.failure = "some threads ended while others wait at a barrier";
      return;
    }
    for (Fiber& fiber : machine.fibers) fiber.state = State::ready;
  }
}

Memory& find(const void* data, size_t size, const char* doing) {
  const auto* begin = static_cast<const unsigned char*>(data);
  if (reinterpret_cast<uintptr_t>(data) % size != 0) fail(std::string("misaligned access while ") + doing);
  for (Memory& memory : machine.memories) {
    if (begin >= memory.begin && begin + size <= memory.begin + memory.size) return memory;
  }
  fail(std::string("out of bounds while ") + doing);
}

}  // namespace

void forget_memories() { machine.memories.clear(); }

void add_input(const void* data, size_t size) {
  machine.memories.push_back({static_cast<const unsigned char*>(data), size, false, {}});
}

void add_output(void* data, size_t size) {
  machine.memories.push_back({static_cast<const unsigned char*>(data), size, true, std::vector<bool>(size)});
}

std::string run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body) {
  if (machine.stacks_of < static_cast<size_t>(threads)) {
    machine.stacks.reset(new unsigned char[threads * kStack]);
    machine.stacks_of = threads;
  }
  machine.shared.resize(shared_bytes);
  machine.body = &body;
  machine.failure.clear();
  for (machine.block = 0; machine.block < blocks && machine.failure.empty(); ++machine.block) run_block(threads);
  return machine.failure;
}

int thread() { return machine.current->thread; }
int64_t block() { return machine.block; }
void barrier() { leave(State::barrier); }

void together(Collective execute, void* mine) {
  machine.current->execute = execute;
  machine.current->mine = mine;
  leave(State::collective);
}

void check_read(const void* source, size_t size) {
  const Memory& memory = find(source, size, "reading");
  if (!memory.output) return;
  const size_t at = static_cast<const unsigned char*>(source) - memory.begin;
  for (size_t i = 0; i < size; ++i) {
    if (!memory.written[at + i]) fail("reading an element that nobody has written");
  }
}

void check_write(const void* target, size_t size) {
  Memory& memory = find(target, size, "writing");
  if (!memory.output) fail("writing to an input");
  const size_t at = static_cast<const unsigned char*>(target) - memory.begin;
  for (size_t i = 0; i < size; ++i) {
    if (memory.written[at + i]) fail("writing an element twice");
    memory.written[at + i] = true;
  }
}

unsigned char* shared(uint32_t address, size_t size) {
  if (address % size != 0) fail("misaligned access to shared memory");
  if (address < kSharedBase || address - kSharedBase + size > machine.shared.size()) fail("out of shared memory");
  return machine.shared.data() + (address - kSharedBase);
}

void copy_async(uint32_t target, const void* source, size_t size, bool valid) {
  if (valid) check_read(source, size);
  std::memset(shared(target, size), 0xFF, size);
  machine.current->uncommitted.push_back({target, source, size, valid});
}

void commit() {
  Fiber& self = *machine.current;
  self.groups.push_back(std::move(self.uncommitted));
  self.uncommitted.clear();
}

void wait(int pending) {
  auto& groups = machine.current->groups;
  while (groups.size() > static_cast<size_t>(pending)) {
    for (const Copy& copy : groups.front()) {
      unsigned char* target = shared(copy.target, copy.size);
      if (copy.valid) {
        std::memcpy(target, copy.source, copy.size);
      } else {
        std::memset(target, 0, copy.size);
      }
    }
    groups.pop_front();
  }
}

}  // namespace emulation
