// linpack [n]: solves a dense system with OpenBLAS's LU factorisation and its threads, each bound to a CPU,
// and checks the residual. Built by suite_test.sh, since it needs OpenBLAS.

#include <cblas.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"

extern "C" void dgesv_(const int* n, const int* columns, double* a, const int* lda, int* pivots, double* b,
                       const int* ldb, int* info);

int main(int argc, char** argv) {
  const auto n = static_cast<int>(Argument(argc, argv, 1, 2000));
  cpu_set_t allowed;
  CHECK(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
  for (int thread = 0, cpu = 0; thread < openblas_get_num_threads() - 1; ++thread) {
    while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, &allowed)) ++cpu;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu++, &one);
    CHECK(openblas_setaffinity(thread, sizeof(one), &one) == 0, "openblas_setaffinity");
  }
  const auto size = static_cast<size_t>(n);
  std::vector<double> a(size * size), lu, x(size), b(size);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<double>(Mix(i) >> 11) * 0x1p-53 - 0.5;
  for (size_t i = 0; i < size; ++i) x[i] = b[i] = static_cast<double>(Mix(~i) >> 11) * 0x1p-53 - 0.5;
  lu = a;
  std::vector<int> pivots(size);
  const int one_column = 1;
  int info = -1;
  dgesv_(&n, &one_column, lu.data(), &n, pivots.data(), x.data(), &n, &info);
  CHECK(info == 0, "dgesv: %d", info);
  std::vector<double> residual = b;
  cblas_dgemv(CblasColMajor, CblasNoTrans, n, n, 1, a.data(), n, x.data(), 1, -1, residual.data(), 1);
  double norm_a = 0, norm_x = 0, norm_r = 0;
  for (double value : a) norm_a = std::max(norm_a, std::fabs(value));
  for (double value : x) norm_x = std::max(norm_x, std::fabs(value));
  for (double value : residual) norm_r = std::max(norm_r, std::fabs(value));
  const double scaled = norm_r / (n * norm_a * norm_x * 0x1p-52);
  CHECK(scaled < 16, "residual %g", scaled);
  uint64_t digest = 0;
  for (int pivot : pivots) digest = digest * 31 + static_cast<uint64_t>(pivot);
  printf("linpack: n %d, pivots %016llx, residual is small\n", n, static_cast<unsigned long long>(digest));
  return 0;
}
