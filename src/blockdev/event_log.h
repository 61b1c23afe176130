#pragma once
// Tells the administrator, in the kernel's log: beside the kernel's own words on the device, and reachable by
// journals.

namespace farpool {

// Opens the log; `device` is put before each line.
void OpenEventLog();
void NameEventLog(const char* device);
// One line. Allocates nothing. Any thread.
void LogEvent(const char* text);

}  // namespace farpool
