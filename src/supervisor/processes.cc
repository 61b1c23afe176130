#include "supervisor/processes.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "paging/engine.h"
#include "run/layout.h"

namespace farpool {

namespace {
constexpr size_t kEntriesRead = 4096;  // Of a page table, at once.
}  // namespace

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
  uint64_t first = 0;  // Entry that comes next.
  std::vector<PageEntry> entries(kEntriesRead);
  for (off_t at = 0;;) {
    const off_t begin = lseek(fd, at, SEEK_DATA);
    if (begin < 0) break;  // ENXIO: no more data.
    const off_t end = lseek(fd, begin, SEEK_HOLE);
    // Extents are whole pages of the file, entries are not: the first may reach in from a hole, and the last
    // out into one; the next extent goes on behind it.
    first = std::max(first, static_cast<uint64_t>(begin) / sizeof(PageEntry));
    const uint64_t last = (static_cast<uint64_t>(end) + sizeof(PageEntry) - 1) / sizeof(PageEntry);
    while (first < last) {
      const size_t bytes = std::min<uint64_t>(last - first, kEntriesRead) * sizeof(PageEntry);
      const ssize_t got = pread(fd, entries.data(), bytes, static_cast<off_t>(first * sizeof(PageEntry)));
      if (got < static_cast<ssize_t>(sizeof(PageEntry))) break;
      const size_t count = static_cast<size_t>(got) / sizeof(PageEntry);
      for (size_t i = 0; i < count; ++i) {
        if (entries[i].state == PageEntry::State::kNone) continue;
        ++far_pages;
        if (entries[i].slot != SlotId::kNone) segment_->slabs.Release(entries[i].slot);
      }
      first += count;
    }
    at = end;
  }
  segment_->budget.far.fetch_sub(far_pages);
  segment_->budget.used.fetch_sub(segment_->processes[index].resident.exchange(0));
  segment_->budget.processes.fetch_sub(1);
  entries_.erase(index);
}

}  // namespace farpool
