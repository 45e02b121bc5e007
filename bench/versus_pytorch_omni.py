#!/usr/bin/env python3
"""Times a training step and speaking of the 0.1B omni model beside the same model in PyTorch, in one run on one machine.

    python3 bench/versus_pytorch_omni.py                        all loads
    python3 bench/versus_pytorch_omni.py --loads a              4 x 512, every position labelled
    python3 bench/versus_pytorch_omni.py --loads b              answers of real lengths, padded to 512
    python3 bench/versus_pytorch_omni.py --loads a --moe --dtypes bf16 --recompute
    python3 bench/versus_pytorch_omni.py --loads shards --sft data/sft.jsonl

(b) draws text and code lengths as the original's text-to-speech data have them: 354 frames per answer on average, a third
of the answers longer than 512 positions, and a text token for about four frames. Decoding speaks an answer of that average
length; PyTorch takes all layers in every step, as the original does. Load shards reads, assembles and pads conversations
from a tar shard (bench/speech_shards.py) while it trains.

Each side runs in a process of its own: ours is train_talker itself on a file of batches, PyTorch is both eager and
compiled; the better of the two counts, for time and for memory. They train in turns, --rounds times a few steps of each,
so that what else goes on on the machine meets all alike; best and median step are compared. Needs a release build and a
Python with torch and safetensors (bench/requirements.txt).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from speech_shards import write_shard
from stepper import Stepper, ratios

ROOT = Path(__file__).resolve().parent.parent
BINARIES = ROOT / "build/release/bin"
RIVAL = ROOT / "bench/pytorch_omni.py"
CODEBOOKS, PAD, STOP, IGNORED, BATCH, TIME = 8, 2049, 2050, -100, 4, 512
ANSWER_STEPS, ANSWER_TEXT = 354, 88  # of an answer of average length, and those until its text has ended


def run(command: list) -> dict:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def labelled_batches(count: int) -> dict:
    """Random text and codes, every position labelled."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 2048, (count, BATCH, CODEBOOKS + 1, TIME), generator=generator)
    return {
        "input_ids": ids,
        "text_labels": torch.randint(0, 6400, (count, BATCH, TIME), generator=generator),
        "audio_labels": torch.randint(0, 2048, (count, BATCH, CODEBOOKS, TIME), generator=generator),
    }


def padded_batches(count: int) -> dict:
    """Questions of about 25 tokens and answers of about 354 frames, delayed and padded as the training data are."""
    dice, time = random.Random(7), TIME - 1
    ids = torch.full((count, BATCH, CODEBOOKS + 1, time), PAD)
    text_labels = torch.full((count, BATCH, time), IGNORED)
    audio_labels = torch.full((count, BATCH, CODEBOOKS, time), IGNORED)
    for batch in range(count):
        for row in range(BATCH):
            frames = int(min(max(dice.lognormvariate(5.55, 0.8), 12), 2000))
            start, tokens = dice.randint(15, 35), frames // 4 + 2
            ids[batch, row, CODEBOOKS] = 0
            end = min(start + tokens, time)
            ids[batch, row, CODEBOOKS, :end] = torch.tensor([dice.randrange(36, 6400) for _ in range(end)])
            text_labels[batch, row, start - 1 : end - 1] = ids[batch, row, CODEBOOKS, start:end]
            for q in range(CODEBOOKS):
                for frame in range(frames + 1):
                    position = start + q + 1 + frame
                    if position > time:
                        break
                    code = dice.randrange(2048) if frame < frames else STOP
                    audio_labels[batch, row, q, position - 1] = code
                    if position < time:
                        ids[batch, row, q, position] = code
    return {"input_ids": ids, "text_labels": text_labels, "audio_labels": audio_labels}


def train_ours(folder: Path, data: list, dtype: str, warm_up: int, options: argparse.Namespace) -> dict:
    recipe = folder / "recipe.yaml"
    moe = "true" if options.moe else "false"
    recipe.write_text(f"config: {{use_moe: {moe}, model_type: minimind-o, max_position_embeddings: 1024}}\n")
    settings = [*data, f"output={folder}/run", f"steps={warm_up + options.steps}", f"dtype={dtype}", "overwrite=true"]
    settings.append("recompute=true" if options.recompute else "recompute=false")
    process = subprocess.Popen(
        [BINARIES / "train_talker", recipe, *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"train_talker: exit status {status}\n{output}")
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()[1:]]
    timed = lines[warm_up:]
    return {
        "seconds": [line["seconds"] for line in timed],
        "data_seconds": sum(line["data_seconds"] for line in timed) / sum(line["seconds"] for line in timed),
        "peak_rss_mb": usage.ru_maxrss / 1024,
        "fraction_of_peak": max(line["fraction_of_peak"] for line in timed),
    }


def compare_training(
    name: str, batches: dict, shards: Path | None, dtype: str, folder: Path, options: argparse.Namespace
) -> None:
    """Steps on the same batches; with `shards` ours are on samples of those: PyTorch takes the same time for every
    batch of a size."""
    replay = folder / "batches.safetensors"
    save_file({key: value.contiguous() for key, value in batches.items()}, replay)
    # The first pass over the batches warms up: every shape once.
    data, warm_up = [f"replay={replay}"], len(batches["input_ids"])
    if shards:
        data = [f"data={shards}", f"tokenizer={ROOT}/assets/tokenizer", f"max_seq_len={TIME}", f"batch_size={BATCH}"]
    command = [sys.executable, RIVAL, "--replay", replay, "--dtype", dtype, "--steps", options.rounds * options.steps + 1]
    command += ["--moe"] if options.moe else []
    ours, rivals, memory = [], [], []
    for compiled in ("0", "1"):
        rival = Stepper([*command, "--compile", compiled])
        for _ in range(options.rounds):
            ours.append(train_ours(folder, data, dtype, warm_up, options))
            for _ in range(options.steps):
                rival.step()
        rivals.append(rival.seconds)
        memory.append(rival.finish()["peak_rss_mb"])
    mine, theirs = max(run["peak_rss_mb"] for run in ours), min(memory)
    times = ratios([step for run in ours for step in run["seconds"]], rivals)
    print(
        f"{name:30} {dtype:5} {times}   memory {mine:6.0f} of {theirs:6.0f} MB = {mine / theirs:.2f}   "
        f"{100 * max(run['fraction_of_peak'] for run in ours):.0f}% of peak, "
        f"{100 * max(run['data_seconds'] for run in ours):.2f}% waiting for data",
        flush=True,
    )


def compare_decoding(options: argparse.Namespace) -> None:
    moe = ["--moe"] if options.moe else []
    command = [sys.executable, RIVAL, "--decode", ANSWER_STEPS, "--dtype", "bf16", *moe]
    rivals = {
        (way, compiled): run([*command, "--cache", way, "--compile", compiled])["steps_per_s"]
        for way in ("growing", "static")
        for compiled in ("0", "1")
    }
    theirs = max(rivals.values())
    print("PyTorch, steps/s: " + ", ".join(f"{way} cache compile={c} {rate:.1f}" for (way, c), rate in rivals.items()))
    for dtype in ("bf16", "int8"):
        for course, text_steps in (("an answer", ANSWER_TEXT), ("text in every step", ANSWER_STEPS)):
            sizes = ["--steps", ANSWER_STEPS, "--text-steps", text_steps]
            ours = run([BINARIES / "speech_decode", "--dtype", dtype, *sizes, *moe])
            print(
                f"{'decode, ' + course:30} {dtype:5} ours {ours['steps_per_s']:7.1f} steps/s  PyTorch bf16 "
                f"{theirs:7.1f} steps/s  speed x{ours['steps_per_s'] / theirs:5.2f}   "
                f"{ours['real_time_factor']:.1f} x real time",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", default=["a", "b", "decode"], choices=["a", "b", "shards", "decode"])
    parser.add_argument("--sft", type=Path, default="data/sft.jsonl", help="conversations of load shards")
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--moe", action="store_true", help="four experts instead of dense feed-forward blocks")
    parser.add_argument("--recompute", action="store_true", help="ours with recompute: true")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of training beside either kind of PyTorch")
    parser.add_argument("--batches", type=int, default=3, help="different batches of load b")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        padded, shards = padded_batches(options.batches), None
        if "shards" in options.loads:
            shards = write_shard(options.sft, Path(name) / "shards", samples=400)
        loads = {
            "a": ("(a) 4 x 512, all labels", labelled_batches(1), None),
            "b": ("(b) real lengths, 4 x 511", padded, None),
            "shards": ("shards of conversations, 4 x 511", padded, shards),
        }
        for load in (load for load in loads if load in options.loads):
            for dtype in options.dtypes:
                compare_training(*loads[load], dtype, Path(name), options)
        if "decode" in options.loads:
            compare_decoding(options)


if __name__ == "__main__":
    main()
