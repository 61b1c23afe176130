#!/bin/bash
# What farpool costs system calls on memory that is all here: single calls, and redis-server answering GET over a unix
# socket, ordinarily and under `farpool run` with more --local than they want, in turns. Prints medians. Not part of
# ./check: the machine must be idle, and nothing is asserted of time. Wants Debian's redis-server.
#   syscall_cost.sh [--runs N] [calls] [redis]
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

runs=3
names=()
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?"--runs needs a number"}; shift 2 ;;
    -*) echo "usage: $0 [--runs N] [calls] [redis]" >&2; exit 2 ;;
    *) names+=("$1"); shift ;;
  esac
done

start_donor --unix "$work/donor.sock" --memory "$donor_memory"
far=("$farpool" run --local 2G --pool "unix://$work/donor.sock" --report-json "$work/report.json" --)

if wanted calls; then
  for run in $(seq "$runs"); do
    as_user "$programs/callcost" >"$work/ordinary.$run" || bad calls "ordinarily: status $?"
    as_user "${far[@]}" "$programs/callcost" >"$work/far.$run" || bad calls "status $?"
  done
  printf '%-18s %11s %11s %13s\n' call ordinary farpool difference
  while read -r call _; do
    a=$(awk -v call="$call" '$1 == call { print $2 }' "$work"/ordinary.[0-9]* | median)
    b=$(awk -v call="$call" '$1 == call { print $2 }' "$work"/far.[0-9]* | median)
    printf '%-18s %8d ns %8d ns %+10d ns\n' "$call" "$a" "$b" "$((b - a))"
  done <"$work/ordinary.1"
  ok calls
fi

# rate SOCKET: GETs a second, without the fraction.
rate() {
  redis-benchmark -s "$1" -t get -n 200000 -c 20 -P 1 --csv 2>/dev/null | sed -n 's/^"GET","\([0-9]*\).*/\1/p'
}
# serve SOCKET COMMAND...: redis-server by way of COMMAND.
serve() {
  local socket=$1
  shift
  exec_as_user "$@" redis-server --port 0 --unixsocket "$socket" --save '' --dir "$work" >"$socket.log" 2>&1 &
  donor_pids+=("$!")
  for _ in $(seq 100); do
    [ "$(redis-cli -s "$socket" ping 2>/dev/null)" = PONG ] && return
    sleep 0.1
  done
  bad redis "no answer: $(tail -1 "$socket.log")"
}

if wanted redis && ! command -v redis-server >/dev/null; then
  echo "redis: skipped, redis-server is not installed"
elif wanted redis; then
  serve "$work/ordinary.sock"
  serve "$work/far.sock" "${far[@]}"
  for run in $(seq "$runs"); do
    rate "$work/ordinary.sock" >>"$work/ordinary.rates"
    rate "$work/far.sock" >>"$work/far.rates"
  done
  a=$(median <"$work/ordinary.rates")
  b=$(median <"$work/far.rates")
  printf '%-18s %8d /s %8d /s %11d %%\n' redis-GET "$a" "$b" "$((b * 100 / (a > 0 ? a : 1)))"
  if [ "$a" -gt 0 ] && [ "$b" -gt 0 ]; then ok redis; else bad redis "no rate"; fi
fi

close_with_count
