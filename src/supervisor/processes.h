#pragma once
// The processes of a run that have far memory: their channels, page tables and share of the budget. When one
// ends, is killed or replaces its image its holdings are given back by walking its page table.

#include <map>

#include "base/fd.h"
#include "farpool/status.h"
#include "run/segment.h"

namespace farpool {

class Processes {
 public:
  explicit Processes(RunSegment* segment) : segment_(segment) {}

  // A new entry with an empty page table, served on `channel`. kExhausted: too many processes.
  // `channel` is taken over on success only.
  Result<uint32_t> Add(Fd&& channel);
  int table(uint32_t index) const { return entries_.at(index).table.get(); }
  bool Has(uint32_t index) const { return entries_.contains(index); }
  // The entry's slots are released, which nothing may write any more, its pages taken off the budget; then it
  // is gone.
  void Remove(uint32_t index);

  struct Entry {
    Fd channel;
    Fd table;
    uint64_t donors = 0;  // Bit per donor that it has had a data channel to.
  };
  const std::map<uint32_t, Entry>& entries() const { return entries_; }
  void NoteDonor(uint32_t index, uint32_t donor) { entries_.at(index).donors |= uint64_t{1} << donor; }
  // Bytes of page tables at their largest.
  uint64_t table_bytes_peak() const { return table_bytes_peak_; }
  void NoteTableBytes();

 private:
  RunSegment* segment_;
  std::map<uint32_t, Entry> entries_;
  uint32_t next_ = 0;
  uint64_t table_bytes_peak_ = 0;
};

}  // namespace farpool
