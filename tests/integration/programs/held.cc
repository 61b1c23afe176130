// held [MiB]: asynchronous reads (io_submit) of a file whose reads last as long as this program likes: of a
// file system of its own (FUSE). While they are under way much other memory is walked through; then each
// buffer must hold what the file does. Needs the right to mount, and leaves the mount to whoever ends its
// mount namespace.

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <vector>

#include "far.h"

namespace {

constexpr size_t kBytes = 64 * 1024;  // Of one read.
constexpr int kReads = 8;
constexpr uint64_t kFile = 2;  // Node ids.

template <typename T>
void Answer(int fuse, uint64_t id, const T* answer, size_t bytes = sizeof(T), int error = 0) {
  fuse_out_header header = {static_cast<uint32_t>(sizeof(header) + bytes), -error, id};
  const iovec parts[] = {{&header, sizeof(header)}, {const_cast<T*>(answer), bytes}};
  CHECK(writev(fuse, parts, 2) == static_cast<ssize_t>(header.len), "answering: %s", strerror(errno));
}
void Refuse(int fuse, uint64_t id, int error) { Answer<char>(fuse, id, nullptr, 0, error); }

fuse_attr Attributes(uint64_t node) {
  fuse_attr a = {};
  a.ino = node;
  a.mode = node == kFile ? S_IFREG | 0600 : S_IFDIR | 0700;
  a.nlink = 1;
  a.size = node == kFile ? kReads * kBytes : 0;
  return a;
}

// Serves `data`. Reads are answered once somebody asks for `go`.
[[noreturn]] void Serve(int fuse) {
  struct Read {
    uint64_t id, offset;
    uint32_t bytes;
  };
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<Read> held;
  bool go = false;
  static char request[FUSE_MIN_READ_BUFFER + kBytes];
  static char data[kBytes];
  for (;;) {
    const ssize_t bytes = read(fuse, request, sizeof(request));
    if (bytes < 0 && errno == ENODEV) _exit(0);
    CHECK(bytes >= static_cast<ssize_t>(sizeof(fuse_in_header)), "the next request: %s", strerror(errno));
    const auto* in = reinterpret_cast<const fuse_in_header*>(request);
    const char* argument = request + sizeof(*in);
    switch (in->opcode) {
      case FUSE_INIT: {
        fuse_init_out out = {};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = 31;
        out.flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_MAX_PAGES;
        out.max_background = 2 * kReads;
        out.max_write = kBytes;
        out.max_pages = kBytes / 4096;
        Answer(fuse, in->unique, &out);
        break;
      }
      case FUSE_LOOKUP: {
        go |= strcmp(argument, "go") == 0;
        if (strcmp(argument, "data") != 0) {
          Refuse(fuse, in->unique, ENOENT);
          break;
        }
        fuse_entry_out out = {};
        out.nodeid = kFile;
        out.attr = Attributes(kFile);
        Answer(fuse, in->unique, &out);
        break;
      }
      case FUSE_GETATTR: {
        fuse_attr_out out = {};
        out.attr = Attributes(in->nodeid);
        Answer(fuse, in->unique, &out);
        break;
      }
      case FUSE_OPEN: {
        const fuse_open_out out = {};
        Answer(fuse, in->unique, &out);
        break;
      }
      case FUSE_READ: {
        const auto* read_in = reinterpret_cast<const fuse_read_in*>(argument);
        held.push_back({in->unique, read_in->offset, read_in->size});
        break;
      }
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        break;
      case FUSE_FLUSH:
      case FUSE_RELEASE:
        Refuse(fuse, in->unique, 0);
        break;
      default:
        Refuse(fuse, in->unique, ENOSYS);
    }
    if (!go) continue;
    for (const Read& one : held) {
      for (size_t i = 0; i < one.bytes; ++i) data[i] = static_cast<char>(Mix(one.offset + i));
      Answer(fuse, one.id, data, one.bytes);
    }
    held.clear();
  }
}

// The buffers of reads that are under way stay where the kernel found them, until the events are reaped.
void Held(const char* folder) {
  const std::string path = folder;
  const int fd = open((path + "/data").c_str(), O_RDONLY | O_DIRECT);
  CHECK(fd >= 0, "opening the file: %s", strerror(errno));
  aio_context_t context = 0;
  CHECK(syscall(SYS_io_setup, kReads, &context) == 0, "io_setup: %s", strerror(errno));
  char* buffers[kReads];
  iocb* blocks[kReads];
  for (int i = 0; i < kReads; ++i) {
    buffers[i] = static_cast<char*>(aligned_alloc(4096, kBytes));
    memset(buffers[i], 1, kBytes);
    blocks[i] = Far(iocb{});
    blocks[i]->aio_fildes = static_cast<uint32_t>(fd);
    blocks[i]->aio_offset = static_cast<int64_t>(static_cast<size_t>(i) * kBytes);
    const bool vector = i % 2 == 1;
    blocks[i]->aio_lio_opcode = vector ? IOCB_CMD_PREADV : IOCB_CMD_PREAD;
    blocks[i]->aio_buf =
        reinterpret_cast<uint64_t>(vector ? static_cast<void*>(Far(iovec{buffers[i], kBytes})) : buffers[i]);
    blocks[i]->aio_nbytes = vector ? 1 : kBytes;
  }
  Stir();
  CHECK(syscall(SYS_io_submit, context, kReads, blocks) == kReads, "io_submit: %s", strerror(errno));
  Stir();
  io_event events[kReads];
  timespec now = {};
  CHECK(syscall(SYS_io_getevents, context, 0, kReads, events, &now) == 0, "a read that is held has ended");
  CHECK(access((path + "/go").c_str(), F_OK) != 0 && errno == ENOENT, "access: %s", strerror(errno));
  CHECK(syscall(SYS_io_getevents, context, kReads, kReads, events, nullptr) == kReads, "io_getevents: %s",
        strerror(errno));
  for (const io_event& event : events)
    CHECK(event.res == static_cast<int64_t>(kBytes), "a read: %lld", event.res);
  Stir();
  for (int i = 0; i < kReads; ++i) Verify(buffers[i], kBytes, static_cast<size_t>(i) * kBytes, "held read");
  CHECK(syscall(SYS_io_destroy, context) == 0, "io_destroy");
  close(fd);
  printf("held: %d reads\n", kReads);
}

}  // namespace

int main(int argc, char** argv) {
  StirInit(Argument(argc, argv, 1, 64));
  char folder[] = "/tmp/held.XXXXXX";
  CHECK(mkdtemp(folder) != nullptr, "mkdtemp");
  const int fuse = open("/dev/fuse", O_RDWR);
  CHECK(fuse >= 0, "/dev/fuse: %s", strerror(errno));
  char options[80];
  snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fuse, getuid(), getgid());
  CHECK(mount("held", folder, "fuse", MS_NOSUID | MS_NODEV, options) == 0, "mount: %s", strerror(errno));
  const pid_t server = fork();
  CHECK(server >= 0, "fork");
  if (server == 0) Serve(fuse);
  close(fuse);
  Held(folder);
  CHECK(umount2(folder, MNT_DETACH) == 0 && rmdir(folder) == 0, "umount: %s", strerror(errno));
  int status;
  CHECK(waitpid(server, &status, 0) == server && status == 0, "the server ended with %x",
        static_cast<unsigned>(status));
  return 0;
}
