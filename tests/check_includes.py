#!/usr/bin/env python3
"""Holds the house together: which folder may include which, what the runtime folders stay away from, and which
symbols the library that is loaded into other people's programs must not need.

    check_includes.py [--build BUILD_DIR]

Prints one line per violation and exits 1 if there is any. The table of the folders is the one in docs/architecture.md.
"""

import argparse
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Files in the runtime's folders that only daemons and tools use.
NOT_RUNTIME = ["base/size_text", "base/read_file", "base/refuse", "base/unix_address", "base/write_file"]
# What allocates, locks or throws has no place in the folders that are loaded into other people's programs.
FORBIDDEN_HEADERS = [
    "condition_variable", "deque", "fstream", "functional", "future", "iostream", "list", "locale", "map", "memory",
    "mutex", "ostream", "regex", "set", "shared_mutex", "sstream", "stdexcept", "string", "thread",
    "unordered_map", "unordered_set", "vector",
]

PRELOAD = "libfarpool-preload.so"
# Mangled: operator new and delete, the exception runtime, the standard library, guards of static locals.
FORBIDDEN_SYMBOLS = re.compile(
    r"^(malloc|calloc|realloc|free|posix_memalign|aligned_alloc|memalign|pthread_mutex_.*|pthread_cond_.*"
    r"|_Zn[wa].*|_Zd[la].*|__cxa_.*|_ZNSt.*|_ZNKSt.*|_ZSt.*|_Unwind_.*|__gxx_personality.*)$")
# glibc's own hook for destructors at unload; it is part of every shared object's start code.
ALLOWED_SYMBOLS = ["__cxa_finalize"]

ROW = re.compile(r"^\| `(?:src/)?([\w/]+)` \| [^|]* \| ([^|]*) \| ([^|]*)\|$", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


class Folders:
    """The table: which folders there are, what each may use besides itself, which are the runtime's."""

    def __init__(self, text):
        rows = {name: (may_use.strip(), runtime.strip() == "yes") for name, may_use, runtime in ROW.findall(text)}
        self.runtime = {name for name, (_, runtime) in rows.items() if runtime}
        self.uses = {}
        self.unused = {}  # Of what the table names one by one.
        for name, (may_use, _) in rows.items():
            if may_use == "all runtime folders":
                self.uses[name] = self.runtime
            elif match := re.fullmatch(r"everything(?: but ([\w, ]+))?", may_use):
                self.uses[name] = rows.keys() - set((match.group(1) or "").split(", "))
            else:
                self.uses[name] = set(may_use.split(", ")) - {"-"}
                self.unused[name] = set(self.uses[name])

    def of(self, path):
        return longest_match(self.uses, path)


def longest_match(names, path):
    matches = [name for name in names if path.startswith(name + "/") or ("/" in name and path.startswith(name))]
    return max(matches, key=len, default=None)


def check_file(folders, path, problems):
    relative = os.path.relpath(path, os.path.join(ROOT, "src"))
    own = folders.of(relative)
    if own is None:
        problems.append(f"src/{relative}: the folder is not in the table of docs/architecture.md")
        return
    runtime = own in folders.runtime and longest_match(NOT_RUNTIME, relative) is None
    with open(path, encoding="utf-8") as source:
        text = source.read()
    for match in INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        quote, header = match.groups()
        if quote == '"':
            folder = "include/farpool" if header.startswith("farpool/") else folders.of(header)
            if "/" not in header:
                problems.append(f"src/{relative}:{line}: \"{header}\" has no folder; write it from src/ on")
            elif folder not in ("include/farpool", own) and folder not in folders.uses[own]:
                problems.append(f"src/{relative}:{line}: {own} must not include \"{header}\"")
            else:
                folders.unused.get(own, set()).discard(folder)
            if runtime and longest_match(NOT_RUNTIME, header) is not None:
                problems.append(f"src/{relative}:{line}: \"{header}\" is not for the runtime")
        elif runtime and header in FORBIDDEN_HEADERS:
            problems.append(f"src/{relative}:{line}: <{header}> has no place in the runtime")


def find_preload(build):
    for folder, _, files in os.walk(build):
        if PRELOAD in files:
            return os.path.join(folder, PRELOAD)
    return None


def check_symbols(build, problems):
    library = find_preload(build)
    if library is None:
        problems.append(f"{PRELOAD} was not found in {build}; build first")
        return
    listing = subprocess.run(["nm", "-D", "-u", library], check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        symbol = line.split()[-1].split("@")[0]
        if FORBIDDEN_SYMBOLS.match(symbol) and symbol not in ALLOWED_SYMBOLS:
            problems.append(f"{PRELOAD}: needs {symbol}")
    needed = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    for name in re.findall(r"\(NEEDED\).*\[([^\]]+)\]", needed):
        if not re.match(r"(libc|ld-linux-x86-64)\.so", name):
            problems.append(f"{PRELOAD}: is linked against {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", help="also check the built runtime in this build directory")
    arguments = parser.parse_args()
    problems = []
    with open(os.path.join(ROOT, "docs", "architecture.md"), encoding="utf-8") as table:
        folders = Folders(table.read())
    for folder, _, files in os.walk(os.path.join(ROOT, "src")):
        for name in sorted(files):
            if name.endswith((".cc", ".h", ".S", ".inc")):
                check_file(folders, os.path.join(folder, name), problems)
    for folder, unused in folders.unused.items():
        if folder != "bench":
            problems += [f"docs/architecture.md: {folder} does not use {other}" for other in sorted(unused)]
    if arguments.build:
        check_symbols(arguments.build, problems)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
