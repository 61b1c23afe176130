#pragma once
// Shared by the programs that hand memory to the kernel which nobody touched for a while. They know nothing
// of farpool: on a machine with enough memory the stirring is for nothing.

#include <cstring>
#include <string>

#include "check.h"

inline uint64_t* stir_words;
inline size_t stir_count;
inline volatile uint64_t stir_sum;

// What malloc gives first may lie in memory of another kind than what it gives later. Uses that up.
inline void TakeFirstMemory() {
  for (int i = 0; i < 200; ++i) {
    void* at = malloc(20'000);
    asm volatile("" : : "r"(at) : "memory");  // Not to be optimised away.
  }
}

inline void StirInit(uint64_t mib) {
  TakeFirstMemory();
  // Apart from all else: reading ahead must not bring in what is looked for.
  constexpr size_t kApart = (1 << 20) / sizeof(uint64_t);
  stir_count = (mib << 20) / sizeof(uint64_t);
  stir_words = static_cast<uint64_t*>(malloc((stir_count + 2 * kApart) * sizeof(uint64_t)));
  CHECK(stir_words != nullptr, "malloc");
  stir_words += kApart;
  for (size_t i = 0; i < stir_count; ++i) stir_words[i] = Mix(i);
}

// Walks through much memory; two passes, so that what was in use before is surely the oldest.
inline void Stir() {
  for (int pass = 0; pass < 2; ++pass)
    for (size_t i = 0; i < stir_count; i += 64) stir_sum = stir_sum + (stir_words[i] += i);
}

// Heap memory that malloc maps or carves out of its large heap, filled from `key`.
inline char* Buffer(size_t bytes, uint64_t key) {
  auto* at = static_cast<char*>(malloc(bytes));
  CHECK(at != nullptr, "malloc");
  for (size_t i = 0; i < bytes; ++i) at[i] = static_cast<char>(Mix(key + i));
  return at;
}
inline void Verify(const char* at, size_t bytes, uint64_t key, const char* what) {
  for (size_t i = 0; i < bytes; ++i)
    CHECK(at[i] == static_cast<char>(Mix(key + i)), "%s: byte %zu of %zu", what, i, bytes);
}

// Room in pages of its own, surrounded by bytes that are not zero.
inline void* FarRoom(size_t bytes) {
  constexpr size_t kAround = 3 * 4096;
  auto* at = static_cast<char*>(malloc(bytes + 2 * kAround));
  CHECK(at != nullptr, "malloc");
  memset(at, 1, bytes + 2 * kAround);
  return at + kAround + 64 - reinterpret_cast<uintptr_t>(at) % 64;
}
// An object in a far page of its own.
template <typename T>
T* Far(const T& value) {
  return new (FarRoom(sizeof(T))) T(value);
}
template <typename T>
T* FarArray(size_t count) {
  void* room = FarRoom(count * sizeof(T));
  memset(room, 0, count * sizeof(T));
  return static_cast<T*>(room);
}
// A string in a far page of its own.
inline char* Text(const std::string& text) {
  return static_cast<char*>(memcpy(FarRoom(text.size() + 1), text.c_str(), text.size() + 1));
}
