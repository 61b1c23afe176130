# shellcheck shell=bash
# Shared by the scripts that run the programs of suite_programs.sh. Sourced after lib.sh.

# The unprivileged user reads these; the repository itself may be out of its reach.
suite=$work/suite
source=$work/source
mkdir -p "$suite" "$source"
cp -r "$repo"/tests/integration/{suite_programs.sh,workloads.sh,programs} "$suite"
cp -r "$repo/src" "$repo/include" "$source"
chmod -R a+rX "$suite" "$source"
export suite source programs apps
# shellcheck source=suite_programs.sh
. "$suite/suite_programs.sh"

suite_names() { declare -F | sed -n 's/^declare -f run_//p'; }

# prepare_suite NAME: leaves $input as the program wants it. False, and said, if that fails.
prepare_suite() {
  export input=$work/input
  rm -rf "$input"
  as_user mkdir "$input"
  declare -F "prepare_$1" >/dev/null || return 0
  as_user bash -c '. "$suite/suite_programs.sh" && "prepare_$0"' "$1" >"$work/prepare.log" 2>&1 && return
  bad "$1" "preparing it failed (packaging/suite-packages.txt?): $(tail -1 "$work/prepare.log")"
  return 1
}
