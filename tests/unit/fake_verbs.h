#pragma once
// An RDMA device of this process's own, at 127.0.0.1, with the rules that a link has to live by: a key works
// for queue pairs of its own domain, reads and atomics are answered late and may be overtaken by what is
// posted after them without a fence, completions come in order and for what asks for one, and a refused
// request breaks the queue pair. One at a time; any thread.

#include <fcntl.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "verbs/verbs.h"

namespace farpool {

class FakeVerbs {
 public:
  FakeVerbs() {
    self = this;
    verbs_ = {
        .free_device_list = [](ibv_device**) {},
        .get_device_name = [](ibv_device*) { return "fake0"; },
        .open_device = [](ibv_device*) { return self->OpenDevice(); },
        .close_device = [](ibv_context* context) { return self->CloseDevice(context); },
        .query_device =
            [](ibv_context*, ibv_device_attr* out) {
              *out = {};
              out->vendor_id = self->vendor;
              out->max_qp_wr = self->queue_max;
              out->max_qp_rd_atom = out->max_qp_init_rd_atom = 16;
              out->atomic_cap = self->atomics;
              return 0;
            },
        .query_port =
            [](ibv_context*, uint8_t, ibv_port_attr* out) {
              out->state = IBV_PORT_ACTIVE;
              out->active_mtu = IBV_MTU_1024;
              return 0;
            },
        .query_gid_table = [](ibv_context*, ibv_gid_entry* out, size_t, uint32_t, size_t) -> ssize_t {
          const uint8_t address[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1};
          *out = {.gid_index = 3, .port_num = 1, .gid_type = IBV_GID_TYPE_ROCE_V2};
          std::memcpy(out->gid.raw, address, sizeof(address));
          return 1;
        },
        .alloc_pd =
            [](ibv_context* context) {
              ++self->objects;
              return new ibv_pd{.context = context, .handle = 0};
            },
        .dealloc_pd = [](ibv_pd* domain) { return self->Free(domain); },
        .reg_mr = [](ibv_pd* domain, void* at, size_t bytes,
                     int access) { return self->Register(domain, at, bytes, access); },
        .dereg_mr = [](ibv_mr* region) { return self->Deregister(region); },
        .create_cq =
            [](ibv_context* context, int, void*, ibv_comp_channel*, int) {
              ++self->objects;
              auto* cq = new Completions;
              cq->cq.context = context;
              return &cq->cq;
            },
        .destroy_cq = [](ibv_cq* cq) { return self->Free(reinterpret_cast<Completions*>(cq)); },
        .create_qp = [](ibv_pd* domain, ibv_qp_init_attr* init) { return self->CreateQueue(domain, init); },
        .modify_qp = [](ibv_qp* qp, ibv_qp_attr* attr, int mask) { return self->Modify(qp, attr, mask); },
        .destroy_qp = [](ibv_qp* qp) { return self->DestroyQueue(qp); },
        .devices = devices_,
        .device_count = 1};
  }
  ~FakeVerbs() { self = nullptr; }
  const Verbs* get() const { return &verbs_; }

  // What tests change.
  int queue_max = 64;
  ibv_atomic_cap atomics = IBV_ATOMIC_HCA;
  uint32_t vendor = 1;
  std::atomic<bool> silent{false};       // Nothing that is posted is ever done.
  std::atomic<bool> refuses{false};      // Posting fails.
  std::atomic<int> stopped{0};           // Queue pairs, by their owners.
  std::atomic<int> objects{0};           // Alive.
  std::atomic<unsigned> doorbells{0};    // Calls that posted.
  std::atomic<unsigned> completions{0};  // Told.
  std::atomic<unsigned> fences{0};       // Requests with one.

 private:
  struct Completions {
    ibv_cq cq = {};
    std::deque<ibv_wc> done;
  };
  struct Request {
    ibv_send_wr wr;
    ibv_sge piece;
    bool executed = false;
    ibv_wc_status status = IBV_WC_SUCCESS;
  };
  struct Queue {
    ibv_qp qp = {};
    int access = 0;
    uint32_t peer = 0;
    bool broken = false;
    std::deque<Request> requests;
  };

  ibv_context* OpenDevice() {
    auto* context = new ibv_context{};
    context->cmd_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    context->async_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    context->ops.post_send = [](ibv_qp* qp, ibv_send_wr* wr, ibv_send_wr**) { return self->Post(qp, wr); };
    context->ops.poll_cq = [](ibv_cq* cq, int count, ibv_wc* out) { return self->Poll(cq, count, out); };
    ++objects;
    return context;
  }
  int CloseDevice(ibv_context* context) {
    close(context->cmd_fd);
    return Free(context);
  }
  template <typename T>
  int Free(T* object) {
    --objects;
    delete object;
    return 0;
  }
  ibv_mr* Register(ibv_pd* domain, void* at, size_t bytes, int access) {
    const std::lock_guard lock(mutex_);
    ++objects;
    auto* region = new ibv_mr{.context = domain->context, .pd = domain, .addr = at, .length = bytes};
    region->lkey = region->rkey = ++last_;
    regions_[last_] = {region, access};
    return region;
  }
  int Deregister(ibv_mr* region) {
    const std::lock_guard lock(mutex_);
    regions_.erase(region->rkey);
    return Free(region);
  }
  ibv_qp* CreateQueue(ibv_pd* domain, ibv_qp_init_attr* init) {
    const std::lock_guard lock(mutex_);
    if (init->cap.max_send_wr > static_cast<unsigned>(queue_max)) return nullptr;
    ++objects;
    auto queue = std::make_unique<Queue>();
    queue->qp.context = domain->context;
    queue->qp.pd = domain;
    queue->qp.send_cq = init->send_cq;
    queue->qp.qp_num = ++last_;
    ibv_qp* qp = &queue->qp;
    queues_[last_] = std::move(queue);
    return qp;
  }
  int Modify(ibv_qp* qp, ibv_qp_attr* attr, int mask) {
    const std::lock_guard lock(mutex_);
    Queue& queue = *queues_.at(qp->qp_num);
    if ((mask & IBV_QP_ACCESS_FLAGS) != 0) queue.access = static_cast<int>(attr->qp_access_flags);
    if ((mask & IBV_QP_DEST_QPN) != 0) queue.peer = attr->dest_qp_num;
    qp->state = attr->qp_state;
    if (attr->qp_state == IBV_QPS_ERR) {
      queue.broken = true;
      ++stopped;
    }
    return 0;
  }
  int DestroyQueue(ibv_qp* qp) {
    const std::lock_guard lock(mutex_);
    queues_.erase(qp->qp_num);
    --objects;
    return 0;
  }

  int Post(ibv_qp* qp, ibv_send_wr* wr) {
    const std::lock_guard lock(mutex_);
    if (refuses) return ENOMEM;
    ++doorbells;
    Queue& queue = *queues_.at(qp->qp_num);
    for (; wr != nullptr; wr = wr->next) {
      if ((wr->send_flags & IBV_SEND_FENCE) != 0) ++fences;
      if (!silent && (wr->send_flags & IBV_SEND_FENCE) != 0) ExecuteAll(&queue);
      queue.requests.push_back({*wr, *wr->sg_list});
      // A read may be answered when it is asked about; a write arrives at once.
      if (!silent && wr->opcode == IBV_WR_RDMA_WRITE) Execute(&queue, &queue.requests.back());
    }
    return 0;
  }
  void ExecuteAll(Queue* queue) {
    // Reads are answered last, in the worst case.
    for (Request& r : queue->requests)
      if (r.wr.opcode != IBV_WR_RDMA_READ) Execute(queue, &r);
    for (Request& r : queue->requests) Execute(queue, &r);
  }
  void Execute(Queue* queue, Request* r) {
    if (r->executed) return;
    r->executed = true;
    const bool atomic =
        r->wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP || r->wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
    const uint64_t to = atomic ? r->wr.wr.atomic.remote_addr : r->wr.wr.rdma.remote_addr;
    const auto peer = queues_.find(queue->peer);
    const auto region = regions_.find(atomic ? r->wr.wr.atomic.rkey : r->wr.wr.rdma.rkey);
    if (queue->broken || peer == queues_.end() || peer->second->broken) {
      r->status = queue->broken ? IBV_WC_WR_FLUSH_ERR : IBV_WC_RETRY_EXC_ERR;
      queue->broken = true;
      return;
    }
    const int needed = atomic                             ? IBV_ACCESS_REMOTE_ATOMIC
                       : r->wr.opcode == IBV_WR_RDMA_READ ? IBV_ACCESS_REMOTE_READ
                                                          : IBV_ACCESS_REMOTE_WRITE;
    const auto base = region == regions_.end() ? 0 : reinterpret_cast<uint64_t>(region->second.mr->addr);
    if (region == regions_.end() || region->second.mr->pd != peer->second->qp.pd ||
        (region->second.access & peer->second->access & needed) == 0 || to < base ||
        to + r->piece.length > base + region->second.mr->length) {
      r->status = IBV_WC_REM_ACCESS_ERR;
      queue->broken = true;
      return;
    }
    auto* local = reinterpret_cast<void*>(r->piece.addr);
    auto* remote = reinterpret_cast<void*>(to);
    auto* word = reinterpret_cast<uint64_t*>(remote);
    const uint64_t before = atomic ? *word : 0;
    switch (r->wr.opcode) {
      case IBV_WR_RDMA_READ:
        std::memcpy(local, remote, r->piece.length);
        break;
      case IBV_WR_RDMA_WRITE:
        std::memcpy(remote, local, r->piece.length);
        break;
      case IBV_WR_ATOMIC_CMP_AND_SWP:
        if (before == r->wr.wr.atomic.compare_add) *word = r->wr.wr.atomic.swap;
        break;
      default:
        *word = before + r->wr.wr.atomic.compare_add;
        break;
    }
    if (atomic) std::memcpy(local, &before, sizeof(before));
  }
  int Poll(ibv_cq* cq, int count, ibv_wc* out) {
    const std::lock_guard lock(mutex_);
    int told = 0;
    for (auto& [number, queue] : queues_) {
      if (silent) continue;
      ExecuteAll(queue.get());
      if (queue->qp.send_cq != cq) continue;
      while (told < count && !queue->requests.empty()) {
        const Request& r = queue->requests.front();
        if ((r.wr.send_flags & IBV_SEND_SIGNALED) != 0 || r.status != IBV_WC_SUCCESS) {
          out[told] = {.wr_id = r.wr.wr_id, .status = r.status};
          ++told;
          ++completions;
        }
        queue->requests.pop_front();
      }
    }
    return told;
  }

  struct Region {
    ibv_mr* mr;
    int access;
  };
  inline static FakeVerbs* self = nullptr;
  ibv_device* devices_[1] = {reinterpret_cast<ibv_device*>(this)};
  Verbs verbs_;
  std::mutex mutex_;
  uint32_t last_ = 100;
  std::map<uint32_t, Region> regions_;
  std::map<uint32_t, std::unique_ptr<Queue>> queues_;
};

}  // namespace farpool
