# shellcheck shell=bash
# Shared by the integration scripts: the build under test, an unprivileged user, donors, and the count of results.
set -u

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${FARPOOL_BUILD:-$repo/build}" && pwd) || exit 1
donor_memory=${FARPOOL_TEST_DONOR:-3G}
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
unset "${!FARPOOL_@}" LD_PRELOAD

passed=0
failed=0
donor_pids=()
work=$(mktemp -d "${TMPDIR:-/tmp}/farpool-test.XXXXXX")

# Everything that farpool does here must work without privileges, so root steps down first.
user=()
if [ "$(id -u)" = 0 ]; then
  user=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all)
  chown 65534:65534 "$work"
fi

# wanted NAME: is it among the $names of the command line, or are there none?
wanted() { [ ${#names[@]} = 0 ] || [[ " ${names[*]} " = *" $1 "* ]]; }

# wait_for SECONDS COMMAND...: until it succeeds; 1 if it does not in that time.
wait_pause=0.02
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep "$wait_pause"
  done
}

# The median of the numbers on stdin, the lower of two.
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] + 0 }'; }

finish() {
  for pid in ${donor_pids[@]+"${donor_pids[@]}"}; do kill "$pid" 2>/dev/null; done
  for pid in ${donor_pids[@]+"${donor_pids[@]}"}; do wait "$pid" 2>/dev/null; done
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

farpool=$build/bin/farpool
programs=$build/tests/programs
apps=$build/libexec/farpool-bench  # Those of farpool bench apps.
if [ ! -x "$farpool" ]; then
  echo "FAILED build $farpool is missing; build first (cmake --preset release && cmake --build build)"
  exit 1
fi
# A build directory that the unprivileged user cannot reach is installed where it can.
if ! "${user[@]+"${user[@]}"}" test -x "$farpool"; then
  cmake --install "$build" --prefix "$work/installed" >"$work/install.log" || { cat "$work/install.log"; exit 1; }
  cp -r "$programs" "$work/programs"
  chmod -R a+rX "$work/installed" "$work/programs"
  farpool=$work/installed/bin/farpool
  programs=$work/programs
  apps=$work/installed/libexec/farpool-bench
fi

# Each result comes with the time since the one before.
last_result=$SECONDS
ok() {
  echo "ok $1 ($((SECONDS - last_result)) s)"
  last_result=$SECONDS
  passed=$((passed + 1))
}
bad() {  # NAME REASON
  echo "FAILED $1 $2"
  last_result=$SECONDS
  failed=$((failed + 1))
}
close_with_count() {
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

as_user() {
  "${user[@]+"${user[@]}"}" env HOME="$work" TMPDIR="$work" "$@"
}

# not_stepped_down COMMAND...: what as_user does in it is done as who runs this script.
not_stepped_down() {
  local -a user=()
  "$@"
}

# The same as as_user for use with &: the process that $! names is the command itself, so that it can be signalled.
exec_as_user() {
  exec "${user[@]+"${user[@]}"}" env HOME="$work" TMPDIR="$work" "$@"
}

# start_donor FLAGS...: sets donor_pid, and donor_port where --listen or --rdma was given, once the donor is ready.
start_donor() {
  local lines line=
  donor_port=
  exec {lines}< <(exec "${user[@]+"${user[@]}"}" "$farpool" donor "$@" 2>>"$work/donors.log")
  donor_pid=$!
  donor_pids+=("$donor_pid")
  while read -r -t 10 -u "$lines" line; do
    [[ $line =~ ^listening\ on\ (tcp|rdma)://[^,]*:([0-9]+), ]] && donor_port=${BASH_REMATCH[2]}
    [ "$line" = ready ] && return
  done
  echo "FAILED donor $*: $(tail -1 "$work/donors.log")"
  exit 1
}

# json_field FILE FIELD...
json_field() {
  python3 -c 'import json, sys; report = json.load(open(sys.argv[1])); print(*(report[f] for f in sys.argv[2:]))' "$@"
}
