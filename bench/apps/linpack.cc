// linpack [n [threads]]: solves a dense system with OpenBLAS's LU factorisation, each of its threads bound to
// a CPU, and checks the residual. Exits 127 where OpenBLAS (Debian: libopenblas0-pthread) is not installed.

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"

namespace {

using Dgesv = void (*)(const int* n, const int* columns, double* a, const int* lda, int* pivots, double* b,
                       const int* ldb, int* info);
using SetAffinity = int (*)(int thread, size_t bytes, cpu_set_t* cpus);

void* Find(void* library, const char* name) {
  void* const found = dlsym(library, name);
  CHECK(found != nullptr, "libopenblas.so.0 has no %s", name);
  return found;
}

double Random01(uint64_t key) { return static_cast<double>(Mix(key) >> 11) * 0x1p-53 - 0.5; }

}  // namespace

int main(int argc, char** argv) {
  const auto n = static_cast<int>(Argument(argc, argv, 1, 2000));
  const uint64_t threads = Argument(argc, argv, 2, 2);
  // OpenBLAS reads it when it is loaded.
  setenv("OPENBLAS_NUM_THREADS", std::to_string(threads).c_str(), 1);
  void* const blas = dlopen("libopenblas.so.0", RTLD_NOW);
  if (blas == nullptr) {
    fprintf(stderr, "linpack: OpenBLAS is not installed (libopenblas0-pthread): %s\n", dlerror());
    return 127;
  }
  const auto dgesv = reinterpret_cast<Dgesv>(Find(blas, "dgesv_"));
  const auto thread_count = reinterpret_cast<int (*)()>(Find(blas, "openblas_get_num_threads"));
  const auto set_affinity = reinterpret_cast<SetAffinity>(Find(blas, "openblas_setaffinity"));
  cpu_set_t allowed;
  CHECK(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
  for (int thread = 0, cpu = 0; thread < thread_count() - 1; ++thread) {
    while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, &allowed)) ++cpu;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu++, &one);
    CHECK(set_affinity(thread, sizeof(one), &one) == 0, "openblas_setaffinity");
  }
  const auto size = static_cast<size_t>(n);
  std::vector<double> a(size * size), x(size);
  for (size_t i = 0; i < a.size(); ++i) a[i] = Random01(i);
  for (size_t i = 0; i < size; ++i) x[i] = Random01(~i);
  std::vector<int> pivots(size);
  const int one_column = 1;
  int info = -1;
  dgesv(&n, &one_column, a.data(), &n, pivots.data(), x.data(), &n, &info);
  CHECK(info == 0, "dgesv: %d", info);
  // The factors took the matrix's place, so it is made again.
  std::vector<double> residual(size);
  for (size_t i = 0; i < size; ++i) residual[i] = -Random01(~i);
  for (size_t column = 0; column < size; ++column)
    for (size_t row = 0; row < size; ++row) residual[row] += Random01(column * size + row) * x[column];
  double norm_x = 0, norm_r = 0;
  for (double value : x) norm_x = std::max(norm_x, std::fabs(value));
  for (double value : residual) norm_r = std::max(norm_r, std::fabs(value));
  const double scaled = norm_r / (n * 0.5 * norm_x * 0x1p-52);
  CHECK(scaled < 16, "residual %g", scaled);
  uint64_t digest = 0;
  for (int pivot : pivots) digest = digest * 31 + static_cast<uint64_t>(pivot);
  printf("linpack: n %d, pivots %016llx, residual is small\n", n, static_cast<unsigned long long>(digest));
  return 0;
}
