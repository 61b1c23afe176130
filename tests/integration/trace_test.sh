#!/bin/bash
# `farpool run --trace`: the flame graph names who waited for far pages, in the right shares.
# shellcheck source=tests/integration/lib.sh
. "$(dirname "$0")/lib.sh"

traced=$programs/traced
far() { as_user timeout 120 "$farpool" run --local 16M "$@"; }
# The samples of the box named $1.
samples() { sed -nE "s/.*<title>$1: ([0-9]+) samples.*/\1/p" "$work/trace.svg" | head -1; }
# verdict NAME STATUS REASON
verdict() { if [ "$2" = 0 ]; then ok "$1"; else bad "$1" "$3"; fi; }

ordinary=$("$traced")
[ "$(far --trace "$work/trace.svg" -- "$traced" 2>"$work/err")" = "$ordinary" ] && [ ! -s "$work/err" ]
verdict same-output $? "$(cat "$work/err")"
python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$work/trace.svg"
verdict well-formed $? "$(head -c 300 "$work/trace.svg")"
all=$(samples main) often=$(samples touches_often) seldom=$(samples touches_seldom)
# Three to one of 512 samples, six standard deviations either way.
[ "${all:-0}" -ge 500 ] && [ "${often:-0}" -gt $((all * 63 / 100)) ] && [ "${seldom:-0}" -gt $((all * 13 / 100)) ]
verdict "shares (main ${all:-0}, touches_often ${often:-0}, touches_seldom ${seldom:-0})" $? "of 512"

# The program has taken all descriptors it may have, and gets none of farpool's.
[ "$(far --trace "$work/full.svg" -- "$traced" full)" = "$ordinary" ] && grep -q '<title>touches_often: ' "$work/full.svg"
verdict without-descriptors $? "$(grep -o '<title>[^<]*' "$work/full.svg" | head -3 | tr '\n' ' ')"

far --trace - -- true | grep -q "<svg"
verdict to-stdout $? "no SVG"

far --trace "$work/children.svg" -- sh -c "$traced; $traced & $traced; wait" >"$work/out"
[ "$(sort -u "$work/out")" = "$ordinary" ] && [ "$(wc -l <"$work/out")" = 3 ] &&
  grep -q '<title>touches_often: ' "$work/children.svg"
verdict several-processes $? "$(cat "$work/out")"

far --trace "$work/empty.svg" -- true && [ -s "$work/empty.svg" ]
verdict nothing-far $? "$(cat "$work/empty.svg")"

close_with_count
