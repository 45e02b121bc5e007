#!/usr/bin/env python3
"""Times a training step and decoding of the 0.1B Thinker beside the same model in PyTorch, in one run on one machine.

    python3 bench/versus_pytorch.py                        load (a): 4 x 512 random ids, every position labelled
    python3 bench/versus_pytorch.py --sft data/sft.jsonl   also load (b): conversations padded to max_seq_len, batch 16
    python3 bench/versus_pytorch.py --dtypes bf16 --rounds 2

Each side runs in a process of its own, in turns, PyTorch both eager and compiled; the better of the two counts, for
time and for memory. Needs a release build and a Python with torch (bench/requirements.txt). Prints a table of ratios;
--profile adds for every instruction the fraction of its limit, matrix product rate and memory bandwidth as measured in
the same run.
"""

import argparse
import json
import os
import subprocess
import sys

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


def best(results, field, lowest=True):
    values = [result[field] for result in results]
    return min(values) if lowest else max(values)


def compare_training(name, dtype, ours_flags, rival_flags, options):
    ours, lean, rivals = [], [], []
    for _ in range(options.rounds):
        flags = ["--dtype", dtype, "--steps", str(options.steps)] + ours_flags
        ours.append(run([OURS] + flags))
        lean.append(run([OURS, "--recompute"] + flags))
        for compiled in ("0", "1"):
            flags = ["--dtype", dtype, "--compile", compiled, "--warmup", "1", "--steps", str(options.steps)]
            rivals.append(run([sys.executable, RIVAL] + flags + rival_flags))
    theirs, their_memory = best(rivals, "min_s"), best(rivals, "peak_rss_mb")
    for way, results in (("", ours), (", recompute", lean)):
        mine, memory = best(results, "min_s"), best(results, "peak_rss_mb", False)
        print(
            f"{name + way:36} {dtype:5} ours {mine:7.3f} s  PyTorch {theirs:7.3f} s  speed x{theirs / mine:5.2f}   "
            f"memory {memory:6.0f} of {their_memory:6.0f} MB = {memory / their_memory:.2f}",
            flush=True,
        )
    if options.profile:
        run([OURS, "--dtype", dtype, "--steps", str(options.steps), "--profile"] + ours_flags, show_errors=True)


def compare_decoding(dtype, options):
    """Two rivals: the original's way (a cache that grows by concatenation, keys and values repeated for each query head,
    scores and softmax as separate operations), and the best we know (a static cache, fused attention)."""
    ours = [run([OURS, "--dtype", dtype, "--decode", "128"]) for _ in range(options.rounds)]
    mine = best(ours, "tokens_per_s", False)
    for way in ("growing", "static"):
        command = [sys.executable, RIVAL, "--dtype", dtype, "--decode", "128", "--cache", way]
        rivals = [run(command + ["--compile", compiled]) for compiled in ("0", "1") for _ in range(options.rounds)]
        theirs = best(rivals, "best_tokens_per_s", False)
        print(
            f"{'decode, rival: ' + way + ' cache':36} {dtype:5} ours {mine:7.1f} tokens/s  PyTorch {theirs:7.1f} "
            f"tokens/s  speed x{mine / theirs:5.2f}   weights read at {best(ours, 'weight_gb_per_s', False):.1f} GB/s of "
            f"{best(ours, 'read_limit_gb_per_s', False):.1f}",
            flush=True,
        )
    if options.profile:
        run([OURS, "--dtype", dtype, "--decode", "128", "--profile"], show_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--rounds", type=int, default=1, help="processes per side and setting; the best counts")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per process")
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
