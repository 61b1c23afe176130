#pragma once
// Ranges of pages the program gave advice on, oldest first, until somebody has followed it. Advice may be
// lost: at most kHintsMax ranges are remembered. Caller serialises.

#include <cstdint>

namespace farpool {

class HintQueue {
 public:
  static constexpr unsigned kHintsMax = 64;

  struct Hint {
    uint64_t first;  // Page; goes up as the advice is followed.
    uint64_t last;   // One past the end.
    uint64_t most;   // Pages still to be moved for it.
  };

  // Adds [first, last), of which at most `most` pages are to be moved. What follows the newest range becomes
  // part of it: a program that goes piece by piece is not allowed more for that. Without room the oldest
  // goes.
  void Add(uint64_t first, uint64_t last, uint64_t most) {
    const uint64_t pages = last - first;
    if (count_ > 0) {
      Hint& newest = hints_[(head_ + count_ - 1) % kHintsMax];
      if (newest.last == first) {
        newest.last = last;
        newest.most = newest.most + pages < most ? newest.most + pages : most;
        return;
      }
    }
    if (count_ == kHintsMax) Pop();
    hints_[(head_ + count_++) % kHintsMax] = {first, last, pages < most ? pages : most};
  }
  bool empty() const { return count_ == 0; }
  Hint& oldest() { return hints_[head_]; }
  void Pop() {
    head_ = (head_ + 1) % kHintsMax;
    --count_;
  }
  // [first, last) holds nothing any more: nor do hints on parts of it.
  void Forget(uint64_t first, uint64_t last) {
    unsigned kept = 0;
    for (unsigned i = 0; i < count_; ++i) {
      const Hint hint = hints_[(head_ + i) % kHintsMax];
      if (hint.first < first || hint.last > last) hints_[(head_ + kept++) % kHintsMax] = hint;
    }
    count_ = kept;
  }
  void Clear() { count_ = 0; }

 private:
  unsigned head_ = 0;
  unsigned count_ = 0;
  Hint hints_[kHintsMax];
};

}  // namespace farpool
