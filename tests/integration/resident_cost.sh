#!/bin/bash
# What farpool costs a program whose memory is all here: real programs run ordinarily and under `farpool run` with
# more --local than they want, in turns. Prints medians and the cost; outputs are compared. Not part of ./check:
# the machine must be idle. Exits 1 if a program costs more than 5 % or produced something else. What moved in spite
# of room is what fork passes on to children.
#   resident_cost.sh [--runs N] [NAME...]     names: start sort python3 sqlite3 pagewalker gcc
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=workloads.sh
. "$(dirname "$0")/workloads.sh"

runs=5
names=()
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?"--runs needs a number"}; shift 2 ;;
    -*) echo "usage: $0 [--runs N] [NAME...]" >&2; exit 2 ;;
    *) names+=("$1"); shift ;;
  esac
done

start_donor --unix "$work/donor.sock" --memory "$donor_memory"
far=("$farpool" run --local 4G --pool "unix://$work/donor.sock" --report-json "$work/report.json" --)

# timed FILE COMMAND...: sets `took` in us; stdout goes to FILE.
timed() {
  local output=$1 began ended
  shift
  began=${EPOCHREALTIME/./}
  as_user "$@" >"$output" 2>"$work/err" </dev/null || { bad "$name" "status $?: $(tail -1 "$work/err")"; return 1; }
  ended=${EPOCHREALTIME/./}
  took=$((ended - began))
}

# measure NAME COMMAND...
measure() {
  local name=$1 ordinary=() here=() run took moved
  shift
  wanted "$name" || return 0
  # The first time of each only warms up.
  for run in $(seq 0 "$runs"); do
    timed "$work/ordinary.out" "$@" || return
    [ "$run" = 0 ] || ordinary+=("$took")
    timed "$work/far.out" "${far[@]}" "$@" || return
    [ "$run" = 0 ] || here+=("$took")
    cmp -s "$work/ordinary.out" "$work/far.out" || { bad "$name" "output differs"; return; }
    moved=$(json_field "$work/report.json" pages_out)
  done
  local a b
  a=$(printf '%s\n' "${ordinary[@]}" | median)
  b=$(printf '%s\n' "${here[@]}" | median)
  printf '%-12s %9.3f s %9.3f s %+8.1f %% %8.3f s %9d\n' "$name" "${a}e-6" "${b}e-6" \
    "$(((b - a) * 1000 / a))e-1" "$((b - a))e-6" "$moved"
  # Starting is a fixed cost of milliseconds, no share of anything.
  if [ "$name" = start ] || [ $((b * 100)) -le $((a * 105)) ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
}

printf '%-12s %11s %11s %10s %10s %9s\n' program ordinary farpool cost difference pages-out
measure start true
write_lines 200 "$work/lines"
measure sort sort -S 1G --parallel=2 "$work/lines"
rm -f "$work/lines"
write_dict_py "$work/dict.py"
measure python3 env PYTHONHASHSEED=1 /usr/bin/python3 "$work/dict.py"
write_joins_sql "$work/joins.sql"
measure sqlite3 sqlite3 -init "$work/joins.sql" :memory: .exit
measure pagewalker "$programs/pagewalker" 300
write_large_c "$work/large.c"
measure gcc gcc -O2 -fno-asynchronous-unwind-tables -c "$work/large.c" -o "$work/large.o"

close_with_count
