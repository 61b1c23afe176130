/* Hints to farpool: what a program is going to do with its memory. For C (gnu99 or later) and C++; nothing
 * to link.
 *
 * Each function may be called in any program, on any memory, whether or not it runs under `farpool run`: it
 * never changes what memory holds, only how long touching it takes. Without farpool, and for memory that is
 * not far, nothing is done. They are madvise(2) with the kernel's own advice, which a program may use
 * instead; what these add is that they do nothing elsewhere and take any range.
 *
 * Those that return int say: 1, farpool has taken the hint; 0, there was nothing to do (no far memory, or
 * less than a page); -1, it has not, and errno says why (ENOMEM: a part of the range is not mapped). */
#ifndef FARPOOL_HINTS_H
#define FARPOOL_HINTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where far memory lies in every program that has any. */
#define FARPOOL_FAR_BASE UINT64_C(0x300000000000)
#define FARPOOL_FAR_BYTES (UINT64_C(1) << 44)
#define FARPOOL_PAGE_BYTES ((uintptr_t)4096)
/* Advice that no kernel knows, for no memory. */
#define FARPOOL_ADVICE_ACTIVE 0x4650

enum farpool_order { FARPOOL_NORMAL, FARPOOL_RANDOM, FARPOOL_SEQUENTIAL };

/* 1: this program runs under farpool and may have far memory. */
static inline int farpool_active(void) {
  return madvise((void*)(uintptr_t)FARPOOL_FAR_BASE, 0, FARPOOL_ADVICE_ACTIVE) == 0;
}

/* 1: `address` is in far memory: farpool decides whether it is here or away. */
static inline int farpool_is_far(const void* address) {
  return (uint64_t)(uintptr_t)address - FARPOOL_FAR_BASE < FARPOOL_FAR_BYTES;
}

/* Advice on [begin, end) where that is a page at least. */
static inline int farpool_advise_pages(uintptr_t begin, uintptr_t end, int advice) {
  if (begin >= end || !farpool_is_far((const void*)begin)) return 0;
  return madvise((void*)begin, end - begin, advice) == 0 ? 1 : -1;
}

/* On the pages that lie wholly in the range. */
static inline int farpool_advise(const void* address, size_t bytes, int advice) {
  const uintptr_t begin = ((uintptr_t)address + FARPOOL_PAGE_BYTES - 1) & ~(FARPOOL_PAGE_BYTES - 1);
  return farpool_advise_pages(begin, ((uintptr_t)address + bytes) & ~(FARPOOL_PAGE_BYTES - 1), advice);
}

/* The range is going to be used: brings it in, in another thread, while the program goes on. Not more than
 * half of what the program may have here; what is over is left to be fetched when it is touched. */
static inline int farpool_prefetch(const void* address, size_t bytes) {
  const uintptr_t end = ((uintptr_t)address + bytes + FARPOOL_PAGE_BYTES - 1) & ~(FARPOOL_PAGE_BYTES - 1);
  return bytes == 0
             ? 0
             : farpool_advise_pages((uintptr_t)address & ~(FARPOOL_PAGE_BYTES - 1), end, MADV_WILLNEED);
}

/* The range is not going to be used soon: when room is needed, it is made there first. */
static inline int farpool_evict_first(const void* address, size_t bytes) {
  return farpool_advise(address, bytes, 20 /* MADV_COLD */);
}

/* The same, and room is needed now: returns once the range is away, as far as the pool has room for it. */
static inline int farpool_evict(const void* address, size_t bytes) {
  return farpool_advise(address, bytes, 21 /* MADV_PAGEOUT */);
}

/* How the range will be gone through until another hint says otherwise: in no order (no page is fetched but
 * the one touched), or from its beginning to its end (the whole neighbourhood from the first touch on). */
static inline int farpool_access(const void* address, size_t bytes, enum farpool_order order) {
  return farpool_advise(address, bytes,
                        order == FARPOOL_RANDOM       ? MADV_RANDOM
                        : order == FARPOOL_SEQUENTIAL ? MADV_SEQUENTIAL
                                                      : MADV_NORMAL);
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* FARPOOL_HINTS_H */
