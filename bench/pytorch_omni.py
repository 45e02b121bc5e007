#!/usr/bin/env python3
"""The PyTorch figure that our omni training step and our speech decoder have to beat: the same model, the same batch, the
same cores.

A step is forward, loss, backward, clipping and AdamW on the batches of a file (input_ids [N, B, 9, T], text_labels,
audio_labels). Decoding is the original's procedure: one text token and eight codes per step, drawn with its settings.
Each run prints one JSON line.

  bench/pytorch_omni.py --replay batches.safetensors --dtype bf16 --compile 1
  bench/pytorch_omni.py --decode 128 --dtype bf16 --cache growing
"""

import argparse
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from pytorch_rival import (  # noqa: E402
    GrowingCache,
    add_on_request,
    answer_request,
    attend_step_by_step,
    await_request,
    peak_rss_mb,
)
from reference.omni import CODEBOOKS, Omni, OmniConfig, omni_losses  # noqa: E402
from reference.thinker import Attention, KvCache, ThinkerConfig  # noqa: E402


class Rival(Omni):
    """Text and codes alone, with caches for Thinker and Talker."""

    def forward(self, ids: Tensor, caches: list[KvCache] | None = None) -> tuple[Tensor, Tensor]:
        start = caches[0].length if caches else 0
        time_steps = slice(start, start + ids.shape[2])
        x = self.model.embed_tokens(ids[:, CODEBOOKS])
        bridge, layers = x, len(self.model.layers)
        for index, layer in enumerate(self.model.layers):
            x = layer(x, self.cos[time_steps], self.sin[time_steps], caches[index] if caches else None)
            bridge = x if index == self.omni.bridge_layer else bridge
        talker = self.talker
        z = talker.embed_proj(bridge) * talker.text_scale
        z = z + talker.codec_proj(talker.embed_tokens(ids[:, :CODEBOOKS])) * talker.audio_scale
        for index, layer in enumerate(talker.layers):
            z = layer(z, talker.cos[time_steps], talker.sin[time_steps], caches[layers + index] if caches else None)
        return self.lm_head(self.model.norm(x)), talker.lm_head(talker.norm(z))


def time_training(options: argparse.Namespace, model: Rival) -> dict:
    file = load_file(options.replay)
    count = len(file["input_ids"])
    batches = [{name: file[name][i] for name in ("input_ids", "text_labels", "audio_labels")} for i in range(count)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    call = torch.compile(model) if options.compile else model

    def step(batch: dict[str, Tensor]) -> float:
        cast = torch.autocast("cpu", torch.bfloat16) if options.dtype == "bf16" else nullcontext()
        with cast:
            text, audio = call(batch["input_ids"])
            loss = omni_losses(model, text, audio, batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    seconds, loss = [], float("nan")
    for number in range(1 + options.steps):
        if number > 0:
            await_request(options)
        start = time.perf_counter()
        loss = step(batches[number % count])
        if number > 0:
            seconds.append(time.perf_counter() - start)
            answer_request(options, seconds[-1])
    return {"seconds": seconds, "loss": round(loss, 4)}


def draw_text(logits: Tensor, temperature: float = 0.7, top_p: float = 0.85) -> Tensor:
    ordered, index = torch.sort(logits / (temperature + 1e-9), descending=True)
    before = ordered.softmax(-1).cumsum(-1)
    drop = torch.cat([torch.zeros_like(before[:1], dtype=torch.bool), before[:-1] > top_p])
    probability = ordered.masked_fill(drop, float("-inf")).softmax(-1)
    return index[torch.multinomial(probability, 1)]


def draw_code(logits: Tensor, history: list[int], step: int, codebook: int, pad: int) -> int:
    if step - 1 < codebook:
        return pad
    logits = logits / 0.2
    for code in history[-3:]:
        logits[code] = logits[code] / 1.05 if logits[code] > 0 else logits[code] * 1.05
    kept, index = logits.topk(50)
    return int(index[torch.multinomial(kept.softmax(-1), 1)])


def time_decoding(options: argparse.Namespace, model: Rival) -> dict:
    """Steps per second after a prompt of 16 tokens; the best of `steps` runs."""
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    if options.dtype == "bf16":
        tables = [model.cos, model.sin, model.talker.cos, model.talker.sin]
        model = model.bfloat16()
        model.cos, model.sin, model.talker.cos, model.talker.sin = (table.bfloat16() for table in tables)
    model.eval()
    if options.cache == "growing":
        Attention.attend = staticmethod(attend_step_by_step)
    call = torch.compile(model, dynamic=True) if options.compile else model
    pad, rates = model.omni.audio_pad_token, []
    configs = [model.config] * len(model.model.layers) + [model.omni.talker()] * len(model.talker.layers)
    with torch.inference_mode():
        for _ in range(1 + options.steps):
            if options.cache == "growing":
                caches = [GrowingCache(1, config, 0, dtype) for config in configs]
            else:
                caches = [KvCache(1, config, 16 + options.decode, dtype) for config in configs]
            ids = torch.full((1, CODEBOOKS + 1, 16), pad)
            ids[:, CODEBOOKS] = 100
            text, audio = call(ids, caches)
            history = [[] for _ in range(CODEBOOKS)]
            start = time.perf_counter()
            for step in range(options.decode):
                token = draw_text(text[0, -1].float())
                codes = []
                for q in range(CODEBOOKS):
                    codes.append(draw_code(audio[0, q, -1].float(), history[q], step, q, pad))
                    history[q].append(codes[-1])
                text, audio = call(torch.tensor([*codes, int(token)]).view(1, -1, 1), caches)
            rates.append(options.decode / (time.perf_counter() - start))
    return {"steps_per_s": max(rates[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", help="safetensors file of batches")
    parser.add_argument("--decode", type=int, default=0, metavar="N", help="time N steps of decoding instead")
    parser.add_argument("--cache", choices=["static", "growing"], default="static")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", type=int, choices=[0, 1], default=0)
    parser.add_argument("--moe", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    add_on_request(parser)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(42)
    model = Rival(OmniConfig(ThinkerConfig(use_moe=options.moe, max_position_embeddings=1024)))
    figures = time_decoding(options, model) if options.decode else time_training(options, model)
    print(json.dumps({**figures, "peak_rss_mb": round(peak_rss_mb(), 1), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
