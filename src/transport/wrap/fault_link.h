#pragma once
// Link that misbehaves by a script; everything else goes on to the next link. For tests and for trying out
// what a program does when its donors fail. Not for signal handlers' hot paths, but it allocates nothing
// either.

#include "transport/link.h"

namespace farpool {

struct FaultRule {
  enum class Action : uint8_t {
    kFail,       // Ends at once with `code`; the donor never sees it.
    kLoseReply,  // The donor carries it out, the caller is told `code`: what happened is unknown to it.
    kHold,       // Neither done nor passed on until Release().
  };
  Action action = Action::kFail;
  Status::Code code = Status::Code::kUnavailable;
  uint64_t first = 0;           // Counted in operations that `kinds` selects, from 0.
  uint64_t count = UINT64_MAX;  // So many from `first` on.
  unsigned kinds = ~0u;         // Bit 1 << LinkOp::Kind.
};

class FaultLink final : public Link {
 public:
  static constexpr unsigned kMaxRules = 8;

  explicit FaultLink(Link* next) : next_(next) {}
  // Rules are asked in the order they were added; the first that fits decides. False if there are kMaxRules.
  bool AddRule(const FaultRule& rule);
  void ClearRules() { rules_ = 0; }
  // Passes on what is held.
  void Release();
  // From now on every operation, the held ones too, ends with kUnavailable.
  void Break();
  unsigned held() const { return held_; }

  void Post(LinkOp* const* ops, unsigned count) override;
  void Poll() override { next_->Poll(); }
  // Waiting for a held operation ends it with kTimeout, as a link does at its deadline, and breaks the link.
  void Wait(LinkOp* op) override;
  bool alive() const override { return alive_ && next_->alive(); }

 private:
  struct Slot {
    FaultRule rule;
    uint64_t seen = 0;
  };
  void EndHeld(Status::Code code);

  Link* next_;
  Slot slots_[kMaxRules];
  unsigned rules_ = 0;
  unsigned held_ = 0;
  LinkOp* held_head_ = nullptr;
  LinkOp* held_tail_ = nullptr;
  bool alive_ = true;
};

}  // namespace farpool
