#pragma once
// libibverbs, opened at run time: farpool runs where it is not installed, and nothing links it.

#include <infiniband/verbs.h>
#include <pthread.h>

#include "farpool/status.h"

namespace farpool {

// Its functions by their names there; posting and polling are inline and go by the device's own context.
struct Verbs {
  void (*free_device_list)(ibv_device**);
  const char* (*get_device_name)(ibv_device*);
  ibv_context* (*open_device)(ibv_device*);
  int (*close_device)(ibv_context*);
  int (*query_device)(ibv_context*, ibv_device_attr*);
  int (*query_port)(ibv_context*, uint8_t, ibv_port_attr*);
  ssize_t (*query_gid_table)(ibv_context*, ibv_gid_entry*, size_t, uint32_t, size_t);
  ibv_pd* (*alloc_pd)(ibv_context*);
  int (*dealloc_pd)(ibv_pd*);
  ibv_mr* (*reg_mr)(ibv_pd*, void*, size_t, int);
  int (*dereg_mr)(ibv_mr*);
  ibv_cq* (*create_cq)(ibv_context*, int, void*, ibv_comp_channel*, int);
  int (*destroy_cq)(ibv_cq*);
  ibv_qp* (*create_qp)(ibv_pd*, ibv_qp_init_attr*);
  int (*modify_qp)(ibv_qp*, ibv_qp_attr*, int);
  int (*destroy_qp)(ibv_qp*);

  // The devices of this machine when it was opened; they stay valid in forked children.
  ibv_device** devices;
  int device_count;
};

enum class VerbsPlace {
  kOrdinary,
  // With a libc of its own, for the preloaded runtime: the program's malloc, which may be far and may be
  // locked by whoever touched a page, is not called, and neither is the libc whose system calls are guarded.
  kOwnNamespace,
};

// Opens the library and lists the devices. Allocates, and loads the drivers: not in a signal handler. What is
// called later allocates from the library's own malloc only. Errors are one line for the user; a machine
// without devices is none.
Status OpenVerbs(VerbsPlace place, Verbs* out);

// While the library makes system calls: some are points where a thread that was cancelled ends, and one of
// the program's must not end in the middle of a fault.
class NoCancellation {
 public:
  NoCancellation() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old_); }
  ~NoCancellation() { pthread_setcancelstate(old_, nullptr); }
  NoCancellation(const NoCancellation&) = delete;
  NoCancellation& operator=(const NoCancellation&) = delete;

 private:
  int old_;
};

}  // namespace farpool
