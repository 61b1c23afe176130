# shellcheck shell=bash
# For the tests of swap devices, beside tests/integration/lib.sh.

# Python takes a second to start in these guests, and waiting asks often: fields are read without it.
# swap_field FIELD: a number, of the first device that farpool swap list knows.
swap_field() {
  "$farpool" swap list --json | sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" | head -1
}

swap_mib() { echo $(($(swap_field "$1") + 0 >> 8)); }  # FIELD, of pages

# limited MIB COMMAND...: in a memory control group of its own.
limited() {
  local group=/sys/fs/cgroup/limited-$BASHPID limit=$(($1 << 20)) status
  shift
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
  mkdir "$group" && echo "$limit" >"$group/memory.max" && bash -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$group" "$@"
  status=$?
  rmdir "$group"
  return "$status"
}

# end_limited SECONDS PID: the status of `limited` in the background; what has not ended in that time is killed.
end_limited() {
  local pid=$2
  ended() { ! kill -0 "$pid" 2>/dev/null; }
  wait_for "$1" ended
  xargs -r kill -9 2>/dev/null <"/sys/fs/cgroup/limited-$pid/cgroup.procs"
  wait "$pid"
}

# The bytes that donors have lent and not got back, over all sessions; nothing where one does not answer.
lent_bytes() {
  "$farpool" status --json --pool "$1" |
    awk -F '[:,]' '/"memory_bytes"/ { lent += $2 } /"free_bytes"/ { lent -= $2 } /"reachable": false/ { silent = 1 }
      END { if (NR && !silent) printf "%.0f\n", lent }'
}

wait_pause=0.5  # Asking is slow in these guests.

two_donors() {
  start_donor --unix "$work/donor.sock" --memory 384M --slab 16M
  start_donor --listen tcp://127.0.0.1:0 --memory 384M --slab 16M
  pool=unix://$work/donor.sock,tcp://127.0.0.1:$donor_port
}

# What the kernel is doing for farpool's daemons, for a failure that must be understood from its log.
stacks() {
  local task
  for task in /proc/[0-9]*/task/[0-9]*; do
    case $(cat "$task/comm" 2>/dev/null) in
      farpool* | iou-* | swapoff) echo "$task $(awk '/^(Name|State):/ { printf "%s ", $2 }' "$task/status")"; cat "$task/stack" ;;
    esac
  done 2>/dev/null
  echo w >/proc/sysrq-trigger
}
