// Linux asynchronous I/O (io_submit and its like). The kernel goes on reading and writing the buffers when
// io_submit has returned: they stay pinned until the program reaps the event, or uses the control block
// again.

#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cerrno>

#include "preload/guard.h"
#include "preload/prepare.h"
#include "preload/runtime.h"

namespace farpool {

namespace {

// Keeps the far part of what a control block names. False if there are no pins left.
bool KeepBuffer(uint64_t begin, uint64_t bytes, uintptr_t block, uint64_t context) {
  uint64_t end;
  if (!InArena(begin) || bytes == 0 || __builtin_add_overflow(begin, bytes, &end)) return true;
  if (!g_runtime.engine->pins().Keep(begin, end, block, context)) return false;
  MakePresent(begin, bytes);
  return true;
}

bool KeepBuffers(const iocb& request, uintptr_t block, uint64_t context) {
  switch (request.aio_lio_opcode) {
    case IOCB_CMD_PREAD:
    case IOCB_CMD_PWRITE:
      return KeepBuffer(request.aio_buf, request.aio_nbytes, block, context);
    case IOCB_CMD_PREADV:
    case IOCB_CMD_PWRITEV: {
      if (request.aio_nbytes > kIovecsMax) return true;
      // The vector itself is read before io_submit returns, but goes with the rest.
      if (!KeepBuffer(request.aio_buf, request.aio_nbytes * sizeof(iovec), block, context)) return false;
      for (uint64_t i = 0; i < request.aio_nbytes; ++i) {
        iovec one;
        if (!CopyElement(&one, request.aio_buf, i)) return true;
        if (!KeepBuffer(reinterpret_cast<uintptr_t>(one.iov_base), one.iov_len, block, context)) return false;
      }
      return true;
    }
    default:
      return true;
  }
}

}  // namespace

long CallIoSubmit(const GuardFrame* frame) {
  const uint64_t context = frame->args[0];
  const auto count = static_cast<long>(frame->args[1]);
  if (count <= 0 || !g_runtime.has_started()) return CallPrepared(frame);
  Pins& pins = g_runtime.engine->pins();
  // One by one, as the kernel itself does: then each control block is known to be in or not.
  for (long done = 0; done < count; ++done) {
    uintptr_t block;
    iocb request;
    long r = -EFAULT;
    if (CopyElement(&block, frame->args[2], static_cast<uint64_t>(done)) &&
        CopyIn(&request, block, sizeof(request))) {
      pins.Release(block, context);
      // The kernel writes a key to the block.
      if (KeepBuffers(request, block, context) && KeepBuffer(block, sizeof(request), block, context)) {
        r = CallPrepared(SYS_io_submit, context, 1, &block);
      } else {
        r = -EAGAIN;  // As when the kernel has no more room: reap first.
      }
      if (r != 1) pins.Release(block, context);
    }
    if (r != 1) return done > 0 ? done : r;
  }
  return count;
}

// io_getevents, and io_pgetevents with its mask made ready.
long CallIoGetevents(const GuardFrame* frame) {
  const long r = CallPrepared(frame);
  for (long i = 0; i < r && g_runtime.has_started(); ++i) {
    io_event event;
    if (CopyElement(&event, frame->args[3], static_cast<uint64_t>(i)))
      g_runtime.engine->pins().Release(event.obj, frame->args[0]);
  }
  return r;
}

long CallIoCancel(const GuardFrame* frame) {
  const long r = CallPrepared(frame);
  if (r == 0 && g_runtime.has_started()) g_runtime.engine->pins().Release(frame->args[1], frame->args[0]);
  return r;
}

long CallIoDestroy(const GuardFrame* frame) {
  const long r = Forward(frame);  // Waits for what is under way.
  if (r == 0 && g_runtime.has_started()) g_runtime.engine->pins().ReleaseGroup(frame->args[0]);
  return r;
}

}  // namespace farpool
