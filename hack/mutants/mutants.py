#!/usr/bin/env python3
"""Which small faults in what decides the tests find.

cargo-mutants puts one fault at a time into a copy of the tree (target/mutants/tree) and runs the part's quick tests there.
Of each part every n-th fault is tried, so that they are about SAMPLE: the same ones for the same sources. A fault that
lets tests run far too long counts as found, one that does not compile does not count. Prints a table and the faults that
no test finds, writes target/bench/mutants.json, and ends with 1 where tests find less than FLOOR per cent of a part's.

.cargo/mutants.toml has the faults that are left out, and why.

Usage: mutants.py [--all] [--sample N] [PART ...]     (--all: every fault, some hours)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

FLOOR = 70.0
SAMPLE = 80
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "target", "mutants")
TREE = os.path.join(OUT, "tree")
REPORT = os.path.join(ROOT, "target", "bench", "mutants.json")

# Of large crates with little to run.
QUICKLY_BUILT = {"CARGO_PROFILE_DEV_OPT_LEVEL": "0"}
# What is mutated, and the tests that are quick enough to be run for each fault.
PARTS = {
    "placement": {
        "files": ["operator/placement/src/**"],
        "tests": [
            "--lib",
            "--test=command",
            "--test=core",
            "--test=oracle",
            "--test=scenarios",
            "--test=simulation",
        ],
        # Takes longer than all others together, and asks what the smaller instances are asked.
        "skipped": ["larger_instances"],
        # What the compiler would take to make it fast is more than the tests take where it is not.
        "settings": ["profile.dev.package.placement.opt-level=1"],
    },
    "gguf": {"files": ["agent/gguf/src/**"], "tests": ["--lib"]},
    "agent-step": {
        "files": ["agent/src/shard/step.rs"],
        "tests": ["--lib"],
        "only": "shard::step::",
        "environment": QUICKLY_BUILT,
    },
    "worker-step": {
        "files": ["agent/worker/src/step.rs"],
        "tests": ["--lib"],
        "only": "step::",
        "environment": QUICKLY_BUILT,
    },
}
ENVIRONMENT = {
    "CARGO_TARGET_DIR": os.path.join(OUT, "build"),
    # No fault is looked for in a debugger.
    "CARGO_PROFILE_DEV_DEBUG": "none",
    # Most faults that random problems find are found by few; and that one is found is enough, the least case is not sought.
    "ORACLE_CASES": "60",
    "PROPTEST_MAX_SHRINK_ITERS": "0",
    # Random tests without a seed of their own, too, find the same today and tomorrow.
    "PROPTEST_RNG_SEED": "1",
}


def fail(message):
    sys.exit(f"mutants: {message}")


def copy_tree():
    """Brings the copy up to date. What has not changed keeps its time, so that cargo builds only what has."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {name for name in names if name and os.path.lexists(os.path.join(ROOT, name))}
    for folder, _, files in os.walk(TREE):
        for file in files:
            path = os.path.join(folder, file)
            if os.path.relpath(path, TREE) not in wanted:
                os.remove(path)
    for name in wanted:
        source, copy = os.path.join(ROOT, name), os.path.join(TREE, name)
        if not os.path.exists(copy) or content(source) != content(copy):
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(source, copy)
            shutil.copymode(source, copy)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def cargo_mutants(part, *arguments):
    files = [f"--file={file}" for file in part["files"]]
    return ["cargo-mutants", "mutants", "--dir", TREE, *files, *arguments]


def listed(part):
    """How many faults the part has."""
    command = cargo_mutants(part, "--list", "--json")
    return len(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def tried(name, part, every):
    """Tries every `every`-th fault and gives what became of each: {"caught": [fault, …], …}."""
    out = os.path.join(OUT, name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    tests = [*part["tests"], *(f"--config={setting}" for setting in part.get("settings", []))]
    arguments = ["--in-place", "--output", out, f"--shard=0/{every}", "--sharding=round-robin", "--no-times"]
    # Faults and baseline alike are built and run by these alone.
    arguments += [f"--cargo-arg={argument}" for argument in tests]
    arguments += ["--minimum-test-timeout=20", "--jobserver-tasks", str(os.cpu_count()), "--", "--"]
    arguments += [part["only"]] if "only" in part else []
    arguments += [f"--skip={test}" for test in part.get("skipped", [])]
    environment = {**os.environ, **ENVIRONMENT, **part.get("environment", {})}
    outcome = subprocess.run(cargo_mutants(part, *arguments), env=environment).returncode
    # 2: some are missed, 3: some ran into their time limit.
    if outcome not in (0, 2, 3):
        fail(f"{name} was not tried: see {out}")
    found = {}
    for kind in ("caught", "missed", "timeout", "unviable"):
        with open(os.path.join(out, "mutants.out", f"{kind}.txt")) as file:
            found[kind] = file.read().splitlines()
    return found


def score(found):
    """Per cent of the faults that compile that tests find."""
    hit = len(found["caught"]) + len(found["timeout"])
    return 100 * hit / max(1, hit + len(found["missed"]))


def main():
    parser = argparse.ArgumentParser(usage=__doc__.partition("Usage: ")[2].strip())
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--sample", type=int, default=SAMPLE)
    parser.add_argument("parts", nargs="*", metavar="PART")
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(PARTS)
    if unknown:
        fail(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    copy_tree()
    rows = {}
    for name in asked.parts or PARTS:
        count = listed(PARTS[name])
        every = 1 if asked.all else max(1, round(count / asked.sample))
        print(f"{name}: every {every}. of {count} faults" if every > 1 else f"{name}: all {count} faults", flush=True)
        rows[name] = {"faults": count, "every": every, **tried(name, PARTS[name], every)}
    sys.exit(report(rows))


def report(rows):
    os.makedirs(os.path.dirname(REPORT), exist_ok=True)
    with open(REPORT, "w") as file:
        scored = {name: {**row, "score_percent": round(score(row), 1)} for name, row in rows.items()}
        json.dump({"floor_percent": FLOOR, "parts": scored}, file, indent=2)
        file.write("\n")
    kinds = ("caught", "missed", "timeout", "unviable")
    print(f"\n{'part':<14}{'faults':>8}{'tried':>8}" + "".join(f"{kind:>10}" for kind in kinds) + f"{'score':>8}")
    for name, row in rows.items():
        counts = [len(row[kind]) for kind in kinds]
        print(f"{name:<14}{row['faults']:>8}{sum(counts):>8}" + "".join(f"{n:>10}" for n in counts) + f"{score(row):>8.1f}")
    for name, row in rows.items():
        for fault in row["missed"]:
            print(f"no test finds: {fault}")
    below = [name for name, row in rows.items() if score(row) < FLOOR]
    print(f"\nbelow {FLOOR} %: {', '.join(below)}" if below else f"\nall parts are at {FLOOR} % or above")
    return 1 if below else 0


if __name__ == "__main__":
    main()
