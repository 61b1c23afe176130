#!/bin/bash
# Runs real programs ordinarily and under `farpool run` with little local memory over one shared-memory and one
# TCP donor, and compares output and exit status. The report must say that pages really moved and that the
# limit held; one test asks the kernel instead of the report.
#   programs_test.sh [--short|--long] [NAME...]
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=workloads.sh
. "$(dirname "$0")/workloads.sh"
# shellcheck source=compare.sh
. "$(dirname "$0")/compare.sh"

# mib N: N in the long form, a quarter of it in the short one, for limits and sizes alike: as much of a program is far, and
# a page that comes and goes costs ten times as much on some machines as on others.
mib() { echo $(($1 / (long ? 1 : 4))); }

# compare NAME LIMIT COMMAND...: the same command both ways. Files it writes go to $out, one per way.
compare() {
  local name=$1 limit=$2 plain far reason
  shift 2
  wanted "$name" || return 0
  as_user env out="$work/plain" "$@" >"$work/plain.out" 2>"$work/plain.err" </dev/null
  plain=$?
  under "$limit" "$work/report.json" env out="$work/far" "$@" >"$work/far.out" 2>"$work/far.err" </dev/null
  far=$?
  if [ "$plain" != "$far" ]; then
    bad "$name" "status $far, ordinarily $plain: $(head -c 300 "$work/far.err" | tr '\n' ' ')"
  elif ! cmp -s "$work/plain.out" "$work/far.out"; then
    bad "$name" "output differs: $(cmp "$work/plain.out" "$work/far.out" 2>&1)"
  elif ! cmp -s "$work/plain.err" "$work/far.err"; then
    bad "$name" "stderr differs: $(diff "$work/plain.err" "$work/far.err" | head -c 300 | tr '\n' '|')"
  elif [ -e "$work/plain" ] && ! cmp -s "$work/plain" "$work/far"; then
    bad "$name" "the file it wrote differs: $(cmp "$work/plain" "$work/far" 2>&1)"
  elif ! reason=$(limit_held "$work/report.json" 2>&1); then
    bad "$name" "$reason"
  elif [ "$plain" != 0 ] && [ "${expect_failure:-0}" = 0 ]; then
    bad "$name" "fails ordinarily too: $(tail -1 "$work/plain.err")"
  else
    ok "$name"
  fi
  rm -f "$work"/plain* "$work"/far* "$work/report.json"
}

# --- the programs of this folder
compare pagewalker "$(mib 64)M" "$programs/pagewalker" "$(mib 300)"
compare fork "$(mib 32)M" "$programs/forker" fork "$(mib 96)"
compare _Fork "$(mib 32)M" "$programs/forker" _Fork "$(mib 96)"
compare syscall-fork "$(mib 32)M" "$programs/forker" syscall-fork "$(mib 96)"
compare clone "$(mib 32)M" "$programs/forker" clone "$(mib 96)"
compare clone3 "$(mib 32)M" "$programs/forker" clone3 "$(mib 96)"
compare clone-stack "$(mib 32)M" "$programs/forker" clone-stack "$(mib 96)"
compare fork-threads "$(mib 32)M" "$programs/forker" threads "$(mib 96)"
compare threads "$(mib 64)M" "$programs/threads" "$(mib 160)"
compare cancelled "$(mib 32)M" "$programs/cancelled" "$(mib 64)"
for kind in daemon killed commands spawns sandbox code limits unseen output exit; do
  compare "processes-$kind" "$(mib 32)M" "$programs/processes" "$kind" "$(mib 48)"
done
compare processes-credentials 8M "$programs/processes" credentials 24
if [ "$(id -u)" = 0 ]; then
  not_stepped_down compare processes-credentials-root 8M "$programs/processes" credentials 24
fi
# A program that clears its environment keeps the runtime all the same.
compare clean-environment "$(mib 32)M" env -i "$programs/pagewalker" "$(mib 64)"
# shellcheck disable=SC2016  # $0 is for the inner shell
compare environment 32M sh -c 'env | grep -vE "^(_|out)=" && LD_PRELOAD=libm.so.6 "$0" 64
  for mine in libm.so.6 ""; do env -i A=1 LD_PRELOAD=$mine B=2 env; done; ldd "$0" | sed "s/ (.*//"' "$programs/pagewalker"
if as_user unshare -r true 2>/dev/null; then  # Not for every user, nor inside a chroot.
  compare namespaces "$(mib 32)M" unshare -r -n -m -p -f "$programs/pagewalker" "$(mib 64)"
fi
if as_user unshare -r true 2>/dev/null && wanted chroot; then
  mkdir -p "$work/root/bin" "$work/root/lib64" "$work/root/lib/x86_64-linux-gnu"
  cp /bin/dash "$work/root/bin/sh" && cp /lib64/ld-linux-x86-64.so.2 "$work/root/lib64" &&
    cp /lib/x86_64-linux-gnu/libc.so.6 "$work/root/lib/x86_64-linux-gnu"
  # shellcheck disable=SC2016  # $0, $1 and $(...) are for the inner shells
  compare chroot 32M sh -c '"$0" 64; exec unshare -r /usr/sbin/chroot "$1" /bin/sh -c "echo in: \$(/bin/sh -c \"echo it\")"' \
    "$programs/pagewalker" "$work/root"
fi
compare static-child 32M sh -c '"$0/static"; "$0/static" && exec "$0/pagewalker" 64' "$programs"
compare legacy-layout 32M setarch -L "$programs/pagewalker" 64
compare loader 32M /lib64/ld-linux-x86-64.so.2 "$programs/pagewalker" 64
compare golike 32M sh -c '"$0/golike" "$0/pagewalker" 64' "$programs"
# A child of 32 bits runs as ever, near.
if wanted i386-child; then
  as --32 -o "$work/i386.o" <<'ASM' && ld -m elf_i386 -o "$work/i386" "$work/i386.o"
        .globl _start
_start: mov $192, %eax                  # mmap2 of 1 MiB
        xor %ebx, %ebx
        mov $0x100000, %ecx
        mov $3, %edx
        mov $0x22, %esi
        mov $-1, %edi
        xor %ebp, %ebp
        int $0x80
        movl $text, 0x80000(%eax)
        mov 0x80000(%eax), %ecx
        mov $4, %eax                    # write
        mov $1, %ebx
        mov $13, %edx
        int $0x80
        mov $1, %eax                    # exit
        mov $7, %ebx
        int $0x80
text:   .ascii "32 bits: ran\n"
ASM
  if "$work/i386" >/dev/null 2>&1; [ $? = 7 ]; then
    # shellcheck disable=SC2016
    compare i386-child 32M sh -c '"$0"; echo "status $?"; "$0"; exec "$1" 64' "$work/i386" "$programs/pagewalker"
  else
    echo "skipped i386-child: this kernel runs no programs of 32 bits"
  fi
fi
# A set-user-ID child runs, but without what it is set to: the filter of system calls needs no_new_privs.
if wanted setuid-child && [ "$(id -u)" = 0 ]; then
  cp /usr/bin/id "$work/id" && chmod 4755 "$work/id"
  # shellcheck disable=SC2016
  ids=$(as_user sh -c '"$0" -u' "$work/id") far_ids=$(under 32M "$work/report.json" sh -c '"$0" -u' "$work/id")
  if [ "$far_ids" != 65534 ]; then
    bad setuid-child "user $far_ids, not 65534"
  else
    ok "setuid-child (user $far_ids, ordinarily $ids)"
  fi
fi
# What killed children held is there for others: a pool that could not hold it eight times.
if wanted processes-killed-small-pool; then
  start_donor --unix "$work/small.sock" --memory 256M --slab 2M
  pool=unix://$work/small.sock compare processes-killed-small-pool 32M "$programs/processes" killed
fi
if wanted processes-killed-unseen; then
  start_donor --unix "$work/unseen.sock" --memory 256M --slab 16M
  pool=unix://$work/unseen.sock compare processes-killed-unseen 32M "$programs/processes" killed-unseen
fi
# What is on its way to a donor when it is given up must not arrive over what is written then.
for kind in written-late killed-late; do
  wanted "processes-$kind" || continue
  start_donor --listen tcp://127.0.0.1:0 --memory 60M --slab 2M
  coproc proxy { as_user python3 "$(dirname "$0")/holding_proxy.py" "$donor_port" "$work/hold"; }
  read -r port <&"${proxy[0]}"
  pool=tcp://127.0.0.1:$port compare "processes-$kind" 8M "$programs/processes" "$kind" 24 "$work/hold"
  kill "$proxy_PID"
  wait "$proxy_PID" 2>/dev/null
  rm -f "$work"/hold*
done
# Hints. The same output with and without farpool; by the report, what was hinted at did not fault, or went first.
# hinted hints-KIND CONDITION: compares, then asks the report R.
hinted() {
  local name=$1 kind=${1#hints-} report=$work/report.json
  wanted "$name" || return 0
  "$programs/hints" "$kind" 96 >"$work/plain.out" 2>&1
  if ! under 64M "$report" "$programs/hints" "$kind" 96 >"$work/far.out" 2>&1 || ! cmp -s "$work/plain.out" "$work/far.out"; then
    bad "$name" "output differs: $(diff "$work/plain.out" "$work/far.out" | head -c 300 | tr '\n' '|')"
  elif ! python3 -c "import json, sys; R = json.load(open(sys.argv[1])); sys.exit(0 if $2 else 1)" "$report"; then
    bad "$name" "$(tr -d ' \n' <"$report" | grep -oE '"(hinted_in|hinted_out|pages_in|fetch":{"count)":[0-9]+' | tr '\n' ' ')are not as in $2"
  else
    ok "$name"
  fi
}
hinted hints-plain 'R["hinted_in"] == R["hinted_out"] == 0 and R["fetch"]["count"] > 1000'
hinted hints-prefetch 'R["hinted_in"] > 3500 and R["fetch"]["count"] < 500'
hinted hints-evict 'R["hinted_out"] >= 1000'
hinted hints-evict-first 'R["fetch"]["count"] < 1500'
hinted hints-random 'R["pages_in"] == R["fetch"]["count"]'
hinted hints-sequential 'R["fetch"]["count"] * 40 < R["pages_in"]'
# The writer sees pages off beside the faults of a program that writes all the time, by its report.
if wanted evicted-beside; then
  if ! under 64M "$work/report.json" "$programs/pagewalker" 300 >"$work/far.out" 2>&1; then
    bad evicted-beside "$(head -c 300 "$work/far.out")"
  elif ! python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["evicted_beside"] < 1000)' "$work/report.json"; then
    bad evicted-beside "$(grep evicted_beside "$work/report.json")"
  else
    ok evicted-beside
  fi
fi
# libc's own calls reach the guard without a trap: in the first process of a run, in the second, which puts the code
# that it patched where others find it, and in those.
patched_calls() {  # NAME COMMAND...
  local name=$1 prepared trapped
  shift
  under 8M "$work/report.json" "$@" >"$work/far.out" 2>&1
  prepared=$(json_field "$work/report.json" syscalls_prepared)
  trapped=$(json_field "$work/report.json" syscalls_trapped)
  if [ "$prepared" -gt 500 ] && [ "$trapped" -lt 10 ]; then
    ok "$name ($trapped of $prepared trapped)"
  else
    bad "$name" "$trapped of $prepared calls with far memory were trapped"
  fi
}
if wanted patched-calls; then patched_calls patched-calls "$programs/syscalls" 16; fi
# shellcheck disable=SC2016
if wanted patched-calls-child; then patched_calls patched-calls-child sh -c '"$0" 16; exit $?' "$programs/syscalls"; fi
# shellcheck disable=SC2016
if wanted patched-calls-shared; then
  patched_calls patched-calls-shared sh -c '/bin/true; "$0" 16; exit $?' "$programs/syscalls"
fi
# The third process of a run has the code of the second, and none of it copied. Where a debugger has written breakpoints
# into libc before it could be patched, and with --trace, which looks for the file of what runs, libc's own is patched.
if wanted shared-code; then
  cat >"$work/code.py" <<'PY'
import ctypes, os, re, subprocess, sys
libc = ctypes.CDLL(None)
libc.ptrace.restype = ctypes.c_long
TRACEME, PEEK, POKE, CONT, SYSCALL = 0, 1, 4, 7, 24
def ptrace(request, pid, at=None, data=None): return libc.ptrace(request, pid, ctypes.c_void_p(at), ctypes.c_void_p(data))
subprocess.run(["/bin/true"])
child = os.fork()
if child == 0:
    if "debugger" in sys.argv: ptrace(TRACEME, 0)
    os.execv("/bin/cat", ["cat", "/proc/self/smaps"])
code = None
while os.WIFSTOPPED(os.waitpid(child, 0)[1]):
    if not code:
        code = re.search(r"^(\w+)-\S+ r-xp .*libc\.so", open(f"/proc/{child}/maps").read(), re.M)
        if code:  # As a breakpoint is written, but what was there.
            at = int(code[1], 16)
            ptrace(POKE, child, at, ptrace(PEEK, child, at))
    ptrace(CONT if code else SYSCALL, child)
PY
  # libc_code FLAG...: whose libc's code is, and how much of it was copied, in the third process of a run.
  libc_code() {
    as_user "$farpool" run --local 32M --pool "$pool" "$@" 2>&1 | python3 -c 'import re, sys
for part in re.split("\n(?=[0-9a-f]+-[0-9a-f]+ )", sys.stdin.read()):
    found = re.search(r" r-xp 0\S+ \S+ \d+ +(\S*libc\.so)\S*.*?Rss: +(\d+).*?Anonymous: +(\d+)", part, re.S)
    if found and int(found[2]) > 100: print(found[1].split("/")[-1], int(found[3]) > 0)'
  }
  plain=$(libc_code -- /usr/bin/python3 "$work/code.py")
  debugged=$(libc_code -- /usr/bin/python3 "$work/code.py" debugger)
  traced=$(libc_code --trace "$work/trace.svg" -- /usr/bin/python3 "$work/code.py")
  if [ "$plain, $debugged, $traced" = "memfd:libc.so False, libc.so True, libc.so True" ]; then
    ok shared-code
  else
    bad shared-code "$plain, $debugged, $traced"
  fi
fi

# What was patched in libc begins where an instruction does: nothing was taken for another instruction.
if wanted patched-sites; then
  cat >"$work/sites.py" <<'PY'
import struct, subprocess, sys
maps = [line.split() for line in open("/proc/self/maps")]
path = next(fields[5] for fields in maps if fields[5:] and fields[5].endswith("/libc.so.6"))  # Its data's, at least.
elf = open(path, "rb").read()
table, entry, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
headers = [struct.unpack_from("<IIQQQQQ", elf, table + i * entry) for i in range(count)]
offset, address, size = next((h[2], h[3], h[5]) for h in headers if h[0] == 1 and h[1] & 1)  # PT_LOAD, PF_X
first = min(int(fields[0].split("-")[0], 16) for fields in maps if fields[5:] and fields[5] == path)
memory = open("/proc/self/mem", "rb")
memory.seek(first + address)
code, original = memory.read(size), elf[offset : offset + size]
lines = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
starts = {int(line.split(":")[0], 16) for line in lines.splitlines() if line.startswith(" ")}
patched, at = [], 0
while at < size:
    if code[at : at + 5] == original[at : at + 5]: at += 1; continue
    while code[at] == original[at] and code[at] != 0xE9: at += 1
    patched.append(address + at)
    at += 5
print(len(patched) > 100, [hex(site) for site in patched if site not in starts])
PY
  sites=$(as_user "$farpool" run --local 32M --pool "$pool" -- /usr/bin/python3 "$work/sites.py" 2>&1)
  if [ "$sites" = "True []" ]; then ok patched-sites; else bad patched-sites "$sites"; fi
fi

# Reads that are under way while all else leaves. They are of a file system of the program's own, so it is root's.
if wanted held; then
  if [ "$(id -u)" = 0 ] && [ -w /dev/fuse ] && unshare -m true 2>/dev/null; then
    not_stepped_down compare held 16M unshare -m "$programs/held" 48
  else
    echo "skipped held: only root may mount, and only where there is FUSE"
  fi
fi

# Which way pages leave: it changes once a device is mapped.
if wanted devices; then
  under 4M "$work/report.json" "$programs/memory" 12 >"$work/far.out" 2>&1
  with=$(json_field "$work/report.json" evict)
  under 4M "$work/report.json" "$programs/structures" 12 >"$work/far.out" 2>&1
  without=$(json_field "$work/report.json" evict)
  # A driver may also be asked before anything of it is mapped; here the kernel refuses, which makes no difference.
  under 8M "$work/report.json" /usr/bin/python3 -c 'import fcntl
try: fcntl.ioctl(0, ord("V") << 8)
except OSError: pass' </dev/null >"$work/far.out" 2>&1
  asked=$(json_field "$work/report.json" evict)
  if [ "$with $asked $without" = "move move mremap" ]; then
    ok devices
  else
    bad devices "evicted by ${with:-nothing} beside a device, ${asked:-nothing} once asked, ${without:-nothing} without one"
  fi
fi

# --- in a memory cgroup too small for the program: it runs because its pages are elsewhere
# memory_group BYTES: makes one without swap, in $group.
memory_group() {
  local root=/sys/fs/cgroup
  if [ -d "$root/memory" ]; then
    group=$root/memory/farpool-test.$$
    mkdir "$group" && echo "$1" >"$group/memory.limit_in_bytes" && echo 0 >"$group/memory.swappiness"
  elif grep -qw memory "$root/cgroup.subtree_control"; then
    group=$root/farpool-test.$$
    mkdir "$group" && echo "$1" >"$group/memory.max" && echo 0 >"$group/memory.swap.max"
  else
    return 1
  fi 2>/dev/null
}
in_group() { (echo "$BASHPID" >"$group/cgroup.procs" && "$@"); }
if wanted memory-cgroup; then
  if memory_group $((64 << 20)); then
    "$programs/pagewalker" 150 >"$work/plain.out"
    in_group as_user "$programs/pagewalker" 150 >/dev/null 2>&1
    plain=$?
    in_group under 16M "$work/report.json" "$programs/pagewalker" 150 >"$work/far.out" 2>"$work/far.err"
    far=$?
    if [ "$plain" != 137 ]; then
      bad memory-cgroup "the program fits into the group: status $plain"
    elif [ "$far" != 0 ] || ! cmp -s "$work/plain.out" "$work/far.out"; then
      bad memory-cgroup "status $far: $(head -c 300 "$work/far.err" | tr '\n' ' ')"
    else
      ok memory-cgroup
    fi
    rmdir "$group"
  else
    echo "skipped memory-cgroup: no memory cgroup can be made here"
  fi
  rm -f "$work"/plain.* "$work"/far.* "$work/report.json"
fi
# --near: no far memory for the programs named, wherever in the run; the others have theirs.
if wanted near; then
  FARPOOL_NEAR='page*' under 32M "$work/report.json" "$programs/pagewalker" 64 >"$work/far.out" 2>&1
  near_far=$(json_field "$work/report.json" peak_far_bytes)
  FARPOOL_NEAR='nothing,p?' under 32M "$work/report.json" "$programs/pagewalker" 64 >"$work/far.out" 2>&1
  far=$(json_field "$work/report.json" peak_far_bytes)
  if [ "$near_far" = 0 ] && [ "$far" -ge $((64 << 20)) ]; then
    ok near
  else
    bad near "$near_far bytes far with a pattern that matches, $far with one that does not"
  fi
fi

# --- a core file holds what is resident of the program, not the runtime's own sparse gigabytes
if wanted core && [ "$(cat /proc/sys/kernel/core_pattern)" = core ]; then
  as_user mkdir "$work/core"
  (cd "$work/core" && ulimit -c unlimited && under 32M "$work/report.json" sh -c '"$0" abort 64 & wait $!' "$programs/processes") 2>"$work/far.err"
  status=$?
  read -r size length < <(stat -c '%b %s' "$work"/core/core* 2>/dev/null)
  grown=$(grep -aoE '(grown|unmarked|secret) page [0-9]+ of a heap' "$work"/core/core* | sort -u)
  if [ "$status" = 134 ] && [ "${size:-0}" -gt 0 ] && [ $((size / 2048)) -lt 256 ] && [ "$length" -lt 1000000000 ] &&
    [ "$(grep -cE '^(grown|unmarked)' <<<"$grown")" = 258 ] && ! grep -q secret <<<"$grown"; then
    ok "core ($((size / 2048)) MiB)"
  else
    bad core "status $status, ${size:-no} blocks of ${length:-no} bytes, $(cut -d' ' -f1 <<<"$grown" | uniq -c | tr -s '\n ' ' ') pages: $(head -c 300 "$work/far.err")"
  fi
  rm -rf "$work/core"
fi

compare early 32M "$programs/early" 40
compare mmaps "$(mib 32)M" "$programs/mmaps" 1 1500 "$(mib 160)"
compare mmaps-2 "$(mib 32)M" "$programs/mmaps" 2 1500 "$(mib 160)"
compare syscalls "$(mib 32)M" "$programs/syscalls" "$(mib 96)"
compare structures "$(mib 16)M" "$programs/structures" "$(mib 48)"
compare badpointers "$(mib 16)M" "$programs/badpointers" "$(mib 40)"
compare futexes "$(mib 16)M" "$programs/futexes" "$(mib 40)"
compare memory "$(mib 16)M" "$programs/memory" "$(mib 48)"
FARPOOL_TEST_FILL=copy compare memory-copy "$(mib 16)M" "$programs/memory" "$(mib 48)"
compare sleepers 32M "$programs/sleepers" 64 1500
compare messages "$(mib 16)M" "$programs/messages" "$(mib 40)"
FARPOOL_TEST_FILL=move compare messages-move "$(mib 16)M" "$programs/messages" "$(mib 40)"
FARPOOL_TEST_FILL=copy compare messages-copy "$(mib 16)M" "$programs/messages" "$(mib 40)"
compare signals "$(mib 32)M" "$programs/signals" "$(mib 96)"
compare interrupted "$(mib 16)M" "$programs/interrupted" "$(mib 64)" $((long ? 8000 : 2000))
compare stacks "$(mib 32)M" "$programs/stacks" "$(mib 64)"
# The second process of a run (env is the first) patches libc's code in place, and the third has what that shares.
compare unwinds 16M "$programs/unwinds" 32
# shellcheck disable=SC2016  # $0 is for the inner shell
compare unwinds-shared 16M sh -c '"$0" 32; exit $?' "$programs/unwinds"
compare handlers "$(mib 32)M" "$programs/handlers" "$(mib 64)"
compare starts "$(mib 32)M" "$programs/starts" "$(mib 48)"

# --- as where a device may pin pages: they go out one by one
FARPOOL_TEST_FILL=move compare fork-move "$(mib 32)M" "$programs/forker" fork "$(mib 96)"
FARPOOL_TEST_FILL=move compare mmaps-move "$(mib 32)M" "$programs/mmaps" 5 1500 "$(mib 160)"

# --- as on a kernel without UFFDIO_MOVE (before 6.8): pages are copied both ways
FARPOOL_TEST_FILL=copy compare fork-copy "$(mib 32)M" "$programs/forker" fork "$(mib 96)"
FARPOOL_TEST_FILL=copy compare threads-copy "$(mib 32)M" "$programs/threads" "$(mib 96)"
FARPOOL_TEST_FILL=copy compare mmaps-copy "$(mib 32)M" "$programs/mmaps" 3 1500 "$(mib 160)"

# --- pages packed on their way to the TCP donor; children share packed pages
both_pools=$pool
compress=on pool=$tcp_pool
compare fork-compress "$(mib 32)M" "$programs/forker" fork "$(mib 96)"
compare threads-compress "$(mib 32)M" "$programs/threads" "$(mib 96)"
compare mmaps-compress "$(mib 32)M" "$programs/mmaps" 6 1500 "$(mib 160)"
compare structures-compress "$(mib 16)M" "$programs/structures" "$(mib 48)"
# What it saves: text.
if wanted compressed-bytes; then
  seq -f 'line %.0f' 1000000 | as_user tee "$work/lines" | sort >"$work/plain.out"
  under 16M "$work/report.json" sort -S 256M --parallel=1 "$work/lines" >"$work/far.out" 2>"$work/far.err"
  pages=$(json_field "$work/report.json" packed_out_pages) bytes=$(json_field "$work/report.json" packed_out_bytes)
  if ! cmp -s "$work/plain.out" "$work/far.out"; then
    bad compressed-bytes "output differs: $(head -c 300 "$work/far.err")"
  elif [ "$pages" -gt 1000 ] && [ "$bytes" -lt $((pages * 4096 / 2)) ]; then
    ok "compressed-bytes ($pages pages in the room of $((bytes / 4096)))"
  else
    bad compressed-bytes "$pages pages were packed into $bytes bytes"
  fi
  rm -f "$work/lines" "$work"/plain.* "$work"/far.* "$work/report.json"
fi
compress=auto pool=$both_pools

# --- events to a thread of the runtime's own instead of signals: needs root
if [ "$(id -u)" = 0 ]; then
  unprivileged=("${user[@]}")
  user=()
  handoff=monitor
  compare fork-monitor "$(mib 32)M" "$programs/forker" fork "$(mib 96)"
  compare threads-monitor "$(mib 32)M" "$programs/threads" "$(mib 96)"
  compare mmaps-monitor "$(mib 32)M" "$programs/mmaps" 4 1500 "$(mib 160)"
  compare syscalls-monitor "$(mib 32)M" "$programs/syscalls" "$(mib 48)"
  handoff=auto
  user=("${unprivileged[@]}")
fi

# --- programs of the system
# Sorting wants text and 32 bytes a line: 2.5 times the limit in the short form, 27 times in the long one.
lines=$((long ? 1024 : 24))
if wanted sort; then
  write_lines "$lines" "$work/lines"
  sort_buffer=$((long ? 3 : 1))G
  compare sort "$(mib 64)M" sort -S "$sort_buffer" --parallel=2 "$work/lines"
  rm -f "$work/lines"
fi

write_dict_py $((long ? 1500000 : 250000)) "$work/dict.py"
compare python3 "$(mib 64)M" env PYTHONHASHSEED=1 /usr/bin/python3 "$work/dict.py"

write_joins_sql $((long ? 1200000 : 300000)) "$work/joins.sql"
compare sqlite3 "$(mib 64)M" sqlite3 -init "$work/joins.sql" :memory: .exit

if wanted gcc; then
  write_large_c "$work/large.c"
  # shellcheck disable=SC2016  # $out is for the inner shell
  compare gcc 48M sh -c 'cd "$(dirname "$out")" && gcc -O2 -fno-asynchronous-unwind-tables -c large.c -o "$out"'
fi

# --- the kernel's own count: what is resident of the arena and of staging while the program runs
if wanted kernel-count; then
  limit=$((64 * 1024 * 1024))
  under 64M "$work/report.json" "$programs/pagewalker" 200 >"$work/far.out" 2>"$work/far.err" &
  runner=$!
  sampled=$(python3 - "$runner" <<'PY'
import os, signal, sys, time
RANGES = ((0x300000000000, 0x400000000000), (0x504000000000, 0x508000000000))  # The far arena, staging.

def children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in open(f"/proc/{pid}/task/{task}/children").read().split():
                found += [int(child)] + children(int(child))
    except OSError:
        pass
    return found

def resident(pid):
    # Stopped while we look: smaps is no snapshot, and pages that move meanwhile would be counted twice.
    # Only the program itself: what waits for a stopped child may stop too.
    total, inside = 0, False
    try:
        if not any(int(line.split("-")[0], 16) >> 44 == 3 for line in open(f"/proc/{pid}/maps")):
            return 0
        os.kill(pid, signal.SIGSTOP)
        while open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "TtZX":
            time.sleep(0.0002)
        for line in open(f"/proc/{pid}/smaps"):
            first = line.split(None, 1)[0]
            if "-" in first and not first.endswith(":"):
                start = int(first.split("-")[0], 16)
                inside = any(low <= start < high for low, high in RANGES)
            elif inside and first == "Rss:":
                total += int(line.split()[1]) * 1024
        os.kill(pid, signal.SIGCONT)
    except OSError:
        pass
    return total

runner, peak, samples = int(sys.argv[1]), 0, 0
while True:
    try:
        if open(f"/proc/{runner}/stat").read().rsplit(")", 1)[1].split()[0] == "Z":
            break
    except OSError:
        break
    now = sum(resident(pid) for pid in children(runner))
    samples += now > 0
    peak = max(peak, now)
    time.sleep(0.05)
print(peak, samples)
PY
)
  wait "$runner"
  status=$?
  read -r peak samples <<<"$sampled"
  if [ "$status" != 0 ]; then
    bad kernel-count "status $status: $(head -c 300 "$work/far.err" | tr '\n' ' ')"
  elif [ "$samples" -lt 10 ]; then
    bad kernel-count "only $samples samples saw far memory"
  elif [ "$peak" -gt $((limit * 105 / 100)) ]; then
    bad kernel-count "the kernel counted $peak resident bytes, the limit is $limit"
  else
    ok "kernel-count (peak $((peak / 1024 / 1024)) MiB of 64, $samples samples)"
  fi
  rm -f "$work/report.json" "$work"/far.*
fi

if [ "$long" = 1 ]; then
  for seed in $(seq 10 25); do compare "mmaps-$seed" 32M "$programs/mmaps" "$seed" 4000; done
  compare pagewalker-1500 64M "$programs/pagewalker" 1500
  compare threads-800 64M "$programs/threads" 800
fi

close_with_count
