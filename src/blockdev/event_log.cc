#include "blockdev/event_log.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/text.h"

namespace farpool {

namespace {
int log_fd = -1;
TextBuffer<32> log_name;
}  // namespace

void OpenEventLog() { log_fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC); }

void NameEventLog(const char* device) { log_name.Add(device).Add(": "); }

void LogEvent(const char* text) {
  TextBuffer<400> line;
  line.Add("<4>farpool: ").Add(log_name.c_str()).Add(text).Add("\n");  // 4: a warning.
  if (log_fd >= 0) (void)!write(log_fd, line.c_str(), line.size());
}

}  // namespace farpool
