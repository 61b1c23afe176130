#include "supervisor/processes.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "paging/engine.h"
#include "run/layout.h"

namespace farpool {

Result<uint32_t> Processes::Add(Fd&& channel) {
  if (entries_.size() >= kProcessesMax) return Status::Exhausted("too many processes in one run");
  while (entries_.contains(next_)) next_ = (next_ + 1) % kProcessesMax;
  Fd table(memfd_create("farpool-pages", MFD_CLOEXEC));
  if (!table.valid()) return Status::FromErrno("memfd_create", errno);
  if (ftruncate(table.get(), static_cast<off_t>(kArenaPages * sizeof(PageEntry))) != 0)
    return Status::FromErrno("making room for a page table (a limit on file sizes, ulimit -f?)", errno);
  const uint32_t index = next_;
  next_ = (next_ + 1) % kProcessesMax;
  segment_->processes[index].resident.store(0);
  segment_->processes_started.fetch_add(1);
  segment_->budget.processes.fetch_add(1);
  entries_.emplace(index, Entry{std::move(channel), std::move(table)});
  return index;
}

void Processes::NoteTableBytes() {
  uint64_t bytes = 0;
  for (const auto& [index, entry] : entries_) {
    struct stat info;
    if (fstat(entry.table.get(), &info) == 0) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  if (bytes > table_bytes_peak_) table_bytes_peak_ = bytes;
}

void Processes::Remove(uint32_t index) {
  NoteTableBytes();
  const int fd = entries_.at(index).table.get();
  uint64_t far_pages = 0;
  off_t at = 0;
  for (;;) {
    const off_t begin = lseek(fd, at, SEEK_DATA);
    if (begin < 0) break;  // ENXIO: no more data.
    const off_t end = lseek(fd, begin, SEEK_HOLE);
    // Extents are whole pages of the file, entries of 24 bytes are not: start at the entry that reaches in.
    // It may lie partly in a hole before, which then holds zeros.
    const auto first = static_cast<uint64_t>(begin) / sizeof(PageEntry);
    const auto last = (static_cast<uint64_t>(end) + sizeof(PageEntry) - 1) / sizeof(PageEntry);
    const off_t map_at = static_cast<off_t>(first * sizeof(PageEntry)) & ~static_cast<off_t>(kPageBytes - 1);
    const size_t map_bytes = last * sizeof(PageEntry) - static_cast<size_t>(map_at);
    void* map = mmap(nullptr, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, map_at);
    if (map == MAP_FAILED) break;
    auto* entries = reinterpret_cast<PageEntry*>(static_cast<std::byte*>(map) +
                                                 (first * sizeof(PageEntry) - static_cast<size_t>(map_at)));
    for (uint64_t i = 0; i < last - first; ++i) {
      PageEntry& entry = entries[i];
      if (entry.state == PageEntry::State::kNone) continue;
      ++far_pages;
      if (entry.slot != SlotId::kNone) segment_->slabs.Release(entry.slot);
      entry = PageEntry{};  // An entry at the seam of two extents must not be released twice.
    }
    munmap(map, map_bytes);
    at = end;
  }
  segment_->budget.far.fetch_sub(far_pages);
  segment_->budget.used.fetch_sub(segment_->processes[index].resident.exchange(0));
  segment_->budget.processes.fetch_sub(1);
  entries_.erase(index);
}

}  // namespace farpool
