#!/usr/bin/env python3
"""Times a training step and decoding of the 0.1B Thinker beside the same model in PyTorch, in one run on one machine.

    python3 bench/versus_pytorch.py                        load (a): 4 x 512 random ids, every position labelled
    python3 bench/versus_pytorch.py --sft data/sft.jsonl   also load (b): conversations padded to max_seq_len, batch 16
    python3 bench/versus_pytorch.py --dtypes bf16 --steps 20

Each side runs in a process of its own, PyTorch both eager and compiled; the better of the two counts, for time and for
memory. Training steps are taken in turns, one of each side, so that what else goes on on the machine meets all sides
alike; best and median are compared. Needs a release build and a Python with torch (bench/requirements.txt). Prints a
table of ratios; --profile adds for every instruction the fraction of its limit, matrix product rate and memory
bandwidth as measured in the same run.
"""

import argparse
import json
import os
import subprocess
import sys

from stepper import Stepper, ratios

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = os.path.join(ROOT, "build/release/bin/train_step")
RIVAL = os.path.join(ROOT, "bench/pytorch_rival.py")


def run(command, show_errors=False):
    """Runs a command and returns the JSON object on the last line of its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if show_errors else subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr or "")
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def best(results, field):
    return max(result[field] for result in results)


def compare_training(name, dtype, ours_flags, rival_flags, options):
    common = ["--dtype", dtype, "--steps", str(options.steps + 1)]
    rival = [sys.executable, RIVAL, "--warmup", "1"] + common + rival_flags
    sides = {
        "ours": Stepper([OURS] + common + ours_flags),
        "ours, recompute": Stepper([OURS, "--recompute"] + common + ours_flags),
        "eager": Stepper(rival + ["--compile", "0"]),
        "compiled": Stepper(rival + ["--compile", "1"]),
    }
    for _ in range(options.steps):
        for side in sides.values():
            side.step()
    memory = {side: stepper.finish()["peak_rss_mb"] for side, stepper in sides.items()}
    their_memory = min(memory["eager"], memory["compiled"])
    for side, way in (("ours", ""), ("ours, recompute", ", recompute")):
        times = ratios(sides[side].seconds, [sides["eager"].seconds, sides["compiled"].seconds])
        print(
            f"{name + way:36} {dtype:5} {times}   "
            f"memory {memory[side]:6.0f} of {their_memory:6.0f} MB = {memory[side] / their_memory:.2f}",
            flush=True,
        )
    if options.profile:
        run([OURS] + common + ["--profile"] + ours_flags, show_errors=True)


def compare_decoding(dtype, options):
    """Two rivals: the original's way (a cache that grows by concatenation, keys and values repeated for each query head,
    scores and softmax as separate operations), and the best we know (a static cache, fused attention)."""
    ours = [run([OURS, "--dtype", dtype, "--decode", "128"]) for _ in range(options.rounds)]
    mine = best(ours, "tokens_per_s")
    for way in ("growing", "static"):
        command = [sys.executable, RIVAL, "--dtype", dtype, "--decode", "128", "--cache", way]
        rivals = [run(command + ["--compile", compiled]) for compiled in ("0", "1") for _ in range(options.rounds)]
        theirs = best(rivals, "best_tokens_per_s")
        print(
            f"{'decode, rival: ' + way + ' cache':36} {dtype:5} ours {mine:7.1f} tokens/s  PyTorch {theirs:7.1f} "
            f"tokens/s  speed x{mine / theirs:5.2f}   weights read at {best(ours, 'weight_gb_per_s'):.1f} GB/s of "
            f"{best(ours, 'read_limit_gb_per_s'):.1f}",
            flush=True,
        )
    if options.profile:
        run([OURS, "--dtype", dtype, "--decode", "128", "--profile"], show_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--rounds", type=int, default=1, help="decoding processes per side and setting; the best counts")
    parser.add_argument("--steps", type=int, default=10, help="timed training steps of each side")
    parser.add_argument("--sft", metavar="FILE", help="conversations (JSON lines) for load (b)")
    parser.add_argument("--tokenizer", default=os.path.join(ROOT, "assets/tokenizer"))
    parser.add_argument("--max-seq-len", type=int, default=768)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    for dtype in options.dtypes:
        compare_training("(a) 4 x 512, all labels", dtype, [], ["--load", "dense512"], options)
    if options.sft:
        batch = ["--tokenizer", options.tokenizer, "--max-seq-len", str(options.max_seq_len), "--batch", "16"]
        for dtype in options.dtypes:
            compare_training(
                f"(b) SFT 16 x {options.max_seq_len}",
                dtype,
                ["--sft", options.sft] + batch,
                ["--load", "sft", "--data", options.sft] + batch,
                options,
            )
    for dtype in options.dtypes:
        compare_decoding(dtype, options)


if __name__ == "__main__":
    main()
