#!/bin/bash
# vm: 6.1 6.12; 700; short 6.12
# A donor is silent for a while and then killed, while a program has most of its memory on a swap device: first nothing
# happens; then one line says what is lost, the program is ended by SIGBUS instead of going on with wrong data, others go
# on, and off and delete say so and end.
mib=24
slab=4
stored=14
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && mib=64 slab=16 stored=36  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

drivers=nbd
modprobe -n -q ublk_drv && drivers="nbd ublk"
for driver in $drivers; do
  # The one that has more room gets nearly all slabs: it is the one to lose.
  start_donor --unix "$work/donor.sock" --memory 128M --slab "$slab"M
  start_donor --listen tcp://127.0.0.1:0 --memory 1536M --slab "$slab"M
  killed=$donor_pid
  kept=unix://$work/donor.sock
  pool=$kept,tcp://127.0.0.1:$donor_port
  device=$("$farpool" swap create --driver "$driver" --size 256M --pool "$pool") && "$farpool" swap on "$device" || { bad "$driver" "no device"; continue; }
  dmesg -C
  limited $((mib / 8)) "$programs/pagewalker_static" "$mib" >"$work/out" 2>"$work/err" &
  program=$!
  away() { [ "$(swap_field stored_bytes)" -gt $((stored << 20)) ]; }
  wait_for 200 away || bad "$driver" "the program does not swap: $("$farpool" swap list)"
  # Shorter than a switch takes to start again.
  kill -STOP "$killed"
  sleep 8
  kill -CONT "$killed"
  read=$(swap_field pages_read)
  goes_on() { [ "$(swap_field pages_read)" -gt "$read" ]; }
  if wait_for 30 goes_on && [ "$(swap_field lost_donors)" = 0 ] && [ "$(swap_field errors)" = 0 ]; then
    ok "$driver: a silent donor is waited for"
  else
    bad "$driver: a silent donor" "$("$farpool" swap list --json | tr -d '\n')"
  fi
  kill -9 "$killed"
  end_limited 60 "$program"
  status=$?
  if [ "$status" = 135 ]; then ok "$driver: the program is ended by SIGBUS"; else bad "$driver: program" "status $status: $(tail -1 "$work/err")"; fi
  lines=$(dmesg | grep -c 'farpool: .* is gone, and with it [1-9][0-9]* MiB')
  if [ "$lines" = 1 ]; then ok "$driver: one line ($(dmesg | sed -n 's/.*\(farpool: .* is gone\)/\1/p'))"; else bad "$driver: one line" "$lines: $(dmesg | grep farpool | head -3 | tr '\n' '|')"; fi
  # What comes later finds room at the other donor.
  limited 3 "$programs/pagewalker_static" 9 >"$work/swapped" 2>"$work/err"
  "$programs/pagewalker_static" 9 >"$work/plain"
  if cmp -s "$work/plain" "$work/swapped"; then ok "$driver: the next program runs"; else bad "$driver: the next program" "$(tail -1 "$work/err")"; fi
  if timeout 60 "$farpool" swap off "$device" 2>"$work/err" && grep -q '^farpool: .* lost with [1-9]' "$work/err"; then
    ok "$driver: off ($(cat "$work/err"))"
  else
    bad "$driver: off" "$(cat "$work/err")"
  fi
  if timeout 60 "$farpool" swap delete "$device" 2>"$work/err" && [ "$(lent_bytes "$kept")" = 0 ] && ! pgrep farpool-s >/dev/null; then
    ok "$driver: delete"
  else
    bad "$driver: delete" "$(cat "$work/err")"
  fi
  kill "${donor_pids[@]}" 2>/dev/null
  wait "${donor_pids[@]}" 2>/dev/null
  donor_pids=()
done
close_with_count
