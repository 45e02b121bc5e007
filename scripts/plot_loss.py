#!/usr/bin/env python3
"""Draw the loss of a training run as an SVG (standard library only); readable on light and dark pages.

metrics.jsonl: a header object, then one object per step with `step` and `loss`.

  scripts/plot_loss.py out/metrics.jsonl out/loss.svg
  scripts/plot_loss.py out/metrics.jsonl out/loss.svg --title "Thinker, 4M parameters" --key text_loss
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 48, 52
MOST_POINTS = 1500
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .title { font-size: 16px; font-weight: 600 }
  .grid { stroke: #8884; stroke-width: 1 } .axis { stroke: #888; stroke-width: 1 }
  .raw { fill: none; stroke: #4a90d9; stroke-opacity: 0.35; stroke-width: 1 }
  .smooth { fill: none; stroke: #d9534f; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .raw { stroke: #7fb8f0 } .smooth { stroke: #ff8a80 } }
"""


def read_metrics(path: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of every step. A last line without its end (a run that was killed) is left out."""
    points = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(f"{path}:{number}: expected a JSON object, found {line[:60]!r} ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {line[:60]!r}")
        if "step" in record and key in record:
            value = record[key]
            if isinstance(value, (int, float)) and math.isfinite(value):
                points.append((int(record["step"]), float(value)))
    if not points:
        raise ValueError(f"{path}: expected steps with a finite {key!r}, found none")
    return points


def smoothed(values: list[float], span: float) -> list[float]:
    """Exponential mean over about `span` steps, corrected for its start."""
    keep, total, weight, result = 1 - 1 / max(span, 1), 0.0, 0.0, []
    for value in values:
        total = keep * total + value
        weight = keep * weight + 1
        result.append(total / weight)
    return result


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


class Chart:
    """Scales from data to pixels, and the SVG elements drawn so far."""

    def __init__(self, steps: list[int], values: list[float]) -> None:
        self.x0, self.x1 = min(steps), max(max(steps), min(steps) + 1)
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or 0.5
        self.y0, self.y1 = low - margin, high + margin
        if 0 <= low and self.y0 < 0:
            self.y0 = 0.0
        self.parts: list[str] = []

    def x(self, step: float) -> float:
        return LEFT + (step - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, words: str, anchor: str = "middle", extra: str = "") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(words)}</text>')

    def axes(self, label: str, title: str) -> None:
        for value in ticks(self.y0, self.y1):
            self.line("grid", LEFT, self.y(value), WIDTH - RIGHT, self.y(value))
            self.text(LEFT - 8, self.y(value) + 4, f"{value:g}", "end")
        for step in ticks(self.x0, self.x1):
            self.line("axis", self.x(step), HEIGHT - BOTTOM, self.x(step), HEIGHT - BOTTOM + 5)
            self.text(self.x(step), HEIGHT - BOTTOM + 20, f"{step:,.0f}" if step == int(step) else f"{step:g}")
        self.line("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM)
        self.line("axis", LEFT, TOP, LEFT, HEIGHT - BOTTOM)
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "step")
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self.text(18, middle, label, extra=f'transform="rotate(-90 18 {middle:.1f})"')
        self.text(LEFT, 28, title, "start", 'class="title"')

    def curve(self, kind: str, steps: list[int], values: list[float]) -> None:
        points = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(steps, values))
        self.parts.append(f'<polyline class="{kind}" points="{points}"/>')

    def svg(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
        return "\n".join([head, f"<style>{STYLE}</style>", *self.parts, "</svg>", ""])


def thinned(items: list) -> list:
    """At most MOST_POINTS of the items, the first and the last among them."""
    if len(items) <= MOST_POINTS:
        return items
    return [items[round(i * (len(items) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def draw(points: list[tuple[int, float]], key: str, title: str, span: float) -> str:
    steps, values = [step for step, _ in points], [value for _, value in points]
    mean = smoothed(values, span or max(len(values) / 50, 1))
    chart = Chart(steps, values)
    chart.axes(key.replace("_", " "), title)
    chart.curve("raw", thinned(steps), thinned(values))
    chart.curve("smooth", thinned(steps), thinned(mean))
    chart.text(WIDTH - RIGHT, 28, f"{len(points):,} steps, last {mean[-1]:.3f} (smoothed)", "end")
    return chart.svg()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", type=Path, help="metrics.jsonl of a run")
    parser.add_argument("output", type=Path, help="the SVG to write")
    parser.add_argument("--key", default="loss", help="which number to draw (default: %(default)s)")
    parser.add_argument("--title", default="Training loss", help="default: %(default)s")
    parser.add_argument(
        "--smooth", type=float, default=0, metavar="STEPS", help="span of the mean; default: a 50th of the run"
    )
    options = parser.parse_args()
    picture = draw(read_metrics(options.metrics, options.key), options.key, options.title, options.smooth)
    partial = options.output.with_name(options.output.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(picture)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, options.output)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"plot_loss.py: {error}")
