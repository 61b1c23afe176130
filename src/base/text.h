#pragma once
// Builds a short text in place: for messages from contexts that may not allocate. Cuts what does not fit.

#include <cstddef>
#include <cstdint>

namespace farpool {

template <size_t kBytes>
class TextBuffer {
 public:
  TextBuffer& Add(const char* text) {
    while (*text != 0 && size_ + 1 < kBytes) data_[size_++] = *text++;
    data_[size_] = 0;
    return *this;
  }
  TextBuffer& Add(uint64_t value) { return AddRadix(value, 10); }
  TextBuffer& AddHex(uint64_t value) { return Add("0x").AddRadix(value, 16); }
  const char* c_str() const { return data_; }
  size_t size() const { return size_; }

 private:
  TextBuffer& AddRadix(uint64_t value, unsigned radix) {
    char digits[24];
    size_t at = sizeof(digits) - 1;
    digits[at] = 0;
    do {
      digits[--at] = "0123456789abcdef"[value % radix];
      value /= radix;
    } while (value != 0);
    return Add(digits + at);
  }

  char data_[kBytes] = {0};
  size_t size_ = 0;
};

}  // namespace farpool
