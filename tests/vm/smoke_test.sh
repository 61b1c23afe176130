#!/bin/bash
# vm: 6.1 6.12; 200; short
# farpool on Debian's kernels: doctor says the machine can do it, and a verifying program prints under `farpool run`
# what it prints without: pages are moved where the kernel can (6.8 and later) and copied where it cannot.
mib=24
[ "${FARPOOL_VM_LONG:-0}" = 1 ] && mib=48  # lib.sh clears it.
# shellcheck source=../integration/lib.sh
. "$(dirname "$0")/../integration/lib.sh"

fill=copy
[ "$(uname -r | cut -d . -f 2)" -ge 8 ] && fill=move

if as_user "$farpool" doctor >"$work/doctor" 2>&1; then ok doctor; else bad doctor "$(grep -v '^ok' "$work/doctor" | head -3 | tr '\n' '|')"; fi

start_donor --unix "$work/donor.sock" --memory 512M
as_user "$programs/pagewalker" "$mib" >"$work/plain" 2>&1
as_user "$farpool" run --local $((mib / 4))M --pool "unix://$work/donor.sock" --report-json "$work/report.json" -- \
  "$programs/pagewalker" "$mib" >"$work/far" 2>"$work/far.err"
status=$?
if [ "$status" != 0 ] || ! cmp -s "$work/plain" "$work/far"; then
  bad run "status $status: $(head -c 300 "$work/far.err" | tr '\n' '|')"
else
  ok "run ($(tail -1 "$work/plain"))"
fi
got=$(json_field "$work/report.json" fill)
if [ "$got" = "$fill" ]; then ok "pages by $fill"; else bad "pages by $fill" "the report says '$got'"; fi
close_with_count
