#!/bin/bash
# Random stress under `farpool run` (programs/stress.cc), under each hand-off: as this kernel allows, with MOVE both
# ways as where a device may pin pages, with copies as on kernels without MOVE, and with a monitor (needs root).
# Every byte is verified against what is kept near. --long takes ten minutes for each hand-off, over several limits
# and pools. A NAME chooses one run, or all that begin with "NAME-".
#   stress_test.sh [--short|--long] [--seed N] [NAME...]
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

long=0
seed=1
names=()
while [ $# -gt 0 ]; do
  case $1 in
    --short) long=0 ;;
    --long) long=1 ;;
    --seed) seed=${2:?} && shift ;;
    -*) echo "usage: $0 [--short|--long] [--seed N] [NAME...]" >&2; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done

start_donor --unix "$work/shm.sock" --memory 1G
shm=unix://$work/shm.sock
start_donor --listen tcp://127.0.0.1:0 --memory 1G
tcp=tcp://127.0.0.1:$donor_port
start_donor --unix "$work/slabs.sock" --memory 512M --slab 2M
slabs=unix://$work/slabs.sock
start_donor --unix "$work/full.sock" --memory 88M --slab 2M  # Less than 80 MiB of mappings and the heap.
full=unix://$work/full.sock

wanted_part() {
  [ ${#names[@]} = 0 ] && return 0
  local name
  for name in "${names[@]}"; do [[ $1 = "$name" || $1 = "$name"-* ]] && return 0; done
  return 1
}

handoff=auto

# stress NAME LIMIT POOL SECONDS ARGUMENT...: arguments after the seconds are the program's.
stress() {
  local name=$1 limit=$2 pool=$3 seconds=$4 status line
  shift 4
  wanted_part "$name" || return 0
  as_user timeout -k 5 $((seconds + 90)) "$farpool" run --local "$limit" --handoff "$handoff" \
    --pool "$pool" --report-json "$work/report.json" -- "$programs/stress" "$seed" "$seconds" "$@" >"$work/out" 2>"$work/err"
  status=$?
  if [ "$status" != 0 ]; then
    bad "$name" "status $status: $(head -c 600 "$work/err" | tr '\n' ' ')"
  elif ! line=$(python3 - "$work/report.json" "${4:-2}" 2>&1 <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
peak, limit = report["peak_resident_bytes"], report["local_limit_bytes"]
if min(report["pages_out"], report["pages_in"], report["pages_clean"], report["pages_zero"]) <= 0:
    sys.exit("not every way out was taken: " + str(report))
# Each of many small processes may go a little over the limit, so that it can work at all.
if peak > (1.05 if sys.argv[2] == "0" else 2) * limit:
    sys.exit(f"{peak} bytes were resident, the limit is {limit}")
if report["efault_uncured"]:
    sys.exit(f"{report['efault_uncured']} calls failed for pages that were away")
print(f"{report['pages_out']} pages out, {report['pages_in']} in, peak {peak >> 20} of {limit >> 20} MiB")
PY
  ); then
    bad "$name" "$line"
  else
    ok "$name (seed $seed: $line)"
  fi
  rm -f "$work/report.json" "$work/out" "$work/err"
}

# Only root may have events for what the kernel itself touches, so these runs do not step down.
under_monitor() {
  [ "$(id -u)" = 0 ] || return 0
  local handoff=monitor
  not_stepped_down "$@"
}

# ten_minutes HANDOFF
ten_minutes() {
  stress "$1-both" 16M "$shm,$tcp" 150
  stress "$1-shm-small" 4M "$shm" 90 48 2 1
  stress "$1-tcp" 16M "$tcp" 120 128 2 3
  stress "$1-large" 64M "$shm,$tcp" 90 256 6 2
  stress "$1-slabs" 16M "$slabs,$tcp" 60
  stress "$1-full" 16M "$full" 60 80 3 1 0
  stress "$1-alone" 16M "$shm" 30 64 1 1 0
  seed=$((seed + 1))
}

if [ "$long" = 0 ]; then
  stress auto 16M "$shm,$tcp" 12
  stress auto-full 8M "$full" 8 80 3 1 0
  FARPOOL_TEST_FILL=move stress move 16M "$shm,$tcp" 8
  FARPOOL_TEST_FILL=copy stress copy 16M "$shm,$tcp" 12
  under_monitor stress monitor 16M "$shm,$tcp" 8
else
  ten_minutes auto
  FARPOOL_TEST_FILL=move stress move 16M "$shm,$tcp" 150
  FARPOOL_TEST_FILL=copy ten_minutes copy
  under_monitor ten_minutes monitor
fi

close_with_count
