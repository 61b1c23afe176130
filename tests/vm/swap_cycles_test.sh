#!/bin/bash
# vm: 6.1 6.12; 1700; short 6.1
# A device is made, used and ended many times: nothing of it is left, be it devices, processes, locked memory, slabs of
# the donors or what the donors keep for them.
driver=${driver:-nbd}
cycles=3
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && cycles=100  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

two_donors
pages_out() { awk '$1 == "pswpout" { print $2 }' /proc/vmstat; }
one_cycle() {  # DRIVER: what went wrong, in a word
  local device written
  device=$("$farpool" swap create --driver "$1" --size 64M --pool "$pool" 2>"$work/err") || { echo "create: $(cat "$work/err")"; return; }
  "$farpool" swap on "$device" || { echo on; return; }
  written=$(pages_out)
  # With much less room for it the kernel finds everything on its way out, now and then, and kills the program.
  limited 6 "$programs/pressure" 12 0 >"$work/swapped" 2>"$work/err" || { echo "program: $(tail -1 "$work/err")"; return; }
  written=$(($(pages_out) - written))
  [ "$written" -gt 1000 ] || { echo "only $written pages swapped"; return; }
  timeout 60 "$farpool" swap off "$device" || { echo "off: $?"; stacks >&2; return; }
  timeout 60 "$farpool" swap delete "$device" || { echo "delete: $?"; stacks >&2; return; }
}
left() {
  echo "$(wc -l </proc/swaps) swaps, $(cat /sys/block/nbd*/pid 2>/dev/null | wc -l) nbd, $(find /sys/block -name 'ublkb*' | wc -l) ublk," \
    "$(pgrep -c farpool-s) processes, $(($(wc -l </proc/sysvipc/shm) - 1)) segments," \
    "$(find /run/farpool/swap -type s 2>/dev/null | wc -l) sockets, $(lent_bytes "$pool") bytes lent," \
    "$(for pid in "${donor_pids[@]}"; do find "/proc/$pid/fd" -type l; done | wc -l) descriptors and" \
    "$(for pid in "${donor_pids[@]}"; do find "/proc/$pid/task" -maxdepth 1 -mindepth 1; done | wc -l) threads of donors"
}
# What the kernel and we use that could not be taken back, in MiB.
used() { awk '/^(SUnreclaim|Unevictable|Percpu|Shmem|KernelStack|PageTables|VmallocUsed):/ { kb += $2 } END { print int(kb / 1024) }' /proc/meminfo; }

one=$(one_cycle "$driver")  # What a driver and a donor set up once.
[ -z "$one" ] || { bad "$driver" "the first cycle: $one"; close_with_count; exit; }
before=$(left)
used_before=$(used)
for ((i = 1; i <= cycles; i++)); do
  one=$(one_cycle "$driver")
  [ -z "$one" ] || { bad "$driver" "cycle $i: $one"; close_with_count; exit; }
  [ $((i % 10)) = 0 ] && echo "$driver: cycle $i, $(left)"
done
# A donor notices a moment later that a connection has ended.
as_before() { [ "$(left)" = "$before" ]; }
if wait_for 10 as_before; then ok "$driver: nothing is left after $cycles cycles"; else bad "$driver" "after $cycles cycles $(left); before $before"; fi
# Less than a tenth of what a device locks, per cycle.
grown=$(($(used) - used_before))
if [ "$grown" -lt $((cycles + 10)) ]; then ok "$driver: memory ($grown MiB more)"; else bad "$driver: memory" "$grown MiB more"; fi
close_with_count
