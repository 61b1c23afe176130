#pragma once
// Room for a T that is made when it is first wanted, for good: until then its memory is not touched.

#include <cstddef>
#include <new>

namespace farpool {

template <typename T>
class Later {
 public:
  // Only what T initialises is written: `T()` would clear all of it first.
  void Make() { new (room_) T; }
  template <typename Arg>
  void Make(Arg arg) {
    new (room_) T(arg);
  }
  // Once it is made.
  T* operator->() { return std::launder(reinterpret_cast<T*>(room_)); }
  T& operator*() { return *operator->(); }

 private:
  alignas(T) std::byte room_[sizeof(T)];
};

}  // namespace farpool
