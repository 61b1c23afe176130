#include "verbs/verbs.h"

#include <dlfcn.h>

namespace farpool {

namespace {

constexpr char kLibrary[] = "libibverbs.so.1";

template <typename Function>
bool Find(void* library, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(library, name));
  return *out != nullptr;
}

}  // namespace

Status OpenVerbs(VerbsPlace place, Verbs* out) {
  void* const library = place == VerbsPlace::kOwnNamespace
                            ? dlmopen(LM_ID_NEWLM, kLibrary, RTLD_NOW | RTLD_LOCAL)
                            : dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return Status::Unsupported(
        "libibverbs.so.1 cannot be loaded; install libibverbs1 and ibverbs-providers for rdma://");
  ibv_device** (*get_device_list)(int*);
  int (*fork_init)();
  const bool found =
      Find(library, "ibv_get_device_list", &get_device_list) && Find(library, "ibv_fork_init", &fork_init) &&
      Find(library, "ibv_free_device_list", &out->free_device_list) &&
      Find(library, "ibv_get_device_name", &out->get_device_name) &&
      Find(library, "ibv_open_device", &out->open_device) &&
      Find(library, "ibv_close_device", &out->close_device) &&
      Find(library, "ibv_query_device", &out->query_device) &&
      Find(library, "ibv_query_port", &out->query_port) &&
      Find(library, "_ibv_query_gid_table", &out->query_gid_table) &&
      Find(library, "ibv_alloc_pd", &out->alloc_pd) && Find(library, "ibv_dealloc_pd", &out->dealloc_pd) &&
      Find(library, "ibv_reg_mr", &out->reg_mr) && Find(library, "ibv_dereg_mr", &out->dereg_mr) &&
      Find(library, "ibv_create_cq", &out->create_cq) && Find(library, "ibv_destroy_cq", &out->destroy_cq) &&
      Find(library, "ibv_create_qp", &out->create_qp) && Find(library, "ibv_modify_qp", &out->modify_qp) &&
      Find(library, "ibv_destroy_qp", &out->destroy_qp);
  if (!found)
    return Status::Unsupported("libibverbs.so.1 is too old for rdma://; version 32 or later is needed");
  // Kernels before 5.12 take registered pages from a parent that forks; then the library keeps them from
  // children. Without any device it fails, and nothing is lost.
  (void)fork_init();
  out->device_count = 0;
  out->devices = get_device_list(&out->device_count);
  if (out->devices == nullptr) out->device_count = 0;
  return Status::Ok();
}

}  // namespace farpool
