#!/usr/bin/env python3
"""Draws the loss curve of a run as an SVG.

    python3 scripts/plot_loss.py out/quickstart/metrics.jsonl loss.svg

Reads the metrics.jsonl that train_thinker writes: a header object, then one object per step with "step" and "loss". The
thin line is the loss of each step, the thick one its moving average. Colours follow the viewer's light or dark theme.
"""

import argparse
import json
import math
import os
import sys

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 60
STYLE = """
  svg { background: #ffffff; font-family: sans-serif; font-size: 13px }
  text { fill: #333333 } .title { font-size: 17px } .grid { stroke: #dddddd }
  .raw { stroke: #9ec5e8; fill: none } .smooth { stroke: #1f6fb4; stroke-width: 2.5; fill: none }
  @media (prefers-color-scheme: dark) {
    svg { background: #16181c } text { fill: #d8d8d8 } .grid { stroke: #33363c } .raw { stroke: #35546e } .smooth { stroke: #6cb4f0 }
  }
"""


def read_losses(path):
    """The (step, loss) pairs of a metrics file."""
    points = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                sys.exit(f"{path}:{number}: expected a JSON object, found {line.strip()[:60]!r} ({error.msg})")
            if "step" in entry and "loss" in entry:
                points.append((entry["step"], entry["loss"]))
    if not points:
        sys.exit(f"{path}: expected objects with \"step\" and \"loss\", found none")
    return points


def smoothed(points):
    """Exponential moving average over about a thirtieth of the run, corrected for its start."""
    keep = 1 - 1 / max(1.0, len(points) / 30)
    average, weight, out = 0.0, 0.0, []
    for step, loss in points:
        average = keep * average + (1 - keep) * loss
        weight = keep * weight + (1 - keep)
        out.append((step, average / weight))
    return out


def ticks(low, high, count):
    """Round numbers that divide [low, high] into about `count` parts."""
    span = (high - low) / count or 1
    unit = 10.0 ** math.floor(math.log10(span))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= span)
    value, out = step * -(-low // step), []
    while value <= high + 1e-9:
        out.append(round(value, 10))
        value += step
    return out


def draw(points, title):
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    low, high = min(0.0, min(losses)), max(losses)

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - steps[0]) / max(1, steps[-1] - steps[0])

    def y(loss):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / ((high - low) or 1)

    def line(series, name):
        return f'<polyline class="{name}" points="' + " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in series) + '"/>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
           f"<style>{STYLE}</style>", f'<text class="title" x="{LEFT}" y="28">{title}</text>']
    for loss in ticks(low, high, 6):
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:g}</text>')
    for step in ticks(steps[0], steps[-1], 8):
        out.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{step:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">step</text>')
    out.append(f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
               "loss, nats per token</text>")
    return "\n".join(out + [line(points, "raw"), line(smoothed(points), "smooth"), "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", help="metrics.jsonl of a run")
    parser.add_argument("svg", help="file to write")
    parser.add_argument("--title", default="training loss")
    options = parser.parse_args()
    text = draw(read_losses(options.metrics), options.title)
    temporary = options.svg + ".part"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, options.svg)


if __name__ == "__main__":
    main()
