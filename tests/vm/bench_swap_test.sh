#!/bin/bash
# vm: 6.12; 900; long
# farpool bench swap measures all of its devices, verifies what it wrote there, and leaves nothing. With --long it measures.
size=--smoke
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && size=--quick  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"

if "$farpool" bench swap "$size" --json "$work/bench.json" >"$work/table" 2>"$work/err"; then
  ok "farpool bench swap $size"
else
  bad "farpool bench swap $size" "$(tail -2 "$work/err" | tr '\n' '|')"
fi
cat "$work/table"
configs=$(python3 -c 'import json, sys; print(*sorted({r["config"] for r in json.load(open(sys.argv[1]))["results"]}))' "$work/bench.json" 2>&1)
if [ "$configs" = "nbd-shm nbd-tcp nbdkit nvme-tcp ublk-shm ublk-tcp" ]; then ok "all were measured"; else bad "all were measured" "$configs; $(grep '^not measured' "$work/table" | tr '\n' '|')"; fi
left=$("$farpool" swap list --json | tr -d ' \n')$(cat /sys/block/nbd*/pid 2>/dev/null)$(pgrep nbdkit; pgrep farpool-s)$(ls /sys/kernel/config/nvmet/subsystems 2>/dev/null)
if [ "$left" = '{"devices":[]}' ]; then ok "nothing is left"; else bad "nothing is left" "$left"; fi
close_with_count
