#!/bin/bash
# The command line: help, refusals (one line each, with their exit status), where flags come from, and a donor's
# life. Needs no far memory. FARPOOL_BUILD names the build directory.
set -u
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
farpool=${FARPOOL_BUILD:-$repo/build}/bin/farpool
[ -x "$farpool" ] || { echo "FAILED $farpool is missing; build first"; exit 1; }
unset "${!FARPOOL_@}"
export LC_ALL=C
work=$(mktemp -d "${TMPDIR:-/tmp}/farpool-cli.XXXXXX")
donors=()
failed=0

finish() {
  for pid in ${donors[@]+"${donors[@]}"}; do kill -KILL "$pid" 2>/dev/null; done
  rm -rf "$work"
}
trap finish EXIT

bad() {
  echo "FAILED $1: $2"
  failed=1
}

# expect NAME STATUS PATTERN COMMAND...: exit status, and the output as a whole against an extended regex.
# expect_refusal: nothing on stdout, one line on stderr.
expect() {
  local name=$1 status=$2 pattern=$3 got
  shift 3
  timeout 20 "$@" >"$work/out" 2>"$work/err" </dev/null
  got=$?
  [ "$got" = "$status" ] || bad "$name" "exit status $got, not $status: $(cat "$work/out" "$work/err")"
  cat "$work/out" "$work/err" | tr '\n' ' ' | grep -qE -e "$pattern" ||
    bad "$name" "no '$pattern' in: $(cat "$work/out" "$work/err")"
}
expect_refusal() {
  expect "$@"
  [ -s "$work/out" ] && bad "$1" "wrote to stdout: $(cat "$work/out")"
  [ "$(wc -l <"$work/err")" = 1 ] || bad "$1" "not one line: $(cat "$work/err")"
  grep -q '^farpool: ' "$work/err" || bad "$1" "no 'farpool: ' in front: $(cat "$work/err")"
}

# --- help
expect "bare farpool" 2 'Usage: farpool COMMAND' "$farpool"
for command in '' run donor status swap doctor bench version; do
  # shellcheck disable=SC2086
  expect "help $command" 0 "Usage: farpool ${command:-COMMAND}.*--help" "$farpool" $command --help
  [ -s "$work/err" ] && bad "help $command" "wrote to stderr"
done
expect "help needs nothing else" 0 'Usage: farpool run' "$farpool" run --local 12Q --help

# --- refusals
expect_refusal "unknown command" 2 "no command 'lend'" "$farpool" lend
expect_refusal "flag without command" 2 'unknown argument .*--local' "$farpool" --local 1G
for command in donor status doctor version; do
  expect_refusal "bad flag of $command" 2 "unknown argument --bogus; see 'farpool $command --help'" "$farpool" $command --bogus
done
expect_refusal "bad flag of run" 125 'unknown argument --bogus' "$farpool" run --bogus -- true
expect_refusal "bad flag with a value" 125 'unknown argument --locl;' "$farpool" run --locl 3 -- true
expect_refusal "bad flag before the program" 125 'unknown argument --bogus;' "$farpool" run --bogus sort FILE
expect_refusal "bad size of donor" 2 "^farpool: --memory: '12Q' is not a size" "$farpool" donor --memory 12Q
for size in 12Q -1 '' 0 99999999999999999999 101% 0% 1.5% x%; do
  expect_refusal "bad size $size of run" 125 '^farpool: --local: ' "$farpool" run --local "$size" -- true
done
expect_refusal "flag without value" 125 '--local needs a value;' "$farpool" run --local
expect_refusal "flag twice" 125 '--local may be given only once;' "$farpool" run --local 1G --local 2G -- true
expect_refusal "no program" 125 'no program to run; put it after --' "$farpool" run --local 1G
expect_refusal "program without --" 125 'put -- before the program' "$farpool" run --local 1G sort
expect_refusal "handoff" 125 "'mirror' is unknown" "$farpool" run --handoff mirror -- true
expect_refusal "swap without action" 2 "ACTION is required" "$farpool" swap
expect_refusal "unknown action" 2 "no action 'mount'; there are create, on, off, list and delete" "$farpool" swap mount
expect_refusal "swap without size" 2 'needs --size' "$farpool" swap create --pool tcp://127.0.0.1:1
expect_refusal "swap without pool" 2 'needs --pool' "$farpool" swap create --size 1G
expect_refusal "small swap" 2 '^farpool: --size: must be from 1M to 1T' "$farpool" swap create --size 4K
expect_refusal "unknown driver" 2 "'loop' is unknown; use auto, ublk or nbd" "$farpool" swap create --driver loop
for action in on off delete; do
  expect_refusal "swap $action nothing" 2 "name the device, as in: farpool swap $action /dev/ublkb0" "$farpool" swap "$action"
done
expect_refusal "swap of others" 1 "(no swap device of farpool's|run farpool swap as root)" "$farpool" swap off /dev/null
expect_refusal "unknown compression" 125 "'gzip' is unknown; use auto, on or off" "$farpool" run --compress gzip -- true
expect_refusal "unknown placement" 125 "'fair' is unknown; use slabs, even or weighted" "$farpool" run --placement fair -- true
expect_refusal "unknown way" 125 "'ptrace' is unknown; use preload or swap" "$farpool" run --via ptrace -- true
expect_refusal "run via swap" 125 '(run it as root|needs --local SIZE)' "$farpool" run --via swap -- true
expect_refusal "pool of a registry" 125 "cannot be used yet" "$farpool" run --pool registry://a -- true
expect_refusal "donor of rdma without a device" 1 "^farpool: --rdma 127.0.0.1: .*RDMA device" "$farpool" donor --rdma 127.0.0.1:0 --memory 64M
expect_refusal "donor of rdma elsewhere" 2 "has a bad port" "$farpool" donor --rdma 127.0.0.1:x
expect_refusal "pool of an unknown scheme" 2 'use tcp, rdma or unix, or file:PATH' "$farpool" status --pool http://host:1
expect_refusal "pool without scheme" 2 "'host:1' has no scheme" "$farpool" status --pool host:1
expect_refusal "donor larger than the host" 2 'more than this host has' "$farpool" donor --memory 4096T
expect_refusal "donor smaller than a slab" 2 'does not hold one slab' "$farpool" donor --memory 1M
expect_refusal "quota smaller than a slab" 2 '^farpool: --quota 1 MiB does not hold one slab' "$farpool" donor --quota 1M --memory 64M
expect_refusal "address of others" 1 'no such address on this machine' "$farpool" donor --listen tcp://192.0.2.1:0 --allow-anyone --memory 64M
expect_refusal "long rack" 2 '^farpool: --rack: the name is longer than 64 bytes' "$farpool" donor --rack "$(printf 'x%.0s' {1..65})"
expect_refusal "odd slab" 2 'power of two' "$farpool" donor --slab 3M
expect_refusal "donor open to all" 1 'allow-anyone' "$farpool" donor --listen tcp://0.0.0.0:0 --memory 64M
expect_refusal "config that is not there" 2 "$work/none: cannot be read: No such file" "$farpool" status --config "$work/none"
expect_refusal "config that is a directory" 125 "$work: cannot be read" "$farpool" run --config "$work" -- true
mkfifo "$work/fifo"
expect_refusal "config that may never begin" 125 "$work/fifo: cannot be read: it is no regular file" "$farpool" run --config "$work/fifo" -- true
expect_refusal "config that never ends" 2 "/dev/zero: cannot be read: it is no regular file" "$farpool" donor --config /dev/zero
head -c 2M /dev/zero >"$work/large"
expect_refusal "large config" 2 "$work/large: is over 1 MiB" "$farpool" donor --config "$work/large"
printf '[donor]\nmemroy = "1G"\n' >"$work/typo.toml"
expect_refusal "unknown key" 2 "typo.toml:2: unknown key 'memroy'" "$farpool" donor --config "$work/typo.toml"
printf '[donor]\nmemory = \n' >"$work/broken.toml"
expect_refusal "broken config" 2 'broken.toml:2: ' env FARPOOL_CONFIG="$work/broken.toml" "$farpool" donor
expect_refusal "bad variable" 125 "^farpool: FARPOOL_LOCAL: '12Q'" env FARPOOL_LOCAL=12Q "$farpool" run -- true

expect_refusal "bench with a flag of another" 2 '--only, --configs and --shares are for bench apps' "$farpool" bench faults --smoke --shares 50
expect_refusal "bench with donors it would not use" 2 '--pool is for bench faults, scan and apps' "$farpool" bench scale --smoke --pool tcp://127.0.0.1:1
expect_refusal "bench without a place for its results" 1 '/nonexistent/x could not be written: No such file' "$farpool" bench faults --smoke --json /nonexistent/x

# --- what could not be printed was not done
for command in --help version status; do
  # shellcheck disable=SC2016  # for the inner shell
  expect_refusal "$command to a full disk" 1 'cannot write to standard output: No space left' sh -c '"$@" >/dev/full' sh "$farpool" $command
done

# --- nobody listens on port 1
expect "unknown donor" 1 'tcp://127.0.0.1:1 +unreachable +[Cc]onnection refused' "$farpool" status --pool tcp://127.0.0.1:1
expect "unknown donor as JSON" 1 '"reachable": false, +"reason": "[^"]+"' "$farpool" status --json --pool tcp://127.0.0.1:1
expect "doctor, unknown donor" 1 'FAIL +tcp://127.0.0.1:1 .*far memory cannot work here' "$farpool" doctor --pool tcp://127.0.0.1:1
expect "version" 0 '^farpool [0-9.]+ commit ' "$farpool" version
expect "version as JSON" 0 '"version": "[0-9.]+".*"commit"' env FARPOOL_JSON=1 "$farpool" version

# --- a donor's life
# start_donor ARGS...: sets donor (pid), lines (fd of its stdout) and first (its first line), once it is ready.
start_donor() {
  local line
  exec {lines}< <(exec env "${variables[@]}" "$farpool" donor "$@" 2>>"$work/donor.log")
  donor=$!
  donors+=("$donor")
  read -r -t 10 -u "$lines" first || { bad "donor $*" "no line: $(tail -1 "$work/donor.log")"; return 1; }
  line=$first
  while [ "$line" != ready ]; do
    read -r -t 10 -u "$lines" line || { bad "donor $*" "not ready: $(tail -1 "$work/donor.log")"; return 1; }
  done
}
# stop_donor SIGNAL: exit 0 and a closing line, within ten seconds.
stop_donor() {
  local last
  kill -"$1" "$donor"
  read -r -t 10 -u "$lines" last || bad "donor on $1" "no closing line"
  [[ $last == served\ *\ reads* ]] || bad "donor on $1" "closing line: $last"
  wait "$donor" || bad "donor on $1" "exit status $?"
  exec {lines}<&-
}
variables=()
start_donor --listen tcp://127.0.0.1:0 --memory 128M --slab 2M && {
  [[ $first =~ ^listening\ on\ (tcp://127\.0\.0\.1:[1-9][0-9]*),\ lending\ 128\ MiB\ in\ 2\ MiB\ slabs$ ]] ||
    bad "donor's first line" "$first"
  where=${BASH_REMATCH[1]}
  expect "status" 0 "$where +up +- +128 MiB +128 MiB +2 MiB" "$farpool" status --pool "$where"
  expect "status as JSON" 0 '"memory_bytes": 134217728, +"free_bytes": 134217728' "$farpool" status --json --pool "$where"
  printf '# both\n%s\ntcp://127.0.0.1:1\n' "$where" >"$work/pool"
  expect "status of a pool file" 1 "$where +up .*tcp://127.0.0.1:1 +unreachable" "$farpool" status --pool "file:$work/pool"
  expect_refusal "port in use" 1 "${where##*:}" "$farpool" donor --listen "$where" --memory 64M
  stop_donor TERM
}
start_donor --unix "$work/d.sock" --memory 64M --rack r7 && {
  [ "$first" = "listening on unix://$work/d.sock, lending 64 MiB in 64 MiB slabs" ] || bad "first line" "$first"
  expect "status over unix" 0 'up +r7 ' "$farpool" status --pool "unix://$work/d.sock"
  expect_refusal "second donor on a socket" 1 "$work/d.sock" "$farpool" donor --unix "$work/d.sock" --memory 64M
  expect "first donor after that" 0 'up +r7 ' "$farpool" status --pool "unix://$work/d.sock"
  # The measurement leases a slab; there is only one, so it must have been returned.
  for _ in 1 2; do
    "$farpool" doctor --pool "unix://$work/d.sock" >"$work/doctor" 2>&1
    grep -qE "^ok +unix://$work/d.sock +shared memory: 4 KiB read p50 [0-9.]+ us, read [0-9.]+ GB/s" "$work/doctor" ||
      bad "doctor measures a donor" "$(cat "$work/doctor")"
  done
  stop_donor INT
  [ -e "$work/d.sock" ] && bad "socket after the end" "still there"
}

start_donor --unix "$work/d.sock" --memory 64M --rack $'r7\e[31m\n' && {
  expect "rack that would write to the terminal" 0 'up +r7\?\[31m\? ' "$farpool" status --pool "unix://$work/d.sock"
  stop_donor HUP
  [ -e "$work/d.sock" ] && bad "socket after the end on HUP" "still there"
}
start_donor --unix "$work/d.sock" --memory 64M && {
  stop_donor QUIT
  [ -e "$work/d.sock" ] && bad "socket after the end on QUIT" "still there"
}

# --- memory that is no whole number of slabs is not lent, and not promised
start_donor --unix "@farpool-cli-test.$$" --memory 100M --quota 70M && {
  [ "$first" = "listening on unix://@farpool-cli-test.$$, lending 64 MiB in 64 MiB slabs" ] || bad "whole slabs" "$first"
  for flag in '--memory 100' '--quota 70'; do
    grep -q -e "$flag MiB is no whole number of slabs of 64 MiB: it is 64 MiB" "$work/donor.log" ||
      bad "whole slabs" "$(cat "$work/donor.log")"
  done
  expect "status over a socket without a file" 0 'up +- +64 MiB +64 MiB ' "$farpool" status --pool "unix://@farpool-cli-test.$$"
  stop_donor TERM
}

# --- flags win over variables, variables over the file
printf '[donor]\nlisten = "tcp://127.0.0.1:0"\nmemory = "64M"\nslab = "4M"\nrack = "file"\n' >"$work/donor.toml"
variables=(FARPOOL_CONFIG="$work/donor.toml" FARPOOL_MEMORY=96M FARPOOL_SLAB=8M)
start_donor --slab 16M && {
  [[ $first =~ ^listening\ on\ (tcp://127\.0\.0\.1:[0-9]+),\ lending\ 96\ MiB\ in\ 16\ MiB\ slabs$ ]] || bad "precedence" "$first"
  expect "rack from the file" 0 'up +file ' "$farpool" status --pool "${BASH_REMATCH[1]}"
  stop_donor TERM
}

[ "$failed" = 0 ] && echo "cli: all passed"
exit "$failed"
