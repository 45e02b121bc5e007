#!/usr/bin/env python3
"""Makes a tar shard of conversations with codes for their answers, to time training on shards: texts from a file of
conversations, random codes, as many as the answer would take to say (15 characters and 12.5 frames a second).

    python3 bench/speech_shards.py data/sft.jsonl out/shards --samples 2000
"""

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np

FRAMES_PER_CHARACTER, CODEBOOKS, CODES = 12.5 / 15, 8, 2048


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def write_shard(conversations: Path, folder: Path, samples: int) -> Path:
    """The shard: sample k is line k of the file. Each answer gets its codes."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(1)
    path = folder / "speech.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard, open(conversations, encoding="utf-8") as lines:
        for number, line in zip(range(samples), lines):
            turns = json.loads(line)["conversations"]
            add(shard, f"{number:06}.json", json.dumps({"conversations": turns}).encode())
            answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
            for index, text in enumerate(answers):
                frames = max(1, round(len(text) * FRAMES_PER_CHARACTER))
                codes = dice.integers(0, CODES, (frames, CODEBOOKS), dtype=np.int16)
                add(shard, f"{number:06}.answer.{index}.npy", npy(codes))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conversations", type=Path, help="JSON lines with conversations")
    parser.add_argument("output", type=Path, help="folder of the shard")
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    print(write_shard(options.conversations, options.output, options.samples))


if __name__ == "__main__":
    main()
