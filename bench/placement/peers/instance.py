"""Instances as both general solvers read them, and the conversation with whoever asks.

One line in, the path of an instance; one line out, a JSON object with the outcome. Model building is not timed: it is Python's.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass

# An instance solved faster than this is solved again, and the best time counts, as for everybody else.
QUICK_S = 0.5
RUNS = 3


@dataclass
class Instance:
    """Times in microseconds, capacities in layers."""

    layers: int
    layer_us: list
    capacity: list
    head_us: list
    entry_us: list
    exit_us: list
    way_us: list

    @property
    def devices(self):
        return range(len(self.layer_us))

    def last_us(self, device):
        """What the last stage costs on top: the head, and the way out."""
        return self.head_us[device] + self.exit_us[device]


def read(path):
    with open(path, encoding="ascii") as file:
        rows = [[int(word) for word in line.split()] for line in file]
    return Instance(rows[0][1], *rows[1:6], rows[6:])


def answer_all(solve):
    """Answers each path on standard input; `solve(instance, cap_s)` gives a function to time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cap", type=float, required=True, help="seconds for one instance")
    cap_s = parser.parse_args().cap
    for line in sys.stdin:
        path, _, cap = line.strip().partition("\t")
        instance = read(path)
        own_cap_s = float(cap) if cap else cap_s
        best = None
        for _ in range(RUNS):
            run = solve(instance, own_cap_s)
            begun = time.perf_counter()
            outcome = run()
            outcome["ms"] = (time.perf_counter() - begun) * 1e3
            if best is None or outcome["ms"] < best["ms"]:
                best = outcome
            if outcome["ms"] > QUICK_S * 1e3:
                break
        print(json.dumps(best), flush=True)
