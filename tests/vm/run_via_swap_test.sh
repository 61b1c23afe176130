#!/bin/bash
# vm: 6.1 6.12; 400; short 6.1
# farpool run --via swap: a static program and a script of several processes with a fraction of their memory here; exit
# statuses and signals pass, and nothing is left behind.
near=8
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && near=16  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

two_donors
wanted=nbd
modprobe -n -q ublk_drv && wanted=ublkb
device=$("$farpool" swap create --size 16M --pool "$pool" 2>"$work/err")
if [ "${device%[0-9]}" = "/dev/$wanted" ] && "$farpool" swap delete "$device"; then ok "auto ($device)"; else bad auto "'$device' $(cat "$work/err")"; fi
run() { "$farpool" run --via swap --local "$near"M --pool "$pool" -- "$@"; }
nothing_left() {
  [ "$(wc -l </proc/swaps)" = 1 ] && [ "$("$farpool" swap list --json | tr -d ' \n')" = '{"devices":[]}' ] &&
    [ "$(lent_bytes "$pool")" = 0 ] && ! compgen -G '/sys/fs/cgroup/farpool-run-*' >/dev/null
}

"$programs/pagewalker_static" $((near * 3 / 2)) >"$work/plain"
run "$programs/pagewalker_static" $((near * 3 / 2)) >"$work/swapped" 2>"$work/err"
status=$?
if [ "$status" = 0 ] && cmp -s "$work/plain" "$work/swapped"; then
  ok "static program ($(tail -1 "$work/swapped"))"
else
  bad "static program" "status $status: $(tail -2 "$work/err" | tr '\n' '|')"
fi
if nothing_left; then ok "nothing is left"; else bad "nothing is left" "$(cat /proc/swaps; "$farpool" swap list)"; fi

script='for i in 1 2; do "$0" "$1" "$i" & done; wait; (sleep 1; echo late) & exit 7'
bash -c "$script" "$programs/pagewalker_static" $((near / 2 + 1)) | sort >"$work/plain"
run bash -c "$script" "$programs/pagewalker_static" $((near / 2 + 1)) >"$work/out" 2>"$work/err"
status=$?
sort "$work/out" >"$work/swapped"
if [ "$status" = 7 ] && cmp -s "$work/plain" "$work/swapped" && nothing_left; then
  ok "script of several processes, one outliving it"
else
  bad script "status $status: $(tail -2 "$work/err" | tr '\n' '|')"
fi

# terminated COMMAND...: a run that gets SIGTERM once COMMAND succeeds.
terminated() {
  "$farpool" run --via swap --local "$near"M --pool "$pool" -- sleep 100 &
  local runner=$!
  wait_for 20 "$@"
  kill -TERM "$runner"
  wait "$runner"
}
program_runs() { pgrep -f "^sleep 100" >/dev/null; }
terminated program_runs
status=$?
if [ "$status" = 143 ] && wait_for 10 nothing_left; then ok "a signal passes"; else bad signal "status $status"; fi
making() { compgen -G '/sys/fs/cgroup/farpool-run-*' >/dev/null; }
terminated making
status=$?
if [ "$status" = 143 ] && nothing_left; then ok "a signal before the program runs"; else bad "early signal" "status $status: $("$farpool" swap list)"; fi
run "$work/missing" 2>"$work/err"
status=$?
if [ "$status" = 127 ] && nothing_left; then ok "a missing program"; else bad "missing program" "status $status"; fi
close_with_count
