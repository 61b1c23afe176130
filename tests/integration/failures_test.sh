#!/bin/bash
# What goes wrong is said in one line with the right exit status, and nothing hangs.
#   failures_test.sh [NAME...]   only these
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
names=("$@")

# Nothing here takes a tenth of it on a machine that does nothing else.
bound=120
# refused NAME STATUS REGEX COMMAND...: one line on stderr that begins with farpool: and matches.
refused() {
  local name=$1 want=$2 pattern=$3 status lines
  wanted "$name" || return
  shift 3
  as_user timeout -k 1 "$bound" "$@" >"$work/out" 2>"$work/err" </dev/null
  status=$?
  lines=$(wc -l <"$work/err")
  if [ "$status" != "$want" ]; then
    bad "$name" "status $status, not $want: $(head -c 300 "$work/err" | tr '\n' ' ')"
  elif [ "$lines" != 1 ] || ! grep -qE "^farpool: .*($pattern)" "$work/err"; then
    bad "$name" "stderr is not one farpool: line about '$pattern': $(head -c 300 "$work/err" | tr '\n' '|')"
  else
    ok "$name"
  fi
}

# passes NAME STATUS COMMAND...: the program's own status, and nothing of ours on stderr.
passes() {
  local name=$1 want=$2 status
  wanted "$name" || return
  shift 2
  as_user timeout -k 1 "$bound" "$@" >"$work/out" 2>"$work/err" </dev/null
  status=$?
  if [ "$status" != "$want" ]; then
    bad "$name" "status $status, not $want: $(head -c 300 "$work/err" | tr '\n' ' ')"
  elif grep -q '^farpool:' "$work/err"; then
    bad "$name" "unasked line: $(grep -m1 '^farpool:' "$work/err")"
  else
    ok "$name"
  fi
}

start_donor --unix "$work/donor.sock" --memory 1G
near=(--local 64M --pool "unix://$work/donor.sock")

# --- exit statuses
passes status-of-the-program 7 "$farpool" run "${near[@]}" -- sh -c 'exit 7'
passes status-of-a-signal 143 "$farpool" run "${near[@]}" -- sh -c 'kill -TERM $$'
refused not-found 127 'no-such-program' "$farpool" run "${near[@]}" -- no-such-program
refused not-found-two-lines 127 'no such program' "$farpool" run "${near[@]}" -- $'no such\nprogram'
echo 'data' >"$work/plain-file"
chmod a+r "$work/plain-file"
refused not-executable 126 'plain-file' "$farpool" run "${near[@]}" -- "$work/plain-file"
refused static-program 125 'static' "$farpool" run "${near[@]}" -- "$programs/static"
refused go-program 125 'Go program' "$farpool" run "${near[@]}" -- "$programs/golike"
if [ "$(id -u)" = 0 ]; then
  cp /usr/bin/id "$work/id" && chmod 4755 "$work/id"
  refused setuid-program 125 'set-user-ID' "$farpool" run "${near[@]}" -- "$work/id"
  # Root itself, and then somebody who is neither the donor's user nor root.
  user_before=("${user[@]}")
  user=()
  cp /usr/bin/id "$work/gid" && chgrp 65534 "$work/gid" && chmod 2755 "$work/gid"
  refused setgid-program 125 'set-group-ID' "$farpool" run "${near[@]}" -- "$work/gid"
  chmod a+x "$work" && chmod a+rw "$work/donor.sock"
  user=(setpriv --reuid=65533 --regid=65533 --clear-groups)
  refused donor-of-another-user 125 'its own user and root only; start it with --allow-anyone' \
    "$farpool" run "${near[@]}" -- true
  user=("${user_before[@]}")
fi
printf '#!/no/such/interpreter\n' >"$work/script" && chmod 755 "$work/script"
refused no-interpreter 126 'script.: its interpreter is not there' "$farpool" run "${near[@]}" -- "$work/script"
refused run-in-a-run 125 'inside a run of farpool' \
  "$farpool" run "${near[@]}" -- "$farpool" run "${near[@]}" -- true
refused doctor-in-a-run 1 'inside a run of farpool' "$farpool" run "${near[@]}" -- "$farpool" doctor
passes no-place-for-files 0 env TMPDIR=/nonexistent HOME=/nonexistent "$farpool" run --local 64M -- true
refused no-place-for-the-report 125 '--report: cannot write to ./nonexistent/report' \
  "$farpool" run "${near[@]}" --report /nonexistent/report -- true
refused no-place-for-the-trace 125 '--trace: cannot write to .*Is a directory' \
  "$farpool" run "${near[@]}" --trace "$work" -- true
# shellcheck disable=SC2016,SC2086  # for the inner shell
limited=(sh -c 'ulimit $0 && exec "$@"')
refused limit-on-file-sizes 125 'ulimit -f' "${limited[@]}" '-f 100' "$farpool" run "${near[@]}" -- true
for kib in 4000000 100000000; do
  refused "no-address-space-$kib" 125 'no 16 TiB of address space for far memory: lift .ulimit -v. \(see farpool doctor\)' \
    "${limited[@]}" "-v $kib" "$farpool" run "${near[@]}" -- true
done
# In the program itself, which has its first far memory then.
refused no-address-space 125 'no 16 TiB of address space' "$farpool" run "${near[@]}" -- \
  "${limited[@]}" '-v 100000000' "$programs/pagewalker" 64
refused few-descriptors 125 'too few file descriptors: raise the hard limit \(ulimit -Hn\) to 4096' \
  "${limited[@]}" '-n 540' "$farpool" run "${near[@]}" -- true
passes doctor-few-descriptors 1 "${limited[@]}" '-n 540' "$farpool" doctor
refused limit-on-data 125 'ulimit -d' "${limited[@]}" '-d 500000' "$farpool" run "${near[@]}" -- "$programs/pagewalker" 64
# The donor of the run itself has no memory for its threads' stacks, first of all of them, then of some.
for kib in 1000 6000 10000 12000 14000 16000; do
  refused "limit-on-data-$kib" 125 'cannot start a thread.*ulimit' "${limited[@]}" "-d $kib" "$farpool" run --local 64M -- true
done
for kib in 64 128; do
  passes "small-stack-$kib" 7 "${limited[@]}" "-s $kib" "$farpool" run --local 64M -- sh -c 'exit 7'
done
refused bad-flag 125 'no-such-flag' "$farpool" run --no-such-flag -- true
refused limit-too-small 125 'local' "$farpool" run --local 64K --pool "unix://$work/donor.sock" -- true
refused limit-nonsense 125 'local' "$farpool" run --local much --pool "unix://$work/donor.sock" -- true
refused pool-nonsense 125 'carrier' "$farpool" run --local 64M --pool carrier://pigeon -- true
refused no-donor-tcp 125 '127.0.0.1:1\b' "$farpool" run --local 64M --pool tcp://127.0.0.1:1 -- true
refused no-donor-unix 125 'nobody.sock' "$farpool" run --local 64M --pool "unix://$work/nobody.sock" -- true
refused no-program 125 'program|command' "$farpool" run "${near[@]}" --
refused donor-path-taken 1 'another donor|in use' "$farpool" donor --unix "$work/donor.sock" --memory 64M

# --- what a child leaves undone in the memory that it shares with its parent
refused vfork-child-killed 74 'a vfork or posix_spawn child was killed while it used far memory of its parent' \
  "$farpool" run --local 8M --pool "unix://$work/donor.sock" -- "$programs/processes" killed-vforked 24

# --- a pool that cannot hold the program: it is stopped with one line, not with wrong bytes and not by a hang
start_donor --listen tcp://127.0.0.1:0 --memory 64M
refused pool-too-small 74 'full|room|small|memory' \
  "$farpool" run --local 32M --pool "tcp://127.0.0.1:$donor_port" -- "$programs/pagewalker" 300

# --- a donor that dies takes data with it: the program is stopped within 5 s with 74 and one line
killed_donor() {  # NAME COMMAND...: kills the donor once the program has printed its first line
  local name=$1 runner status began output line
  wanted "$name" || return
  shift
  start_donor --listen tcp://127.0.0.1:0 --memory 1G
  mkfifo "$work/stdout"
  exec_as_user "$farpool" run --local 32M --pool "tcp://127.0.0.1:$donor_port" -- "$@" >"$work/stdout" 2>"$work/err" &
  runner=$!
  exec {output}<"$work/stdout"
  rm "$work/stdout"
  read -r -t 120 -u "$output" line || { bad "$name" "the program printed nothing"; return; }
  kill -9 "$donor_pid"
  began=$(date +%s%N)
  if ! timeout 5 tail --pid="$runner" -s 0.05 -f /dev/null; then
    bad "$name" "still running 5 s after its donor died"
    kill "$runner"
    wait "$runner"
    return
  fi
  wait "$runner"
  status=$?
  if [ "$status" != 74 ]; then
    bad "$name" "status $status, not 74: $(head -c 300 "$work/err" | tr '\n' ' ')"
  elif [ "$(wc -l <"$work/err")" != 1 ] || ! grep -q '^farpool: ' "$work/err"; then
    bad "$name" "stderr is not one farpool: line: $(head -c 300 "$work/err" | tr '\n' '|')"
  elif grep -q checksum <&"$output"; then
    bad "$name" "the program went on to its end"
  else
    ok "$name ($((($(date +%s%N) - began) / 1000000)) ms)"
  fi
  exec {output}<&-
}
killed_donor donor-killed "$programs/pagewalker" 300
killed_donor donor-killed-several-processes sh -c "'$programs/pagewalker' 200 1 & '$programs/pagewalker' 200 2 & wait"

# --- a donor of shared memory lends no more when it is gone, which is said; one that was only slow goes on
leasing_donor() {  # NAME STATUS REGEX SIGNALS...: sends these, 3 s apart, while the program still leases slabs
  local name=$1 want=$2 pattern=$3 runner status signal
  wanted "$name" || return
  shift 3
  start_donor --unix "$work/leasing.sock" --memory 1G --slab 1M
  exec_as_user timeout -k 1 60 "$farpool" run --local 16M --pool "unix://$work/leasing.sock" -- \
    "$programs/pagewalker" 150 >/dev/null 2>"$work/err" &
  runner=$!
  until "$farpool" status --json --pool "unix://$work/leasing.sock" | grep -q '"free_bytes": [0-9]\{1,9\},'; do
    sleep 0.02
  done
  for signal; do
    kill -"$signal" "$donor_pid"
    [ "$signal" = STOP ] && sleep 3
  done
  wait "$runner"
  status=$?
  if [ "$status" = "$want" ] && [ "$(wc -l <"$work/err")" = $((want != 0)) ] &&
    { [ "$want" = 0 ] || grep -qE "^farpool: $pattern" "$work/err"; }; then
    ok "$name"
  else
    bad "$name" "status $status, not $want: $(head -c 300 "$work/err" | tr '\n' '|')"
  fi
  kill "$donor_pid" 2>/dev/null
}
leasing_donor near-donor-killed 74 "donor unix://.*/leasing.sock does not answer, and without it the pool is full" KILL
leasing_donor near-donor-slow 0 "" STOP CONT

# --- a donor that has memory and cannot make a slab of it says why
ulimit -Sf 1000
start_donor --unix "$work/no-files.sock" --memory 1G
ulimit -Sf "$(ulimit -Hf)"
refused donor-without-files 74 'no-files.sock: the donor cannot make a slab: ftruncate .ulimit -f.*; 0 MiB are lent' \
  "$farpool" run --local 16M --pool "unix://$work/no-files.sock" -- "$programs/pagewalker" 64

# --- nothing is left behind: every lease was returned, so the whole pool can be used again
passes all-returned 0 "$farpool" run --local 32M --pool "unix://$work/donor.sock" -- "$programs/pagewalker" 200
passes all-returned-again 0 "$farpool" run --local 32M --pool "unix://$work/donor.sock" -- "$programs/pagewalker" 200

# --- signals reach the program
for signal in TERM ALRM RTMIN+1; do
  wanted "signal-forwarded-$signal" || continue
  exec_as_user "$farpool" run "${near[@]}" -- \
    bash -c "trap 'exit 9' $signal; echo ready; for _ in {1..300}; do sleep 0.1; done" >"$work/ready" &
  runner=$!
  wait_for 60 test -s "$work/ready"
  kill -"$signal" "$runner" 2>/dev/null
  wait "$runner"
  status=$?
  if [ "$status" = 9 ]; then ok "signal-forwarded-$signal"; else bad "signal-forwarded-$signal" "status $status, not 9"; fi
  rm "$work/ready"
done

# --- and whoever is left of the run once the program has ended
if wanted signal-after-the-program; then
  exec_as_user "$farpool" run "${near[@]}" -- \
    sh -c "'$programs/pagewalker' 300 >$work/ready & until [ -s $work/ready ]; do sleep 0.1; done; echo >$work/over" &
  runner=$!
  wait_for 60 test -e "$work/over"
  sleep 0.2
  for _ in $(seq 20); do
    kill -TERM "$runner" 2>/dev/null || break
    sleep 0.1
  done
  if kill -KILL "$runner" 2>/dev/null; then
    bad signal-after-the-program "still there 2 s after SIGTERM"
  else
    ok signal-after-the-program
  fi
  wait "$runner"
fi

# --- a program that first wants memory when the run is over: it has to do with what is here
# shellcheck disable=SC2016  # for the inner shell, whose parent is farpool
passes run-over 0 "$farpool" run "${near[@]}" -- \
  sh -c '(tail --pid=$PPID -f /dev/null; "$1"/pagewalker 50 >"$2/late.out" 2>&1; echo "status $?" >"$2/late") >/dev/null &' \
  sh "$programs" "$work"
if wanted run-over; then
  wait_for 60 test -s "$work/late"
  if [ "$(cat "$work/late" 2>&1)" = "status 0" ] && cmp -s "$work/late.out" <("$programs/pagewalker" 50 2>&1); then
    ok late-program
  else
    bad late-program "$(cat "$work/late" 2>&1): $(tail -1 "$work/late.out" 2>&1)"
  fi
fi

# --- what the caller ignores: farpool sees all the same how the program ends, and the program ignores it, too
# shellcheck disable=SC2016  # for the inner shells
passes ignored-sigchld 7 bash -c 'trap "" CHLD; exec "$@"' bash "$farpool" run "${near[@]}" -- sh -c 'exit 7'
# shellcheck disable=SC2016
passes ignored-sigpipe 0 bash -c 'trap "" PIPE; exec "$@"' bash "$farpool" run "${near[@]}" -- \
  grep -q '^SigIgn:.*1...$' /proc/self/status

# --- whatever ends a run, no file of it is left
if wanted nothing-left; then
  mkdir -m 777 "$work/tmp"
  exec_as_user env TMPDIR="$work/tmp" "$farpool" run --local 64M -- sh -c "echo >$work/started; exec sleep 100" &
  runner=$!
  wait_for 60 test -e "$work/started"
  kill -KILL "$runner"
  wait "$runner" 2>/dev/null
  left=$(ls -A "$work/tmp")
  if [ -z "$left" ]; then ok nothing-left; else bad nothing-left "$left"; fi
fi

# --- without /proc nothing works, and doctor says so
if [ "$(id -u)" = 0 ] && wanted doctor-without-proc; then
  # shellcheck disable=SC2016  # for the inner shell
  unshare -m sh -c 'umount -l /proc && exec "$@"' sh "${user[@]}" "$farpool" doctor >"$work/out" 2>&1
  if [ $? = 1 ] && grep -qE '^FAIL +/proc ' "$work/out"; then
    ok doctor-without-proc
  else
    bad doctor-without-proc "$(tail -1 "$work/out")"
  fi
fi

close_with_count
