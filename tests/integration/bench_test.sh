#!/bin/bash
# `farpool bench` with tiny sizes: each bench gives JSON of the promised shape with the configs it should have, a page
# that needs nothing from elsewhere, and an error when a program prints something else under farpool. No times are
# asserted. As root also the kernel's swap and the network namespaces.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

json=$work/bench.json
page=$work/bench.html
log=$work/bench.log

# bench NAME ARGS...: runs it with --smoke.
bench() { "$farpool" bench "$@" --smoke --json "$json" --html "$page" >"$work/table" 2>"$log"; }

# shape CONFIGS CASES METRICS: every config has every metric for every case it was measured in, and the page is whole.
shape() {
  python3 - "$json" "$page" "$1" "$2" "$3" <<'PY'
import json, re, sys
path, page, configs, cases, metrics = sys.argv[1:]
bench = json.load(open(path))
assert set(bench["machine"]) == {"cpu", "cpus", "kernel", "memory_bytes"}, bench["machine"]
skipped = " ".join(bench.get("skipped", []))
found = {}
for r in bench["results"]:
    assert r["min"] <= r["median"] <= r["max"] and r["median"] > 0 and r["runs"] >= 1 and r["unit"], r
    found.setdefault((r["config"], r["case"]), set()).add(r["metric"])
for config in configs.split():
    if config + ":" in skipped:
        continue
    for case in cases.split():
        got = found.get((config, case), set())
        assert set(metrics.split()) <= got, (config, case, got, skipped)
text = open(page).read()
assert "<svg" in text and "</html>" in text and not re.search(r"(src|href)=|url\(|@import", text)
for config in configs.split():
    assert config in text, config
PY
}

# expect NAME SHAPE...: what the last bench printed.
expect() {
  local name=$1 reason
  shift
  reason=$(shape "$@" 2>&1) && ok "$name" || bad "$name" "$(tail -1 <<<"$reason"); $(tail -1 "$log")"
}

far="farpool-shm farpool-tcp farpool-tcp-2"
if bench faults; then
  expect faults "$far zram" "random-read random-write random-read-2" "p50 p99 mean rate touches moved"
  python3 -c 'import json, sys
for c in json.load(open(sys.argv[1]))["quantiles"]:
    q = [p[0] for p in c["points"]]; us = [p[1] for p in c["points"]]
    assert q == sorted(q) and us == sorted(us) and len(q) > 50, c' "$json" && ok quantiles || bad quantiles "not in order"
else
  bad faults "$(tail -1 "$log")"
fi
if bench scan; then expect scan "$far zram" "read update" "throughput moved"; else bad scan "$(tail -1 "$log")"; fi
apps_tried=kmeans,quicksort,mbw,stream
command -v redis-server >/dev/null && apps_tried+=,redis
if bench apps --only "$apps_tried" --shares 50,25; then
  cases=
  for app in ${apps_tried//,/ }; do cases+="$app@50 $app@25 "; done
  expect apps "$far zram disk" "$cases" "time moved"
  expect "apps, unlimited" unlimited "$cases" "time footprint"
else
  bad apps "$(tail -1 "$log")"
fi
if bench scale; then
  expect "scale, donors" farpool-tcp "donors@1 donors@3" "rate throughput"
  expect "scale, clients" "farpool-shm farpool-tcp" "clients@1 clients@2" "rate throughput"
else
  bad scale "$(tail -1 "$log")"
fi
if [ "$(id -u)" != 0 ]; then
  bench limits && grep -q '"limits: needs root"' "$json" && ok "limits without root" || bad "limits without root" "$(tail -1 "$log")"
elif ! command -v tc >/dev/null; then
  echo "limits is left out: no tc (iproute2)"
elif bench limits; then
  expect limits "slabs even weighted" stream@50 "time moved"
  expect "limits, compressed" "off auto on" sort@50 "time moved"
  ip netns | grep -q farpool-bench && bad "limits cleans up" "namespaces are left" || ok "limits cleans up"
else
  bad limits "$(tail -1 "$log")"
fi

# Ended by Ctrl-C in its second bench: what it had measured is there.
"$farpool" bench scan faults --smoke --json "$json" --html "$page" >"$work/table" 2>"$log" &
interrupted=$!
wait_for 120 grep -q 'bench faults run 1' "$log"
kill -INT "$interrupted"
wait "$interrupted"
status=$?
if [ "$status" = 1 ] && grep -q '^scan read' "$work/table" && grep -q 'interrupted' "$work/table" &&
  python3 - "$json" <<'PY'
import json, sys
scan, faults = json.load(open(sys.argv[1]))
assert {r["case"] for r in scan["results"]} == {"read", "update"}, scan
assert "the rest: " not in " ".join(scan.get("skipped", [])), scan
assert any(s.startswith("the rest: ") and "interrupted" in s for s in faults["skipped"]) and faults["results"], faults
PY
then
  ok interrupted
else
  bad interrupted "status $status: $(tail -1 "$log")"
fi

# What could not be measured at all leaves the file of an earlier one.
before=$(sha256sum "$json")
if "$farpool" bench scan --smoke --pool "unix://$work/nobody.sock" --json "$json" >"$work/table" 2>"$log"; then
  bad "no donor" "was not noticed"
elif [ "$(sha256sum "$json")" = "$before" ]; then
  ok "no donor"
else
  bad "no donor" "the earlier results are gone"
fi

# A program that prints something else under farpool (who started it), and one that is not there.
cmake --install "$build" --prefix "$work/fake" >"$work/install.log" || bad install "$(tail -1 "$work/install.log")"
stream=$work/fake/libexec/farpool-bench/stream
cat >"$stream" <<'SH'
#!/bin/bash
data=$(head -c 8000000 /dev/zero | tr '\0' x)
echo "${#data} $(tr '\0' '\n' <"/proc/$PPID/cmdline" | sed -n 2p)"
SH
if "$work/fake/bin/farpool" bench apps --only stream --configs farpool-shm --smoke >"$work/table" 2>"$log"; then
  bad "wrong result" "was not noticed"
elif grep -q 'stream@50 farpool-shm: the program printed something else' "$log"; then
  ok "wrong result"
else
  bad "wrong result" "$(tail -1 "$log")"
fi
printf '#!/bin/sh\nexit 127\n' >"$stream"
if "$work/fake/bin/farpool" bench apps --only stream --smoke --json "$json" >"$work/table" 2>"$log" &&
  grep -q 'not measured: stream: not installed' "$work/table" && grep -q '"stream: not installed"' "$json"; then
  ok "not installed"
else
  bad "not installed" "$(tail -1 "$log")"
fi
close_with_count
