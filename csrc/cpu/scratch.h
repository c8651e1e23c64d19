// Uninitialised memory for one call, aligned to whole vectors of every instruction set.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastgan {

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

}  // namespace fastgan
