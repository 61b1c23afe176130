#!/bin/bash
# vm: 6.1 6.12; 900; long; memory=768 donor=1300M
# The whole machine under pressure: with no control group, a program touches nine tenths more than the memory there is,
# with a swap device at a donor beyond the network. The program, and others beside it, make progress all the time.
minutes=1
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && minutes=5  # lib.sh clears both.
pool=${FARPOOL_VM_DONOR:-}
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up || { bad network "$(ip -br link | tr '\n' '|')"; close_with_count; exit; }
# As docs/operations.md advises, for a small machine.
echo 32768 >/proc/sys/vm/min_free_kbytes
mib=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
device=$("$farpool" swap create --driver "${driver:=nbd}" --size $((mib * 3 / 2))M --pool "$pool") && "$farpool" swap on "$device" ||
  { bad create "no device"; close_with_count; exit; }

# Somebody else's programs must be able to start.
while :; do
  cut -d . -f 1 /proc/uptime
  sleep 1
done >"$work/beats" &
beats=$!
"$programs/pressure" $((mib * 19 / 10)) $((minutes * 60)) 2>"$work/err" | tee "$work/out"
status=${PIPESTATUS[0]}
kill "$beats"
wait "$beats" 2>/dev/null
if [ "$status" = 0 ] && grep -q 'rounds, [1-9][0-9]* MiB verified' "$work/out"; then
  ok "$((mib * 19 / 10)) MiB in a machine of $mib MiB ($(tail -1 "$work/out"); $(swap_mib pages_written) MiB out, $(swap_mib pages_read) MiB in)"
else
  bad program "status $status: $(tail -2 "$work/err" | tr '\n' '|') $(dmesg | grep -m 3 -iE 'oom|out of memory' | tr '\n' '|')"
fi
longest=$(sed -n 's/.* longest \([0-9]*\).*/\1/p' "$work/out")
if [ "${longest:-999}" -le 20 ]; then ok "no pause of the program's above 20 s"; else bad pause "$longest s"; fi
gap=$(awk 'NR > 1 && $1 - last > gap { gap = $1 - last } { last = $1 } END { print gap + 0, NR }' "$work/beats")
if [ "${gap% *}" -le 20 ] && [ "${gap#* }" -gt $((minutes * 10)) ]; then ok "others run (longest gap, beats: $gap)"; else bad others "longest gap, beats: $gap"; fi
[ "$(swap_field errors)" = 0 ] && [ "$(swap_field corrupt)" = 0 ] && [ "$(swap_field takeovers)" = 0 ] || bad errors "$("$farpool" swap list --json | tr -d '\n')"
"$farpool" swap off "$device" && "$farpool" swap delete "$device" && [ "$(lent_bytes "$pool")" = 0 ] && ok "off and delete" ||
  bad "off and delete" "$("$farpool" swap list); lent $(lent_bytes "$pool")"
close_with_count
