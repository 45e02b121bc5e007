#!/usr/bin/env python3
"""The PyTorch figure that our training step and our decoder have to beat: the same model, the same batch, the same
cores.

A step is forward, loss, backward, clipping and AdamW. Each run prints one JSON line. A `cpu_share` well below 1 says
that other programs were using the cores, so the figure is no good.

  bench/pytorch_rival.py --load dense512 --dtype f32
  bench/pytorch_rival.py --load dense512 --dtype bf16 --compile 1
  bench/pytorch_rival.py --load sft --data sft.jsonl --tokenizer assets/tokenizer --max-seq-len 128 --batch 16
  bench/pytorch_rival.py --decode 128 --dtype bf16
"""

import argparse
import json
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from reference.thinker import Attention, KvCache, Thinker, ThinkerConfig, text_loss  # noqa: E402


class GrowingCache(KvCache):
    """A cache that is made anew at every step, one position longer."""

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.key = torch.cat([self.key[:, :, : self.length], key], 2)
        self.value = torch.cat([self.value[:, :, : self.length], value], 2)
        self.length += key.shape[2]
        return self.key, self.value


def attend_step_by_step(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, enable_gqa: bool) -> Tensor:
    """Attention as separate operations; one query sees the whole cache."""
    if query.shape[2] > 1:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=is_causal, enable_gqa=enable_gqa
        )
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    return scores.float().softmax(-1).type_as(query) @ value


def peak_rss_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status: no VmHWM line")


def add_on_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-request",
        action="store_true",
        help="wait for a line on standard input before each timed training step, and answer with its seconds",
    )


def await_request(options: argparse.Namespace) -> None:
    """With --on-request: waits until a step is asked for, so that several programs can take theirs in turns."""
    if options.on_request and not sys.stdin.readline():
        raise SystemExit("--on-request: input has ended")


def answer_request(options: argparse.Namespace, seconds: float) -> None:
    if options.on_request:
        print(seconds, flush=True)


def dense_batches(options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """Random ids, every position labelled."""
    ids = torch.randint(0, options.vocab_size, (options.batch or 4, options.max_seq_len or 512))
    return [(ids, ids)]


def sft_batches(options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """Conversations of a JSONL file, padded to max_seq_len (or to the longest of the batch)."""
    from reference.chat import ChatTokenizer
    from reference.samples import sft_sample

    if not options.data or not options.tokenizer:
        raise SystemExit("--load sft needs --data FILE.jsonl and --tokenizer DIR")
    tokenizer = ChatTokenizer(options.tokenizer)
    length, size, batches, rows = options.max_seq_len or 128, options.batch or 16, [], []
    with open(options.data, encoding="utf-8") as file:
        for line in file:
            rows.append(sft_sample(tokenizer, json.loads(line)["conversations"], length, system=-1, remove_think=True))
            if len(rows) == size:
                ids, labels = (torch.tensor(part) for part in zip(*rows))
                if options.pad == "longest":
                    longest = int((ids != 0).sum(1).max())
                    ids, labels = ids[:, :longest], labels[:, :longest]
                batches.append((ids, labels))
                rows = []
            if len(batches) == options.warmup + options.steps:
                return batches
    if not batches:
        raise SystemExit(f"{options.data}: expected at least {size} conversations")
    return batches


def time_training(options: argparse.Namespace, model: Thinker) -> dict:
    batches = dense_batches(options) if options.load == "dense512" else sft_batches(options)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-4,
        foreach=options.adamw == "foreach",
        fused=options.adamw == "fused",
    )
    call = torch.compile(model) if options.compile else model

    def step(ids: Tensor, labels: Tensor) -> float:
        cast = torch.autocast("cpu", torch.bfloat16) if options.dtype == "bf16" else nullcontext()
        with cast:
            loss = text_loss(call(ids), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    seconds, tokens, loss, cpu_before = [], [], float("nan"), 0.0
    for number in range(options.warmup + options.steps):
        ids, labels = batches[number % len(batches)]
        if number == options.warmup:
            cpu_before = time.process_time()
        if number >= options.warmup:
            await_request(options)
        start = time.perf_counter()
        loss = step(ids, labels)
        if number >= options.warmup:
            seconds.append(time.perf_counter() - start)
            answer_request(options, seconds[-1])
            tokens.append((ids.numel(), int((ids != 0).sum()) if options.load == "sft" else ids.numel()))
    cpu_share = (time.process_time() - cpu_before) / sum(seconds) / torch.get_num_threads()
    return {
        "load": options.load,
        "batch": list(batches[0][0].shape),
        "adamw": options.adamw,
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "tokens_per_s": round(sum(positions for positions, _ in tokens) / sum(seconds), 1),
        "best_tokens_per_s": round(max(t[0] / s for t, s in zip(tokens, seconds)), 1),
        "real_tokens_per_s": round(sum(real for _, real in tokens) / sum(seconds), 1),
        "cpu_share": round(cpu_share, 3),
        "loss": round(loss, 4),
    }


def time_decoding(options: argparse.Namespace, model: Thinker) -> dict:
    """Greedy decoding of one sequence with a key-value cache after a prompt of 16 tokens; the best of `steps` runs."""
    if options.dtype == "bf16":
        cos, sin = model.cos, model.sin
        model = model.bfloat16()
        model.cos, model.sin = cos.bfloat16(), sin.bfloat16()
    model.eval()
    if options.cache == "growing":
        Attention.attend = staticmethod(attend_step_by_step)
    call = torch.compile(model, dynamic=True) if options.compile else model
    rates, prefills = [], []
    with torch.inference_mode():
        for _ in range(1 + options.steps):
            if options.cache == "growing":
                dtype = model.model.embed_tokens.weight.dtype
                cache = [GrowingCache(1, model.config, 0, dtype) for _ in model.model.layers]
            else:
                cache = model.new_cache(1, 16 + options.decode)
            start = time.perf_counter()
            ids = call(torch.randint(0, options.vocab_size, (1, 16)), cache)[:, -1:].argmax(-1)
            prefills.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(options.decode):
                ids = call(ids, cache)[:, -1:].argmax(-1)
            rates.append(options.decode / (time.perf_counter() - start))
    rates = rates[1:]
    return {
        "load": "decode",
        "tokens": options.decode,
        "cache": options.cache,
        "tokens_per_s": round(statistics.median(rates), 2),
        "best_tokens_per_s": round(max(rates), 2),
        "prefill16_s": round(min(prefills), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=["dense512", "sft"], default="dense512")
    parser.add_argument(
        "--decode", type=int, default=0, metavar="N", help="time the decoding of N tokens instead of training"
    )
    parser.add_argument("--cache", choices=["static", "growing"], default="static", help="keys and values of --decode")
    parser.add_argument("--data", help="conversations (JSONL) for --load sft")
    parser.add_argument("--tokenizer", help="folder of tokenizer.json and tokenizer_config.json for --load sft")
    parser.add_argument("--max-seq-len", type=int, default=0, help="default: 512 for dense512, 128 for sft")
    parser.add_argument("--batch", type=int, default=0, help="rows per step; default: 4 for dense512, 16 for sft")
    parser.add_argument("--pad", choices=["max", "longest"], default="max", help="what --load sft pads to")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", type=int, choices=[0, 1], default=0)
    parser.add_argument("--adamw", choices=["foreach", "fused", "loop"], default="fused")
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=6400)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    add_on_request(parser)
    options = parser.parse_args()

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.manual_seed(42)
    config = ThinkerConfig(
        hidden_size=options.hidden_size, num_hidden_layers=options.layers, vocab_size=options.vocab_size
    )
    model = Thinker(config, positions=max(options.max_seq_len or 512, options.decode + 16))
    figures = time_decoding(options, model) if options.decode else time_training(options, model)
    print(
        json.dumps(
            {
                **figures,
                "dtype": options.dtype,
                "compile": options.compile,
                "hidden_size": options.hidden_size,
                "layers": options.layers,
                "threads": threads,
                "torch": torch.__version__,
                "peak_rss_mb": round(peak_rss_mb(), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
