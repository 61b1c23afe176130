#pragma once
// The loop beside a running program: answers its processes, watches the donors, passes signals on, reaps.

#include <string>

#include "run/segment.h"
#include "store/lease/donors.h"
#include "supervisor/processes.h"

namespace farpool {

class Supervisor {
 public:
  Supervisor(RunSegment* segment, Donors* donors, int control, int signals)
      : segment_(segment), donors_(donors), processes_(segment), control_(control), signals_(signals) {}

  // Until the program `child` and every process of the run with far memory have ended. Returns the exit
  // status for farpool run.
  int Loop(pid_t child);
  uint64_t table_bytes_peak() const { return processes_.table_bytes_peak(); }
  uint64_t stored_bytes() const { return stored_bytes_; }
  uint64_t near_bytes_peak() const { return near_bytes_peak_; }

 private:
  void OnControl();
  void OnChannel(uint32_t index);
  // Processes whose channel has ended, with nothing left to read.
  void RemoveEnded();
  // It has ended, or runs another program now.
  void RemoveProcess(uint32_t index);
  // A data channel to `donor` for a process, in place of the one it had.
  Result<Fd> Connect(uint32_t index, uint32_t donor);
  void OnSignal();
  void Reap();
  void OnDonor(uint32_t donor);
  // At most once a second: what of the processes' private memory is not far.
  void NoteNearBytes();
  void Reply(int channel, const Status& status, uint64_t value, const int* fds, int fd_count);
  // Ends every process of the run; `text` is the one line the user gets.
  void Stop(int status, const std::string& text);

  RunSegment* segment_;
  Donors* donors_;
  Processes processes_;
  int control_;
  int signals_;
  pid_t child_ = -1;
  bool child_ended_ = false;
  int exit_status_ = 0;
  bool stopping_ = false;
  uint64_t stored_bytes_ = 0;
  uint64_t near_bytes_peak_ = 0;
  uint64_t near_due_ns_ = 0;
};

}  // namespace farpool
