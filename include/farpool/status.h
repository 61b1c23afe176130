#pragma once
// What an operation came to. Carried by value, never thrown; holds its message inline so that it can be made
// in a signal handler (no allocation).

#include <cstdint>
#include <optional>
#include <utility>

namespace farpool {

class [[nodiscard]] Status {
 public:
  enum class Code : uint8_t {
    kOk = 0,
    kInvalidArgument,  // The caller or the user gave something that cannot be right.
    kNotFound,
    kUnavailable,  // The other side is gone or cannot be reached.
    kTimeout,      // No answer within the bound.
    kExhausted,    // Out of memory, slots, quota, descriptors.
    kPermission,   // Refused by the kernel or by the other side.
    kUnsupported,  // This kernel, peer or medium cannot do it.
    kCorrupt,      // Bytes are not what they must be.
    kInternal,
  };

  Status() : code_(Code::kOk), errno_(0) { text_[0] = 0; }
  // `text` is cut to fit; say what was wrong and, where there is something to do, what to do.
  Status(Code code, const char* text, int error = 0) : code_(code), errno_(error) {
    unsigned i = 0;
    for (; text[i] != 0 && i + 1 < sizeof(text_); ++i) text_[i] = text[i];
    text_[i] = 0;
  }
  // Most are Ok and travel through every fault: they leave the text alone.
  Status(const Status& other) : code_(other.code_), errno_(other.errno_) { CopyText(other); }
  Status& operator=(const Status& other) {
    if (this == &other) return *this;
    code_ = other.code_;
    errno_ = other.errno_;
    CopyText(other);
    return *this;
  }
  static Status Ok() { return {}; }
  static Status InvalidArgument(const char* text) { return {Code::kInvalidArgument, text}; }
  static Status Unavailable(const char* text) { return {Code::kUnavailable, text}; }
  static Status Timeout(const char* text) { return {Code::kTimeout, text}; }
  static Status Exhausted(const char* text) { return {Code::kExhausted, text}; }
  static Status Corrupt(const char* text) { return {Code::kCorrupt, text}; }
  static Status Unsupported(const char* text) { return {Code::kUnsupported, text}; }
  // `error` is a positive errno value; `call` names what failed.
  static Status FromErrno(const char* call, int error);

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  int error() const { return errno_; }  // errno where a system call failed, else 0.
  const char* text() const { return text_; }

 private:
  void CopyText(const Status& other) {
    text_[0] = 0;
    if (code_ != Code::kOk) __builtin_memcpy(text_, other.text_, sizeof(text_));
  }

  Code code_;
  int errno_;
  char text_[184];
};

// A value or the reason there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Status status) : status_(status) {}     // NOLINT: implicit on purpose
  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return std::move(*value_); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace farpool
