#!/usr/bin/env python3
"""Holds the house together: which folder may include which, what the runtime folders stay away from, and which
symbols the library that is loaded into other people's programs must not need.

    check_includes.py [--build BUILD_DIR]

Prints one line per violation and exits 1 if there is any. The table below is the one in docs/architecture.md.
"""

import argparse
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Folder: folders whose headers it may include, besides its own and include/farpool. A key FOLDER/PREFIX names the
# files of that folder whose names begin so, and has edges of its own.
EDGES = {
    "base": [],
    "wire": ["base"],
    "placement": ["base"],
    "registry": ["base"],
    "verbs": ["base", "wire"],
    "transport": ["base", "wire", "verbs"],
    "transport/donor_session": ["base", "wire", "transport", "registry"],
    "transport/session": ["base", "wire", "transport", "registry"],
    "donor": ["base", "wire", "transport", "verbs"],
    "store": ["base", "transport", "verbs"],
    "store/lease": ["base", "transport", "verbs", "registry", "placement"],
    "paging": ["base", "store"],
    "run": ["base", "store", "transport", "paging"],
    "preload": ["base", "run", "store", "transport", "paging", "verbs"],
    "supervisor": ["base", "registry", "transport", "run", "store", "paging", "donor", "blockdev"],
    "blockdev": ["base", "registry", "store"],
    "cli": ["bench", "base", "wire", "placement", "registry", "transport", "donor", "store", "run", "paging", "supervisor", "blockdev", "verbs"],
}

# Folders that are loaded into other people's programs: what allocates, locks or throws has no place there.
RUNTIME = ["base", "wire", "verbs", "transport", "store", "run", "paging", "preload"]
# Files in those folders that only daemons and tools use.
NOT_RUNTIME = ["transport/donor_session", "transport/session", "store/lease", "base/size_text", "base/read_file", "base/refuse", "base/unix_address", "base/write_file"]
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

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def longest_match(names, path):
    matches = [name for name in names if path == name or path.startswith(name + "/") or
               ("/" in name and path.startswith(name))]
    return max(matches, key=len, default=None)


def check_file(path, problems):
    relative = os.path.relpath(path, os.path.join(ROOT, "src"))
    own = relative.split(os.sep)[0]
    key = longest_match(EDGES, relative)
    if key is None:
        problems.append(f"src/{relative}: folder is not in the table of tests/check_includes.py")
        return
    runtime = own in RUNTIME and longest_match(NOT_RUNTIME, relative) is None
    with open(path, encoding="utf-8") as source:
        text = source.read()
    for match in INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        quote, header = match.groups()
        if quote == '"':
            folder = header.split("/")[0]
            if "/" not in header:
                problems.append(f"src/{relative}:{line}: \"{header}\" has no folder; write it from src/ on")
            elif folder not in ("farpool", own) and folder not in EDGES[key]:
                problems.append(f"src/{relative}:{line}: {key} must not include \"{header}\"")
            elif runtime and longest_match(NOT_RUNTIME, header) is not None:
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
    for folder, _, files in os.walk(os.path.join(ROOT, "src")):
        for name in sorted(files):
            if name.endswith((".cc", ".h", ".S", ".inc")):
                check_file(os.path.join(folder, name), problems)
    if arguments.build:
        check_symbols(arguments.build, problems)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
