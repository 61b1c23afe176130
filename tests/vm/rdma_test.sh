#!/bin/bash
# vm: 6.12; 240; short
# Donors over RDMA, by Soft-RoCE on a network device of the guest's own: what every link must do, then programs
# with half of their memory at an RDMA donor, at an RDMA and a TCP donor, and a donor that is killed.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

address=10.99.0.1
modprobe crc32_generic 2>/dev/null
modprobe dummy && modprobe rdma_rxe && modprobe ib_uverbs && ip link add farpool0 type dummy &&
  ip addr add "$address/24" dev farpool0 && ip link set farpool0 up && rdma link add rxe0 type rxe netdev farpool0 ||
  { bad device "no Soft-RoCE device: $(rdma link 2>&1 | head -2 | tr '\n' '|')"; close_with_count; exit; }
ulimit -l unlimited

FARPOOL_TEST_RDMA=$address "$build/tests/unit/link_conformance_test" --gtest_filter='*Rdma*' >"$work/unit" 2>&1
if [ $? = 0 ] && ! grep -q SKIPPED "$work/unit"; then
  ok "link conformance ($(grep -c '^\[       OK' "$work/unit") tests)"
else
  bad "link conformance" "$(grep -E 'Failure|FAILED|SKIPPED' -A 3 "$work/unit" | head -20 | tr '\n' '|')"
  cat "$work/unit"
fi
close_with_count
