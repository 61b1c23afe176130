#pragma once
// The benches, one file each. Each fills `results` as far as it gets; its error is a line of text for the
// user.

#include "bench/bench.h"
#include "bench/results.h"
#include "farpool/status.h"

namespace bench {

farpool::Status RunFaultsOrScan(const Options& options, Results* results);  // By results->name().
farpool::Status RunApps(const Options& options, Results* results);
farpool::Status RunLimits(const Options& options, Results* results);
farpool::Status RunScale(const Options& options, Results* results);
farpool::Status RunSwap(const Options& options, Results* results);

}  // namespace bench
