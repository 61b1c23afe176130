#!/bin/bash
# Real programs under `farpool run` with a share of the far memory they want, over one shared-memory and one TCP
# donor. Each runs ordinarily; once unlimited, which measures its far footprint; then at shares of that. Standard
# output, standard error, exit status and the files it leaves must be the same each time.
#   suite_test.sh [--short|--long] [NAME...]
# --short: a few programs at 50 %. --long: all of suite_programs.sh at 75, 50 and 25 %; the packages it needs are in
# packaging/suite-packages.txt:   apt-get install $(grep -v '^#' packaging/suite-packages.txt)
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=compare.sh
. "$(dirname "$0")/compare.sh"

shares="75 50 25"
[ "$long" = 0 ] && [ ${#names[@]} = 0 ] && shares=50
short_programs="pagewalker quicksort churn python_multi perl git"

# shellcheck source=suite.sh
. "$(dirname "$0")/suite.sh"

# once WAY NAME [COMMAND...]: runs it in an empty folder, behind COMMAND if given. Leaves WAY.all: what it printed,
# its status and its files, masked.
once() {
  local way=$1 name=$2 mask=mask_$2
  shift 2
  rm -rf "$work/run"
  as_user mkdir "$work/run"
  (cd "$work/run" && "$@" bash -c '. "$suite/suite_programs.sh" && "run_$0"' "$name") \
    >"$work/$way.out" 2>"$work/$way.err" </dev/null
  echo "status $?" >"$work/$way.status"
  (cd "$work/run" && find . -maxdepth 1 -type f -name '*.sum' -exec sha256sum {} +) >"$work/$way.files"
  local part
  for part in out err status files; do
    echo "--- $part"
    sed -E "${!mask:-}" "$work/$way.$part"
  done >"$work/$way.all"
}

seconds_since() { awk "BEGIN { printf \"%.1f\", ($(date +%s%N) - $1) / 1e9 }"; }

test_program() {
  local name=$1 footprint limit share began times reason must_move
  prepare_suite "$name" || return
  began=$(date +%s%N)
  once plain "$name" as_user timeout -k 5 "$seconds_max"
  times="ordinarily $(seconds_since "$began") s"
  if grep -qE '^status (12[4-7])$' "$work/plain.all"; then
    bad "$name" "does not run ordinarily (packaging/suite-packages.txt?): $(tail -1 "$work/plain.err")"
    return
  fi
  for share in 0 $shares; do
    limit=64G
    [ "$share" = 0 ] || limit=$((footprint * share / 100))
    # farpool's own minimum. Less than that may stay resident as a whole.
    must_move=1
    [ "$share" != 0 ] && [ "$limit" -lt $((4 << 20)) ] && limit=$((4 << 20)) must_move=0
    rm -f "$work/report.json"
    began=$(date +%s%N)
    once far "$name" under "$limit" "$work/report.json"
    if ! cmp -s "$work/plain.all" "$work/far.all"; then
      [ -n "${SUITE_KEEP:-}" ] && mkdir -p "$SUITE_KEEP" && cp -r "$work/plain.all" "$work/far.all" "$work/run" "$SUITE_KEEP"
      bad "$name" "at $share %, $(cat "$work/far.status"), stderr: $(tail -n 2 "$work/far.err" | cut -c 1-300 | tr '\n' '|') $(
        diff "$work/plain.all" "$work/far.all" | head -6 | cut -c 1-300 | tr '\n' '|')"
      return
    fi
    if [ "$share" = 0 ]; then
      footprint=$(json_field "$work/report.json" peak_far_bytes)
      times+=", unlimited $(seconds_since "$began") s, $((footprint >> 20)) MiB far"
      continue
    fi
    if ! reason=$(limit_held "$work/report.json" "$must_move" 2>&1); then
      bad "$name" "at $share % ($((limit >> 20)) MiB): $reason"
      return
    fi
    times+=", $share %: $(seconds_since "$began") s"
  done
  ok "$name ($times)"
}

if [ ${#names[@]} = 0 ]; then
  if [ "$long" = 1 ]; then
    mapfile -t names < <(suite_names)
  else
    read -r -a names <<<"$short_programs"
  fi
fi
for name in "${names[@]}"; do
  if declare -F "run_$name" >/dev/null; then test_program "$name"; else bad "$name" "no such program"; fi
done
close_with_count
