#!/bin/bash
# What --help lists, the man pages and the bash completion name the same commands and flags, the report and its man page
# the same fields; and the man pages render without a warning. FARPOOL_BUILD names the build directory.
set -u
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
farpool=${FARPOOL_BUILD:-$repo/build}/bin/farpool
[ -x "$farpool" ] || { echo "FAILED $farpool is missing; build first"; exit 1; }
export LC_ALL=C
failed=0

# shellcheck source=/dev/null
. "$repo/packaging/completion/farpool.bash"

# same WHAT LEFT-NAME LEFT RIGHT-NAME RIGHT: two lists of words, one a line, must be the same set.
same() {
  local difference
  difference=$(diff <(sort -u <<<"$3") <(sort -u <<<"$5") | sed -n "s/^</only in $2:/p; s/^>/only in $4:/p" | tr '\n' ' ')
  [ -n "$3" ] && [ -z "$difference" ] && return
  echo "FAILED $1: ${difference:-nothing found in $2}"
  failed=1
}
# completions WORDS...: what completion offers for the last of them.
completions() {
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  _farpool
  printf '%s\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"}
}
section() {  # FILE TITLE: its lines
  awk -v title=".SH $2" '$0 == title { on = 1; next } /^\.SH/ { on = 0 } on' "$1"
}
flags() { grep -oE -- '--[a-z][a-z-]*'; }

man=$repo/packaging/man
commands=$("$farpool" --help | awk '/^Subcommands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }')
same "commands" "--help" "$commands" "farpool.1" "$(section "$man/farpool.1" COMMANDS | sed -n 's/^\.B //p')"
same "commands" "--help" "$commands" "completion" "$(completions farpool '' | grep -v '^-')"

for command in $commands; do
  # A flag stands at the start of its entry; what descriptions mention does not count.
  help=$("$farpool" "$command" --help | awk '/^Options:/ { on = 1; next } /^$/ { on = 0 } on' |
    grep -oE -- '^  (-h,)?--[a-z-]+' | flags)
  page=$man/farpool-$command.1
  [ -e "$page" ] || { echo "FAILED $command: no $page"; failed=1; continue; }
  same "$command" "--help" "$help" "man page" "$(section "$page" OPTIONS | grep -A1 '^\.TP' | sed 's/\\-/-/g' | flags)"
  same "$command" "--help" "$help" "completion" "$(completions farpool "$command" --)"
done

benches=$("$farpool" bench nosuch 2>&1 | sed 's/.*there are //; s/,//g' | tr ' ' '\n')
same "benches" "bench" "$benches" "man page" "$(section "$man/farpool-bench.1" DESCRIPTION | sed -n 's/^\.B \([a-z]*\)$/\1/p')"
same "benches" "bench" "$benches" "completion" "$(completions farpool bench '')"

# The report's fields, at the top level and within.
fields=$("$farpool" run --local 16M --report-json - -- true | sed -n 's/^  "\([a-z_0-9]*\)":.*/\1/p')
same "report" "--report-json" "$fields" "man page" \
  "$(section "$man/farpool-run.1" "REPORT FILE" | sed -n 's/^\.B //p' | sed 's/, /\n/g')"

if command -v groff >/dev/null; then
  for page in "$man"/*.1; do
    warnings=$(groff -man -ww -z "$page" 2>&1)
    [ -z "$warnings" ] || { echo "FAILED $page: $warnings"; failed=1; }
  done
fi

[ "$failed" = 0 ] && echo "cli docs: all passed"
exit "$failed"
