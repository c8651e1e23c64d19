// Uninitialised memory, aligned to whole vectors of every instruction set.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

namespace fastgan {

// For one call.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : memory_(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count > 0 ? count : 1), kAlignment))) {}

  T* get() const { return memory_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<T, Free> memory_;
};

// The same, which the next call finds again: fresh pages cost more than what fills them, and freeing large blocks makes
// the C library hand the pages of results back to the system between calls. It grows to what the largest call needs; a
// call on a second thread meanwhile has its own. A call uses one for each `Use`, a type that only names it.
template <class T, class Use>
class Workspace {
 public:
  explicit Workspace(int64_t count) : block_(kept.exchange(nullptr)) {
    if (block_ == nullptr || block_->count < count) {
      delete block_;
      block_ = nullptr;
      block_ = new Block{count, Scratch<T>(count)};
    }
  }
  ~Workspace() { delete kept.exchange(block_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  T* get() const { return block_->memory.get(); }

 private:
  struct Block {
    int64_t count;
    Scratch<T> memory;
  };
  static inline std::atomic<Block*> kept{nullptr};
  Block* block_;
};

}  // namespace fastgan
