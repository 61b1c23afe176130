#!/bin/bash
# What farpool costs a program whose memory is all here: real programs run ordinarily and under `farpool run` with
# more --local than they want, in turns. Prints the medians of each and the cost, of the time and of the processors'
# time: the median of what each turn says, since machines are now faster, now slower, for minutes. Outputs are
# compared. Not part of ./check: the machine must be idle. Exits 1 if a program costs more than --most (5) percent of
# the processors' time or produced something else. What moved in spite of room is what fork passes on to children.
#   resident_cost.sh [--long] [--runs N] [--most PERCENT] [NAME...]     names: start sort python3 sqlite3 pagewalker gcc
# --long: also all of suite_programs.sh, each so often in one run that this lasts --seconds (2).
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=workloads.sh
. "$(dirname "$0")/workloads.sh"

runs=5
long=0
seconds=2
most=5
names=()
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=1; shift ;;
    --runs) runs=${2:?"--runs needs a number"}; shift 2 ;;
    --most) most=${2:?"--most needs a number"}; shift 2 ;;
    --seconds) seconds=${2:?"--seconds needs a number"}; shift 2 ;;
    -*) echo "usage: $0 [--long] [--runs N] [--seconds N] [--most PERCENT] [NAME...]" >&2; exit 2 ;;
    *) names+=("$1"); shift ;;
  esac
done

start_donor --unix "$work/donor.sock" --memory "$donor_memory"
far=("$farpool" run --local 16G --pool "unix://$work/donor.sock" --report-json "$work/report.json" --)

# timed FILE COMMAND...: runs it in an empty folder; sets `took` in us, `busy` (user and system time) in ms. stdout
# goes to FILE.
timed() {
  local output=$1 in_user in_system status TIMEFORMAT='%R %U %S'
  shift
  rm -rf "$work/run"
  as_user mkdir "$work/run"
  { time (cd "$work/run" && as_user "$@" >"$output" 2>"$work/err" </dev/null); } 2>"$work/time"
  status=$?
  read -r took in_user in_system <"$work/time"
  took=$((10#${took/./} * 1000)) busy=$((10#${in_user/./} + 10#${in_system/./}))
  [ "$status" = "${expected:=$status}" ] && [ "$status" -lt 124 ] && return
  bad "$name" "status $status, ordinarily $expected: $(tail -1 "$work/err")"
  return 1
}

# cost ORDINARY FARPOOL: names of arrays, a turn each; percent.
cost() {
  local -n ordinary=$1 farpool_=$2
  local i
  for i in "${!ordinary[@]}"; do echo "${ordinary[i]} ${farpool_[i]}"; done |
    awk '{ print 100 * ($2 - $1) / $1 }' | median | xargs printf '%+.1f'
}
spread() { sort -n | awk '{ v[NR] = $1 } END { printf "%.1f", 100 * (v[NR] - v[1]) / v[int((NR + 1) / 2)] }'; }

# measure NAME COMMAND...
measure() {
  local name=$1 mask=mask_$1 expected= run took busy moved
  local times=() far_times=() works=() far_works=()
  shift
  wanted "$name" || return 0
  # The first time of each only warms up.
  for run in $(seq 0 "$runs"); do
    timed "$work/ordinary.out" "$@" || return
    [ "$run" = 0 ] || { times+=("$took") && works+=("$busy"); }
    timed "$work/far.out" "${far[@]}" "$@" || return
    [ "$run" = 0 ] || { far_times+=("$took") && far_works+=("$busy"); }
    cmp -s <(sed -E "${!mask:-}" "$work/ordinary.out") <(sed -E "${!mask:-}" "$work/far.out") ||
      { bad "$name" "output differs"; return; }
    moved=$(json_field "$work/report.json" pages_out)
  done
  local a b c d
  a=$(printf '%s\n' "${times[@]}" | median)
  b=$(printf '%s\n' "${far_times[@]}" | median)
  c=$(printf '%s\n' "${works[@]}" | median)
  d=$(printf '%s\n' "${far_works[@]}" | median)
  local time_cost work_cost
  time_cost=$(cost times far_times)
  work_cost=$(cost works far_works)
  printf '%-14s %8.3f s %8.3f s %7s %% | %8.3f s %8.3f s %7s %% | %5s %5s %% %8d\n' "$name" "${a}e-6" "${b}e-6" \
    "$time_cost" "${c}e-3" "${d}e-3" "$work_cost" "$(printf '%s\n' "${works[@]}" | spread)" \
    "$(printf '%s\n' "${far_works[@]}" | spread)" "$moved"
  # Starting is a fixed cost of milliseconds, no share of anything.
  if [ "$name" = start ] || awk -v cost="$work_cost" -v most="$most" 'BEGIN { exit !(cost <= most) }'; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
}

printf '%-14s %10s %10s %9s | %10s %10s %9s | %13s %8s\n' program ordinary farpool time "user+sys" farpool cost \
  "spread of both" pages-out
measure start true
write_lines 200 "$work/lines"
measure sort sort -S 1G --parallel=2 "$work/lines"
rm -f "$work/lines"
write_dict_py 1000000 "$work/dict.py"
measure python3 env PYTHONHASHSEED=1 /usr/bin/python3 "$work/dict.py"
write_joins_sql 1200000 "$work/joins.sql"
measure sqlite3 sqlite3 -init "$work/joins.sql" :memory: .exit
measure pagewalker "$programs/pagewalker" 300
write_large_c "$work/large.c"
measure gcc gcc -O2 -fno-asynchronous-unwind-tables -c "$work/large.c" -o large.o

# A program of the suite, so many times in a run, each in an empty folder.
# shellcheck disable=SC2016
repeat='for ((i = 0; i < $1; ++i)); do (mkdir $i && cd $i && . "$suite/suite_programs.sh" && "run_$0"); done'
if [ "$long" = 1 ]; then
  # shellcheck source=suite.sh
  . "$(dirname "$0")/suite.sh"
  for suite_name in $(suite_names); do
    case $suite_name in sort | sqlite3 | pagewalker | python_dict) continue ;; esac # As above.
    wanted "$suite_name" && prepare_suite "$suite_name" || continue
    name=$suite_name expected=
    timed "$work/ordinary.out" bash -c "$repeat" "$suite_name" 1 || continue
    measure "$suite_name" bash -c "$repeat" "$suite_name" $((seconds * 1000000 / (took + 1) + 1))
  done
fi

close_with_count
