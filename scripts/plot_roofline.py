#!/usr/bin/env python3
"""Turns the JSON of bench_kernels into one table (Markdown) and one picture (SVG): every instruction under the roof of
its device, FLOP/s against FLOPs per byte. Where a library of NVIDIA's was timed as well, "of library" is our speed as a
fraction of its speed.

    build/release/bin/bench_kernels --json cpu.json
    python3 scripts/plot_roofline.py cpu.json --table cpu.md --picture cpu.svg
"""

import argparse
import html
import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1100, 640, 80, 260, 40, 60
COLOURS = ["#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490", "#a16207", "#475569"]
LIBRARIES = {"cublas", "cudnn"}  # names of baselines are "instruction/variant/LIBRARY/dtype"


def load(path: Path) -> tuple[dict, list[dict]]:
    """The device's limits, and a row per bench that could run."""
    try:
        record = json.loads(path.read_text())
        context = record["context"]
        limits = {name: float(context[name]) for name in ("f32_flops_per_s", "bf16_flops_per_s", "bytes_per_s")}
        rows = [
            {
                "name": bench["name"].split("/iterations")[0],
                "us": bench["real_time"],
                "gb_per_s": bench["GB/s"],
                "gflop_per_s": bench["GFLOP/s"],
                "intensity": bench["intensity"],
                "of_limit": bench["of_limit"],
            }
            for bench in record["benchmarks"]
            if not bench.get("error_occurred")
        ]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{path}: expected the JSON of bench_kernels ({error!r})")
    return {"device": context["device"], **limits}, rows


def is_library(row: dict) -> bool:
    return not LIBRARIES.isdisjoint(row["name"].split("/"))


def table(limits: dict, rows: list[dict]) -> str:
    library_us = {
        "/".join(part for part in row["name"].split("/") if part not in LIBRARIES): row["us"]
        for row in rows
        if is_library(row)
    }
    lines = [
        f"Device: {limits['device']}; limits: f32 {limits['f32_flops_per_s'] / 1e9:.0f} GFLOP/s, bf16 "
        f"{limits['bf16_flops_per_s'] / 1e9:.0f} GFLOP/s, memory {limits['bytes_per_s'] / 1e9:.0f} GB/s.",
        "",
        "| instruction | time us | GB/s | GFLOP/s | of limit | of library |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        theirs = library_us.get(row["name"])
        ratio = f"{theirs / row['us']:.2f}" if theirs and not is_library(row) else ""
        lines.append(
            f"| {row['name']} | {row['us']:.1f} | {row['gb_per_s']:.1f} | {row['gflop_per_s']:.1f} "
            f"| {row['of_limit']:.2f} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


class Axis:
    """A logarithmic scale from powers of ten to pixels."""

    def __init__(self, values: list[float], begin: float, end: float) -> None:
        self.low, self.high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> float:
        return self.begin + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self) -> list[int]:
        return list(range(self.low, self.high + 1))


def picture(limits: dict, rows: list[dict]) -> str:
    rows = [row for row in rows if row["gflop_per_s"] > 0]
    peaks = {"f32": limits["f32_flops_per_s"] / 1e9, "bf16": limits["bf16_flops_per_s"] / 1e9}
    bandwidth = limits["bytes_per_s"] / 1e9
    x = Axis([row["intensity"] for row in rows], LEFT, WIDTH - RIGHT)
    y = Axis([row["gflop_per_s"] for row in rows] + list(peaks.values()), HEIGHT - BOTTOM, TOP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16">Roofline of {html.escape(limits["device"])}</text>',
    ]
    for power in x.ticks():
        at = x(10.0**power)
        out.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10.0**power:g}</text>')
    for power in y.ticks():
        at = y(10.0**power)
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 16}" text-anchor="middle">FLOPs per byte</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">GFLOP/s</text>')
    for name, peak in peaks.items():
        first = max(10.0**x.low, 10.0**y.low / bandwidth)
        corner = min(peak / bandwidth, 10.0**x.high)
        points = [(first, first * bandwidth), (corner, corner * bandwidth), (10.0**x.high, peak)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        dash = "" if name == "bf16" else ' stroke-dasharray="6 4"'
        out.append(f'<polyline points="{path}" fill="none" stroke="#111827" stroke-width="1.5"{dash}/>')
        out.append(f'<text x="{WIDTH - RIGHT - 4}" y="{y(peak) - 6:.1f}" text-anchor="end">{name} {peak:.0f}</text>')
    families = sorted({row["name"].split("/")[0] for row in rows})
    for row in rows:
        index = families.index(row["name"].split("/")[0])
        style = f'fill="{COLOURS[index % len(COLOURS)]}"'
        if not row["name"].endswith("bf16"):
            style = f'fill="white" stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="1.5"'
        title = html.escape(f"{row['name']}: {row['gflop_per_s']:.1f} GFLOP/s, {row['of_limit']:.2f} of the limit")
        radius = "0" if is_library(row) else "4.5"  # of a rounded square: none, or a circle
        out.append(
            f'<rect x="{x(row["intensity"]) - 4.5:.1f}" y="{y(row["gflop_per_s"]) - 4.5:.1f}" width="9" height="9" '
            f'rx="{radius}" {style}><title>{title}</title></rect>'
        )
    for index, family in enumerate(families):
        at = TOP + 16 * index
        out.append(f'<circle cx="{WIDTH - RIGHT + 24}" cy="{at}" r="4.5" fill="{COLOURS[index % len(COLOURS)]}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 36}" y="{at + 4}">{html.escape(family)}</text>')
    legend = "filled: bf16, open: f32, square: library"
    out.append(f'<text x="{WIDTH - RIGHT + 16}" y="{TOP + 16 * len(families) + 12}">{legend}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what bench_kernels --json wrote")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table here; default: print it")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the picture (SVG) here")
    options = parser.parse_args()
    limits, rows = load(options.results)
    if not rows:
        sys.exit(f"{options.results}: no benches in it")
    if options.table:
        options.table.write_text(table(limits, rows))
    else:
        print(table(limits, rows), end="")
    if options.picture:
        options.picture.write_text(picture(limits, rows))


if __name__ == "__main__":
    main()
