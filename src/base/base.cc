#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "base/assert.h"
#include "base/sys.h"
#include "base/text.h"
#include "farpool/status.h"

namespace farpool {

namespace {
const char* ErrnoName(int error) {
  switch (error) {
    case 1:
      return "operation not permitted";
    case 2:
      return "no such file or directory";
    case 4:
      return "interrupted";
    case 5:
      return "input/output error";
    case 9:
      return "bad file descriptor";
    case 11:
      return "try again";
    case 12:
      return "out of memory";
    case 13:
      return "permission denied";
    case 14:
      return "bad address";
    case 16:
      return "busy";
    case 17:
      return "already exists";
    case 20:
      return "not a directory";
    case 22:
      return "invalid argument";
    case 23:
      return "too many open files on this machine";
    case 24:
      return "too many open files";
    case 25:
      return "not supported by this file";
    case 27:
      return "file too large";
    case 28:
      return "no space left";
    case 30:
      return "read-only file system";
    case 32:
      return "broken pipe";
    case 36:
      return "file name too long";
    case 38:
      return "not implemented by this kernel";
    case 40:
      return "too many symbolic links";
    case 95:
      return "not supported";
    case 97:
      return "address family not supported";
    case 98:
      return "address already in use";
    case 99:
      return "no such address on this machine";
    case 101:
      return "network unreachable";
    case 104:
      return "connection reset";
    case 105:
      return "no buffer space";
    case 110:
      return "timed out";
    case 111:
      return "connection refused";
    case 112:
      return "host is down";
    case 113:
      return "no route to host";
    case 122:
      return "disk quota exceeded";
    default:
      return nullptr;
  }
}
}  // namespace

Status Status::FromErrno(const char* call, int error) {
  TextBuffer<160> text;
  text.Add(call).Add(": ");
  if (const char* name = ErrnoName(error)) {
    text.Add(name);
  } else {
    text.Add("errno ").Add(static_cast<uint64_t>(error));
  }
  Code code = Code::kInternal;
  switch (error) {
    case 1:
    case 13:
      code = Code::kPermission;
      break;
    case 2:
      code = Code::kNotFound;
      break;
    case 12:
    case 24:
    case 28:
      code = Code::kExhausted;
      break;
    case 22:
      code = Code::kInvalidArgument;
      break;
    case 38:
    case 95:
      code = Code::kUnsupported;
      break;
    case 110:
      code = Code::kTimeout;
      break;
    case 32:
    case 101:
    case 104:
    case 111:
    case 113:
      code = Code::kUnavailable;
      break;
    default:
      break;
  }
  return {code, text.c_str(), error};
}

void AssertFailed(const char* condition, const char* file, int line) {
  TextBuffer<256> text;
  text.Add("farpool: internal error: ").Add(condition).Add(" (").Add(file).Add(":");
  text.Add(static_cast<uint64_t>(line)).Add(")\n");
  sys::Call(SYS_write, 2, text.c_str(), text.size());
  // abort() would run the program's handlers; this is ours to end.
  for (;;) {
    sys::Call(SYS_kill, sys::Call(SYS_getpid), 9);
    __builtin_ia32_pause();
  }
}

}  // namespace farpool
