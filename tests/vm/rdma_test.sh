#!/bin/bash
# vm: 6.12; 400; short
# Donors over RDMA, by Soft-RoCE on a network device of the guest's own: what every link must do, then programs
# with half of their memory at an RDMA donor, at an RDMA and a TCP donor, and a donor that is killed.
long=${FARPOOL_VM_LONG:-0}  # lib.sh clears it.
near=4
[ "$long" = 1 ] && near=6
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

address=10.99.0.1
modprobe dummy && modprobe crc32_generic && modprobe rdma_rxe && modprobe ib_uverbs && ip link add farpool0 type dummy &&
  ip addr add "$address/24" dev farpool0 && ip link set farpool0 up && rdma link add rxe0 type rxe netdev farpool0 ||
  { bad device "no Soft-RoCE device: $(rdma link 2>&1 | head -2 | tr '\n' '|')"; close_with_count; exit; }
# A donor's memory is locked.
ulimit -l unlimited

as_user "$farpool" doctor >"$work/doctor" 2>&1
if grep -q "^ok *rdma rxe0 .*$address" "$work/doctor"; then ok doctor; else bad doctor "$(grep rdma "$work/doctor" | tr '\n' '|')"; fi

if FARPOOL_TEST_RDMA=$address "$build/tests/unit/link_conformance_test" --gtest_filter='*/Rdma:*/True' >"$work/unit" 2>&1 &&
  ! grep -q SKIPPED "$work/unit"; then
  ok "link conformance ($(grep -c '^\[       OK' "$work/unit") tests)"
else
  bad "link conformance" "$(grep -E 'Failure|FAILED|SKIPPED' -A 3 "$work/unit" | head -20 | tr '\n' '|')"
fi

start_donor --rdma "$address:0" --allow-anyone --memory 128M --slab 8M
rdma_pool=rdma://$address:$donor_port
start_donor --listen tcp://127.0.0.1:0 --memory 128M --slab 8M
tcp_pool=tcp://127.0.0.1:$donor_port

# same NAME POOL LOCAL COMMAND...: prints with far memory what it prints without.
same() {
  local name=$1 pool=$2 near=$3 began=$SECONDS status limit peak out in share
  shift 3
  as_user "$@" >"$work/plain" 2>&1
  as_user "$farpool" run --local "$near" --pool "$pool" --report-json "$work/report.json" -- "$@" >"$work/far" 2>"$work/err"
  status=$?
  read -r limit peak out in < <(json_field "$work/report.json" local_limit_bytes peak_far_bytes pages_out pages_in)
  share=$((limit * 100 / (peak + 1)))
  if [ "$status" = 0 ] && cmp -s "$work/plain" "$work/far" && [ "$in" != 0 ] && [ "$share" -le 60 ]; then
    ok "$name ($share % local, $out pages out, $in in, $((SECONDS - began)) s)"
  else
    bad "$name" "status $status, $share % local: $(head -c 300 "$work/err" | tr '\n' '|')"
  fi
}
python3 -c 'for i in range(150000): print(i * 7919 % 1000003, "x" * (i % 40))' >"$work/lines"
chmod a+r "$work/lines"
same pagewalker "$rdma_pool" "$near"M "$programs/pagewalker" $((near * 2))
same sort "$rdma_pool" "$near"M sort -S $((near * 2))M --parallel=2 "$work/lines"
same "rdma and tcp" "$rdma_pool,$tcp_pool" "$near"M "$programs/pagewalker" $((near * 2))
same forks "$rdma_pool" 4M "$programs/forker" fork 4
same cancelled "$rdma_pool" 4M "$programs/cancelled" 8
if [ "$long" = 1 ]; then
  # Only root may; there a thread of the runtime's makes the links.
  unprivileged=("${user[@]}")
  user=()
  export FARPOOL_HANDOFF=monitor
  same monitor "$rdma_pool,$tcp_pool" 4M "$programs/pagewalker" 8
  unset FARPOOL_HANDOFF
  user=("${unprivileged[@]}")
  same "forks of threads" "$rdma_pool" 4M "$programs/forker" threads 4
  cat >"$work/redis.sh" <<'END'
cd "$(mktemp -d)" || exit 1
redis-server --port 0 --unixsocket "$PWD/r.sock" --save '' --dir "$PWD" --enable-debug-command yes --daemonize no >log 2>&1 &
cli="redis-cli -s r.sock"
until [ "$($cli ping 2>/dev/null)" = PONG ]; do sleep 0.1; done
python3 -c '
for i in range(3000):
    for words in ("SET", "key:%d" % i, ("value %d " % (i * 7919)) * (i % 12 + 1)), ("HSET", "hash:%d" % (i % 500), "field%d" % i, str(i)):
        print("*%d\r\n" % len(words) + "".join("$%d\r\n%s\r\n" % (len(w), w) for w in words), end="")' | $cli --pipe | grep -v '^All data'
# What jemalloc took while the runtime loaded libibverbs stays near, some MiB.
$cli debug populate 20000 key 500
$cli debug digest
$cli save
$cli debug reload
$cli debug digest
$cli dbsize
$cli shutdown nosave
wait
END
  chmod a+r "$work/redis.sh"
  if command -v redis-server >/dev/null; then same redis "$rdma_pool" 4M bash "$work/redis.sh"; fi
fi
gone() { [ "$(lent_bytes "$rdma_pool")" = 0 ]; }
if wait_for 15 gone; then ok "nothing is left lent"; else bad "nothing is left lent" "$(lent_bytes "$rdma_pool")"; fi

# refused NAME STATUS REGEX COMMAND...
refused() {
  local name=$1 want=$2 pattern=$3 status
  shift 3
  as_user timeout -k 1 60 "$@" >"$work/out" 2>"$work/err" </dev/null
  status=$?
  if [ "$status" = "$want" ] && [ "$(wc -l <"$work/err")" = 1 ] && grep -qE "^farpool: .*($pattern)" "$work/err"; then
    ok "$name"
  else
    bad "$name" "status $status, not $want: $(head -c 300 "$work/err" | tr '\n' '|')"
  fi
}
refused "a way without a device" 125 'no RDMA device of this machine has' "$farpool" run --local 8M --pool "rdma://127.0.0.1:$donor_port" -- true
start_donor --listen "tcp://$address:0" --allow-anyone --memory 128M --slab 8M
refused "a donor without RDMA" 125 'no RDMA on this port' "$farpool" run --local 8M --pool "rdma://$address:$donor_port" -- true
# shellcheck disable=SC2016
refused "too little memory to lock" 125 'ulimit -l' sh -c 'ulimit -l 256; exec "$@"' sh "$farpool" run --local 8M --pool "$rdma_pool" -- true

"$farpool" swap create --size 64M --pool "$rdma_pool" >"$work/out" 2>"$work/err"
if [ $? = 1 ] && grep -q '^farpool: .*cannot back a swap device' "$work/err"; then ok "no swap device"; else bad "no swap device" "$(head -c 300 "$work/err")"; fi

# A donor that is killed while pages travel: the program ends in bounded time, with status 74.
start_donor --rdma "$address:0" --allow-anyone --memory 128M --slab 8M
as_user "$farpool" run --local 6M --pool "rdma://$address:$donor_port" -- "$programs/pagewalker" 24 >"$work/out" 2>"$work/err" &
runner=$!
half() { [ "$(lent_bytes "rdma://$address:$donor_port")" -ge $((16 << 20)) ]; }
wait_for 60 half || bad "killed donor" "the program stores nothing"
kill -9 "$donor_pid"
began=$SECONDS
wait "$runner"
status=$?
took=$((SECONDS - began))
if [ "$status" = 74 ] && [ "$took" -le 15 ] && [ "$(grep -c '^farpool:' "$work/err")" = 1 ]; then
  ok "killed donor ($took s)"
else
  bad "killed donor" "status $status after $took s: $(head -c 300 "$work/err" | tr '\n' '|')"
fi
close_with_count
