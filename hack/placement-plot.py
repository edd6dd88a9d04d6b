#!/usr/bin/env python3
"""Draws docs/images/placement-cost.svg from target/bench/placement.json: time to a proof against the number of devices.

Both axes are logarithmic. A dot is an instance; hollow where no proof came within the time, drawn at the time that was spent.
The line joins the medians of a solver.
"""
import json
import math
import statistics
import sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 70, 30, 20, 60
SOLVERS = [("ours", "Shardwright", "#1b6ca8", -6), ("cpsat", "CP-SAT", "#c2410c", 0), ("highs", "HiGHS", "#6b7280", 6)]


def spent(instance, solver):
    """Milliseconds, and whether they ended in a proof."""
    found = instance[solver]
    proved = found["proved"] if solver == "ours" else found["status"] == "optimal"
    return found["ms"], proved


def main(source, target):
    with open(source, encoding="utf-8") as file:
        instances = json.load(file)["instances"]
    sizes = sorted({instance["devices"] for instance in instances})
    low, high = math.log10(0.02), math.log10(10_000)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(devices):
        first, last = math.log(sizes[0]), math.log(sizes[-1])
        return LEFT + 25 + (inner_width - 50) * (math.log(devices) - first) / (last - first)

    def y(milliseconds):
        return TOP + inner_height * (1 - (math.log10(max(milliseconds, 0.02)) - low) / (high - low))

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(-1, 5):
        height = y(10**power)
        label = f"{10 ** power:g} ms" if power < 3 else f"{10 ** (power - 3):g} s"
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end" fill="#374151">{label}</text>')
    for size in sizes:
        out.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#374151">{size}</text>')
    out.append(f'<text x="{LEFT + inner_width / 2}" y="{HEIGHT - 14}" text-anchor="middle" fill="#374151">devices</text>')
    for row, (solver, name, colour, shift) in enumerate(SOLVERS):
        medians = []
        for size in sizes:
            results = [spent(instance, solver) for instance in instances if instance["devices"] == size]
            medians.append(f"{x(size) + shift:.1f},{y(statistics.median(ms for ms, _ in results)):.1f}")
            for ms, proved in results:
                fill = colour if proved else "white"
                out.append(
                    f'<circle cx="{x(size) + shift:.1f}" cy="{y(ms):.1f}" r="2.6" fill="{fill}" stroke="{colour}" fill-opacity="0.6"/>'
                )
        out.append(f'<polyline points="{" ".join(medians)}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        out.append(f'<text x="{LEFT + 12}" y="{TOP + 16 + 18 * row}" fill="{colour}" font-weight="bold">{name}</text>')
    out.append("</svg>")
    with open(target, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["target/bench/placement.json", "docs/images/placement-cost.svg"]))
