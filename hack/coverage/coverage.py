#!/usr/bin/env python3
"""Which lines of the product the tests reach.

Compiles the workspace with counters (rustc.sh), runs all of its tests, children and servers included, and prints a table
of crates and of the files with most lines that no test reaches. Writes target/coverage/{lines.tsv,unreached.txt}. Ends
with 1 when tests fail or less than FLOOR per cent are reached.

Usage: coverage.py [--report] [CARGO-TEST-ARGUMENT ...]     (--report: of the counts that an earlier run left)
"""

import collections
import fnmatch
import glob
import json
import os
import re
import shutil
import subprocess
import sys

FLOOR = 95.0
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "target", "coverage")
COUNTS = os.path.join(OUT, "counts")
EXCLUDED = os.path.join(ROOT, "hack", "coverage", "excluded.txt")


def fail(message):
    sys.exit(f"coverage: {message}")


def tool(name):
    """An executable of the LLVM that rustc was built with: the counts' format is its own."""
    about = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"^LLVM version: (\d+)", about, re.MULTILINE)[1]
    return shutil.which(f"{name}-{version}") or fail(f"no {name}-{version}: hack/bootstrap.sh coverage installs it")


def environment():
    counted = {
        "RUSTC_WORKSPACE_WRAPPER": os.path.join(ROOT, "hack", "coverage", "rustc.sh"),
        # One file of counts for each executable (%m), mapped into all of its processes (%c).
        "LLVM_PROFILE_FILE": os.path.join(COUNTS, "%m%c.profraw"),
    }
    return {**os.environ, **counted}


def cargo(arguments):
    """Runs cargo and gives the executables that it made."""
    made = []
    command = ["cargo", *arguments, "--workspace", "--locked", "--message-format=json-render-diagnostics"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            message = json.loads(line) if line.startswith("{") else {}
            if message.get("executable"):
                made.append(message["executable"])
    if run.returncode:
        fail(f"cargo {arguments[0]} failed")
    return made


def run_tests(arguments):
    shutil.rmtree(COUNTS, ignore_errors=True)
    os.makedirs(COUNTS)
    made = cargo(["test", "--no-run"]) + cargo(["build", "--bins"])
    with open(os.path.join(OUT, "executables.json"), "w") as file:
        json.dump(made, file)
    command = ["cargo", "test", "--workspace", "--locked", "--no-fail-fast", *arguments]
    outcome = subprocess.run(command, cwd=ROOT, env=environment()).returncode
    # Children that are given no environment count where they stand.
    for path in glob.glob(os.path.join(ROOT, "**", "default_*.profraw"), recursive=True):
        shutil.move(path, COUNTS)
    return outcome


def reached():
    """Lines of each file of the workspace: {file: {line: times reached}}."""
    merged = os.path.join(OUT, "merged.profdata")
    counts = [os.path.join(COUNTS, name) for name in sorted(os.listdir(COUNTS))]
    listed = os.path.join(OUT, "counts.txt")
    with open(listed, "w") as file:
        file.write("\n".join(counts))
    subprocess.run(
        [tool("llvm-profdata"), "merge", "-sparse", "-failure-mode=all", "-f", listed, "-o", merged], check=True
    )
    with open(os.path.join(OUT, "executables.json")) as file:
        made = [path for path in json.load(file) if os.path.exists(path)]
    objects = [part for path in made[1:] for part in ("-object", path)]
    command = [tool("llvm-cov"), "export", "-format=lcov", "-instr-profile", merged, made[0], *objects]
    lines = collections.defaultdict(dict)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as export:
        for record in export.stdout:
            key, _, value = record.rstrip("\n").partition(":")
            if key == "SF":
                current = lines[os.path.relpath(value, ROOT)]
            elif key == "DA":
                number, times = value.split(",")[:2]
                current[int(number)] = max(current.get(int(number), 0), int(times))
    if export.returncode:
        fail("llvm-cov failed")
    return lines


def without_tests(name, lines):
    """What stands before a file's own tests, which are its end."""
    with open(os.path.join(ROOT, name)) as file:
        text = file.read()
    tests = re.search(r"^#\[cfg\(test\)\]\nmod \w+ \{", text, re.MULTILINE)
    end = text.count("\n", 0, tests.start()) + 1 if tests else len(text)
    return {line: times for line, times in lines.items() if line < end}


def excluded():
    with open(EXCLUDED) as file:
        rows = [line.split("#")[0].strip() for line in file]
    return [row for row in rows if row]


def main():
    arguments = sys.argv[1:]
    failed = 0
    if arguments[:1] != ["--report"]:
        failed = run_tests(arguments)
    patterns = excluded()
    unused = set(patterns)
    crates = collections.defaultdict(lambda: [0, 0])
    files = []
    for name, lines in sorted(reached().items()):
        if name.startswith("..") or name.startswith("target/"):
            continue
        hits = [pattern for pattern in patterns if fnmatch.fnmatch(name, pattern)]
        if hits:
            unused -= set(hits)
            continue
        lines = without_tests(name, lines)
        missed = sorted(line for line, times in lines.items() if not times)
        files.append((name, len(lines), missed))
        crate = crates[re.split(r"/(?:src|examples|benches)/", name)[0]]
        crate[0] += len(lines)
        crate[1] += len(lines) - len(missed)
    report(crates, files)
    if unused:
        fail(f"{os.path.relpath(EXCLUDED, ROOT)}: no file matches {', '.join(sorted(unused))}")
    total, hit = (sum(column) for column in zip(*crates.values()))
    percent = 100 * hit / total
    print(f"\n{percent:.2f} % of {total} lines are reached; the floor is {FLOOR} %")
    sys.exit(1 if failed or percent < FLOOR else 0)


def report(crates, files):
    with open(os.path.join(OUT, "lines.tsv"), "w") as file:
        for name, count, missed in files:
            file.write(f"{name}\t{count}\t{count - len(missed)}\n")
    with open(os.path.join(OUT, "unreached.txt"), "w") as file:
        for name, _, missed in files:
            for line in missed:
                file.write(f"{name}:{line}\n")
    print(f"{'crate':<28}{'lines':>8}{'reached':>9}{'%':>8}")
    for name, (count, hit) in sorted(crates.items()):
        print(f"{name:<28}{count:>8}{hit:>9}{100 * hit / count:>8.1f}")
    print("\nmost lines that no test reaches:")
    for name, count, missed in sorted(files, key=lambda row: -len(row[2]))[:25]:
        print(f"{len(missed):>6} of {count:<6} {name}")


if __name__ == "__main__":
    main()
