#!/usr/bin/env python3
"""Every test that docs/transparency.md names is there and is run, and every line of its tables names one."""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INTEGRATION = os.path.join(ROOT, "tests", "integration")
# What defines a case of a script: these commands, with the name behind them.
CASE = r"^[^#\n]*\b(?:compare|wanted|refused|passes|killed_donor|stress|hinted)\s+{}(?![\w-])"
CASES_BY_LOOP = re.compile(r'for (\w+) in ([\w -]+); do\s+compare "?([\w-]*)\$\1')


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def unit_tests():
    folder = os.path.join(ROOT, "tests", "unit")
    found = set()
    for name in os.listdir(folder):
        for suite, test in re.findall(r"^TEST(?:_F|_P)?\((\w+), (\w+)\)", read(folder, name), re.M):
            found.add(f"{suite}.{test}")
    return found


def is_case(script, name):
    if script == "suite_test.sh":
        return re.search(rf"^run_{re.escape(name)}\(\)", read(INTEGRATION, "suite_programs.sh"), re.M) is not None
    text = read(INTEGRATION, script)
    if re.search(CASE.format(re.escape(name)), text, re.M):
        return True
    return any(name == prefix + word for _, words, prefix in CASES_BY_LOOP.findall(text) for word in words.split())


def is_function(source, name):
    program = source.removesuffix(".cc")
    if f'"$programs/{program}"' not in read(INTEGRATION, "programs_test.sh"):
        return False
    text = read(INTEGRATION, "programs", source)
    # Defined, and used somewhere.
    return re.search(rf"^void {name}\(", text, re.M) is not None and len(re.findall(rf"\b{name}\b", text)) > 1


def exists(reference, units):
    if match := re.fullmatch(r"(\w+\.cc) (\w+)", reference):
        path = os.path.join(INTEGRATION, "programs", match[1])
        return os.path.exists(path) and is_function(match[1], match[2])
    if match := re.fullmatch(r"(\w+\.sh) ([\w-]+)", reference):
        return os.path.exists(os.path.join(INTEGRATION, match[1])) and is_case(match[1], match[2])
    return reference in units


def main():
    units = unit_tests()
    failed = rows = 0
    header = True
    for number, line in enumerate(read(ROOT, "docs", "transparency.md").splitlines(), 1):
        if not line.startswith("|"):
            header = True
            continue
        if header:  # The first two lines of a table.
            header = not line.startswith("|---")
            continue
        rows += 1
        references = re.findall(r"`([^`]+)`", line.rstrip("| ").rsplit("|", 1)[1])
        if not references:
            print(f"transparency.md:{number}: names no test")
            failed += 1
        for reference in references:
            if not exists(reference, units):
                print(f"transparency.md:{number}: no test '{reference}'")
                failed += 1
    if rows < 40:
        print(f"transparency.md: only {rows} lines were found")
        failed += 1
    print(f"{rows} lines, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
