#!/bin/bash
# vm: 6.1 6.12; 400; short 6.1
# kill -9 of the swap daemon while a static program has most of its memory on the device, then of the next one: each
# time the standby goes on, and every word is right. A killed standby is replaced. With both dead delete clears the device
# away though it be on.
driver=${driver:-nbd}
mib=12
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && mib=24  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

two_donors
device=$("$farpool" swap create --driver "$driver" --size 256M --pool "$pool") && "$farpool" swap on "$device" || { bad create "no device"; close_with_count; exit; }

standby=$(swap_field standby)
kill -9 "$standby"
replaced() { [ "$(swap_field standby)" != "$standby" ] && [ "$(swap_field standby)" != 0 ]; }
if wait_for 30 replaced; then ok "a killed standby is replaced"; else bad standby "still $(swap_field standby)"; fi

"$programs/pagewalker_static" "$mib" >"$work/plain"
limited $((mib / 3)) "$programs/pagewalker_static" "$mib" >"$work/swapped" 2>"$work/err" &
program=$!
for round in 1 2; do
  written=$(swap_field pages_written)
  busy() { [ "$(swap_field pages_written)" -gt $((written + mib * 50)) ]; }
  wait_for 60 busy || bad "round $round" "the program does not swap"
  daemon=$(swap_field daemon)
  kill -9 "$daemon"
  over() { [ "$(swap_field takeovers)" = "$round" ] && [ "$(swap_field standby)" != 0 ]; }
  if wait_for 30 over; then ok "takeover $round"; else bad "takeover $round" "$("$farpool" swap list --json | tr -d '\n')"; fi
  kill -0 "$program" 2>/dev/null || bad "round $round" "the program ended too early to prove anything"
done
wait "$program"
status=$?
if [ "$status" = 0 ] && cmp -s "$work/plain" "$work/swapped"; then
  ok "every word right ($(tail -1 "$work/swapped"))"
else
  bad "program" "status $status: $(tail -2 "$work/err" | tr '\n' '|')"
fi
[ "$(swap_field errors)" = 0 ] && [ "$(swap_field corrupt)" = 0 ] || bad errors "$("$farpool" swap list --json | tr -d '\n')"
"$farpool" swap off "$device" && "$farpool" swap delete "$device" && [ "$(lent_bytes "$pool")" = 0 ] && ok "off and delete" ||
  bad "off and delete" "$("$farpool" swap list); lent $(lent_bytes "$pool")"

device=$("$farpool" swap create --driver "$driver" --size 256M --pool "$pool") && "$farpool" swap on "$device" || bad "create again" "no device"
limited $((mib / 3)) "$programs/pagewalker_static" "$mib" >"$work/swapped" 2>"$work/err" &
program=$!
busy() { [ "$(swap_field pages_written)" -gt $((mib * 50)) ]; }
wait_for 60 busy || bad "both dead" "the program does not swap"
daemon=$(swap_field daemon) standby=$(swap_field standby)
kill -STOP "$daemon"  # So that it makes no other standby.
kill -9 "$standby" "$daemon"
if timeout 60 "$farpool" swap delete "$device" 2>"$work/err" && [ "$(wc -l </proc/swaps)" = 1 ] && [ ! -e "/sys/block/${device#/dev/}/pid" ]; then
  ok "both dead: delete"
else
  bad "both dead: delete" "$(cat "$work/err" /proc/swaps)"
fi
end_limited 30 "$program"
status=$?
if [ "$status" = 135 ]; then ok "both dead: the program is ended by SIGBUS"; else bad "both dead: program" "status $status"; fi
close_with_count
