#!/bin/bash
# vm: 6.1 6.12; 400; short 6.1
# A swap device on a shared-memory and a TCP donor: verified block I/O, then a static program at three times the
# memory its control group may have, then nothing is left of it.
mib=12
fio_mib=8
image_mib=4
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && mib=24 fio_mib=16 image_mib=8  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"
# shellcheck source=swap_lib.sh
. "$(dirname "$0")/swap_lib.sh"

two_donors
if device=$("$farpool" swap create --driver "${driver:=nbd}" --size 256M --pool "$pool" 2>"$work/err"); then
  ok "create ($device)"
else
  bad create "$(cat "$work/err")"
  close_with_count
  exit
fi
[ "$(swap_field standby)" != 0 ] || bad standby "none"

verified() {  # NAME FIO-FLAGS...
  local name=$1
  shift
  if fio --name="$name" --filename="$device" --direct=1 --ioengine=psync --size="$fio_mib"M --randseed=7 "$@" >"$work/fio" 2>&1; then
    ok "fio $name"
  else
    bad "fio $name" "$(grep -iE 'err|verify' "$work/fio" | head -3 | tr '\n' '|')"
  fi
}
verified mixed --rw=randwrite --bsrange=4k-256k --numjobs=1 --verify=crc32c --do_verify=1
verified small --rw=randrw --bs=4k --io_size=$((fio_mib / 2))M --verify=crc32c --verify_backlog=256
# Reads and writes under way at once in every queue.
verified deep --rw=randrw --bs=4k --io_size="$fio_mib"M --ioengine=libaio --iodepth=32 --verify=crc32c --verify_backlog=256
# Each page is trimmed and then written.
discarded=$(swap_field pages_discarded)
verified trim --rw=randtrimwrite --bs=4k --io_size="$fio_mib"M --verify=crc32c
[ $(($(swap_field pages_discarded) - discarded)) -ge $((fio_mib << 7)) ] || bad "fio trim" "only $(($(swap_field pages_discarded) - discarded)) pages were trimmed"
# Pieces of many sizes go from among others, which keep their bytes.
head -c "$image_mib"M /dev/urandom >"$work/image"
dd if="$work/image" of="$device" bs=256k oflag=direct status=none
for ((at = 0, i = 1; at + i <= image_mib * 256; at += 2 * i + 3, i = i % 37 + 1)); do
  blkdiscard -o $((at << 12)) -l $((i << 12)) "$device" && fallocate -p -o $((at << 12)) -l $((i << 12)) "$work/image" || break
done
if dd if="$device" bs=1M count="$image_mib" iflag=direct status=none | cmp -s - "$work/image" && [ "$at" -gt $((image_mib * 250 - 50)) ]; then
  ok "trimmed pieces are zeros, the others unharmed"
else
  bad "trimmed pieces" "$(dd if="$device" bs=1M count="$image_mib" iflag=direct status=none | cmp - "$work/image" 2>&1), at $at"
fi
blkdiscard "$device"
if cmp -n $((256 << 20)) "$device" /dev/zero; then ok discard; else bad discard "data where zeros must be"; fi
[ "$(swap_field stored_bytes)" = 0 ] || bad discard "slots are still held"
if [ "$(blockdev --getsize64 "$device")" = $((256 << 20)) ]; then
  ok size
else
  bad size "$(blockdev --getsize64 "$device")"
fi

# Whose connection ends without an answer asks again: a standby may go on. Dead is what nobody listens for.
timeout 30 python3 -c 'import os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
    s.bind(sys.argv[1])
    s.listen()
    for i in range(2): s.accept()[0].close()
    os.unlink(sys.argv[1])' /run/farpool/swap/nbd99.sock &
fake=$!
wait_for 20 test -S /run/farpool/swap/nbd99.sock
"$farpool" swap list >"$work/list"
wait "$fake" && grep -q 'nbd99.* is dead' "$work/list" && ok "asks again" || bad "asks again" "$(tr '\n' '|' <"$work/list")"
rm -f /run/farpool/swap/nbd99.sock

"$farpool" swap on "$device" && "$farpool" swap on "$device" && awk -v d="$device" '$1 == d && $5 == 90 { on = 1 } END { exit !on }' /proc/swaps && ok on || bad on "$(cat /proc/swaps)"
"$farpool" swap delete "$device" 2>"$work/err" && bad delete "of a device that is on" || ok "delete refused while on"
"$programs/pagewalker_static" "$mib" >"$work/plain"
limited $((mib / 3)) "$programs/pagewalker_static" "$mib" >"$work/swapped" 2>"$work/err"
if cmp -s "$work/plain" "$work/swapped"; then
  ok "static program ($(tail -1 "$work/swapped"), $(swap_mib pages_written) MiB out, $(swap_mib pages_read) MiB in)"
else
  bad "static program" "$(tail -2 "$work/err" | tr '\n' '|')"
fi
[ "$(swap_field errors)" = 0 ] || bad errors "$("$farpool" swap list --json)"
! dmesg | grep 'farpool:.*refused' || bad requests "answered twice or not at all"
"$farpool" swap off "$device" && "$farpool" swap off "$device" && ! grep -q "^$device " /proc/swaps && ok off || bad off "$(cat /proc/swaps)"
if "$farpool" swap delete "$device" && [ "$("$farpool" swap list --json | tr -d ' \n')" = '{"devices":[]}' ] &&
  [ "$(lent_bytes "$pool")" = 0 ] && [ "$(cat "/sys/block/${device#/dev/}/size" 2>/dev/null || echo 0)" = 0 ] && 
  ! pgrep -x farpool-swap >/dev/null && ! pgrep -x farpool-standby >/dev/null; then
  ok delete
else
  bad delete "$("$farpool" swap list); lent $(lent_bytes "$pool"); $(pgrep -l farpool)"
fi
close_with_count
