# shellcheck shell=bash
# Shared by the scripts that run programs both ways: arguments, two donors, one run under farpool, and what its
# report must say. Sourced after lib.sh with the script's own arguments.

long=0
names=()
for argument in "$@"; do
  case $argument in
    --short) long=0 ;;
    --long) long=1 ;;
    -*) echo "usage: $0 [--short|--long] [NAME...]" >&2; exit 2 ;;
    *) names+=("$argument") ;;
  esac
done

start_donor --unix "$work/donor.sock" --memory "$donor_memory"
start_donor --listen tcp://127.0.0.1:0 --memory "$donor_memory"
tcp_pool=tcp://127.0.0.1:$donor_port
pool=unix://$work/donor.sock,$tcp_pool
seconds_max=$((long ? 7200 : 600))
handoff=auto
compress=auto

# under LIMIT REPORT COMMAND...: runs it, stdout and stderr as given.
under() {
  local limit=$1 report=$2
  shift 2
  as_user timeout -k 5 "$seconds_max" "$farpool" run --local "$limit" --handoff "$handoff" \
    --compress "$compress" \
    --pool "$pool" --report-json "$report" -- "$@"
}

# limit_held REPORT [MOVED]: checks what the report says; prints the reason where it is not right. With MOVED 0 no
# page need have moved.
limit_held() {
  python3 - "$1" "${2:-1}" <<'PY'
import json, sys
try:
    report = json.load(open(sys.argv[1]))
except (OSError, ValueError) as error:
    sys.exit(f"report: {error}")
moved, peak, limit = report["pages_out"], report["peak_resident_bytes"], report["local_limit_bytes"]
if moved < int(sys.argv[2]):
    sys.exit("no page was moved to a donor")
if peak > 1.05 * limit:
    sys.exit(f"{peak} bytes were resident, the limit is {limit}")
if report.get("efault_uncured", 0):
    sys.exit(f"{report['efault_uncured']} calls failed for pages that were away")
PY
}
