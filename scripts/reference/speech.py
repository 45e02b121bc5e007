"""Streaming generation of text and codes by the reference model, with the whole sequence computed anew in every step.

Every draw takes the most probable token. `Margin` remembers how clearly the draws that count were made.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .omni import CODEBOOKS, Omni

TEXT_TEMPERATURE, CODE_TEMPERATURE, CODE_PENALTY, WINDOW = 0.7, 0.2, 1.05, 3


@dataclass
class Case:
    """What is asked for. script[k] is forced as the text of step k; with stop_frame > 0 codebook q is made to stop at the
    step at which it would give its part of that frame. With only_sounds no other code is drawn but that."""

    prompt: Tensor  # [1, P]
    script: list[int]
    max_new_tokens: int
    thinking: bool
    penalty: float
    stop_frame: int
    enter_token_id: int
    only_sounds: bool
    ref_codes: Tensor | None = None  # [1, Q, R]
    spk_emb: Tensor | None = None  # [1, E]
    audio_states: Tensor | None = None  # [1, rows, width]
    image_states: Tensor | None = None  # [1, rows, width]

    def tensors(self) -> dict[str, Tensor]:
        numbers = (
            self.max_new_tokens,
            self.thinking,
            self.penalty,
            self.stop_frame,
            self.enter_token_id,
            self.only_sounds,
        )
        out = {
            "prompt": self.prompt,
            "script": torch.tensor(self.script),
            "settings": torch.tensor([float(number) for number in numbers], dtype=torch.float64),
        }
        for name in ("ref_codes", "spk_emb", "audio_states", "image_states"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        return out

    @staticmethod
    def read(tensors: dict[str, Tensor]) -> "Case":
        steps, thinking, penalty, stop, enter, only_sounds = tensors["settings"].tolist()
        names = ("ref_codes", "spk_emb", "audio_states", "image_states")
        optional = {name: tensors[name] for name in names if name in tensors}
        return Case(
            prompt=tensors["prompt"],
            script=tensors["script"].tolist(),
            max_new_tokens=int(steps),
            thinking=bool(thinking),
            penalty=penalty,
            stop_frame=int(stop),
            enter_token_id=int(enter),
            only_sounds=bool(only_sounds),
            **optional,
        )


@dataclass
class Margin:
    smallest: float = float("inf")

    def choose(self, logits: Tensor) -> int:
        top = logits.topk(2).values
        self.smallest = min(self.smallest, float(top[0] - top[1]))
        return int(logits.argmax())


@dataclass
class Answer:
    text: list[int] = field(default_factory=list)  # per emission, -1 after the end of text
    frames: list[list[int]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        return {"text": torch.tensor(self.text), "frames": torch.tensor(self.frames)}


def prompt_codes(model: Omni, case: Case) -> list[list[int]]:
    """The codes under the prompt: padding, then the speaker code, then the last frames of the reference that fit."""
    length, config = case.prompt.shape[1], model.omni
    rows = [[config.audio_pad_token] * length for _ in range(CODEBOOKS)]
    frames = case.ref_codes.shape[2] if case.ref_codes is not None else 0
    begin = max(1 if case.spk_emb is not None else 0, length - frames)
    for codebook, row in enumerate(rows):
        for place in range(begin, length):
            row[place] = int(case.ref_codes[0, codebook, place - length])
        if case.spk_emb is not None:
            row[begin - 1] = config.audio_spk_token
    return rows


def last_logits(model: Omni, case: Case, text: list[int], codes: list[list[int]]) -> tuple[Tensor, Tensor]:
    """[V] and [Q, codes] of the last position."""
    config = model.omni
    if case.spk_emb is None:  # a speaker code without a vector is a code like any other
        model.talker.speaker_code = -1
    batch = {
        "input_ids": torch.tensor([*codes, text])[None],
        "audio_states": torch.zeros(1, 1, config.audio_hidden_size),
        "audio_lens": torch.tensor([0]),
        "image_states": torch.zeros(1, 0, config.image_hidden_size),
        "spk_emb": torch.zeros(1, config.spk_emb_size) if case.spk_emb is None else case.spk_emb,
    }
    if case.audio_states is not None:
        batch |= {"audio_states": case.audio_states, "audio_lens": torch.tensor([case.audio_states.shape[1]])}
    if case.image_states is not None:
        batch["image_states"] = case.image_states
    text_logits, audio_logits = model(batch, {})
    model.talker.speaker_code = config.audio_spk_token
    return text_logits[0, -1].clone(), audio_logits[0, :, -1].clone()


def penalise(logits: Tensor, token: int, factor: float) -> None:
    logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor


@torch.no_grad()
def generate(model: Omni, case: Case, margin: Margin) -> Answer:
    model.eval()
    config, eos = model.omni, model.omni.thinker.eos_token_id
    first_reserved = min(config.audio_pad_token, config.audio_stop_token, config.audio_spk_token) - 1
    text, codes = case.prompt[0].tolist(), prompt_codes(model, case)
    drawn: list[list[int]] = [[] for _ in range(CODEBOOKS)]
    stops: list[int | None] = [None] * CODEBOOKS
    begin = None if case.thinking else 1  # the step at which codebook 0 begins
    produced: list[int] = []
    ended, fed_after_end, answer = False, 0, Answer()
    for step in range(case.max_new_tokens):
        text_logits, audio_logits = last_logits(model, case, text, codes)
        if step < len(case.script):
            text_logits[case.script[step]] += 1000
        text_logits /= TEXT_TEMPERATURE + 1e-9
        if case.penalty != 1:
            for token in set(text):
                penalise(text_logits, token, case.penalty)
        if ended:
            token = case.enter_token_id if fed_after_end == 0 else 0
            fed_after_end += 1
        else:
            token = margin.choose(text_logits)
        delay = -1 if begin is None else step - begin
        for codebook in range(CODEBOOKS):
            if delay < codebook:
                drawn[codebook].append(config.audio_pad_token)
                continue
            logits = audio_logits[codebook]
            if case.stop_frame > 0 and step == case.stop_frame + 1 + codebook:
                logits[config.audio_stop_token] += 1000
            elif case.only_sounds:
                logits[first_reserved:] -= 1000
            logits /= CODE_TEMPERATURE
            for code in drawn[codebook][-WINDOW:]:
                penalise(logits, code, CODE_PENALTY)
            code = margin.choose(logits)
            drawn[codebook].append(code)
            if code >= first_reserved and stops[codebook] is None:
                stops[codebook] = step
        if ended and None not in stops:
            break
        text.append(token)
        for codebook in range(CODEBOOKS):
            codes[codebook].append(drawn[codebook][step])
        frame = [-1] * CODEBOOKS
        if delay >= CODEBOOKS - 1:
            places = [step - (CODEBOOKS - 1) + codebook for codebook in range(CODEBOOKS)]
            if all(stop is None or place < stop for place, stop in zip(places, stops)):
                frame = [drawn[codebook][place] for codebook, place in enumerate(places)]
        answer.frames.append(frame)
        answer.text.append(-1 if ended else token)
        if not ended:
            produced.append(token)
            if begin is None and produced[-len(config.think_end_ids) :] == config.think_end_ids:
                begin = step + 2
            ended = token == eos
    return answer
