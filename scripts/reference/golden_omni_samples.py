"""Goldens of the omni samples. Layout: tests/golden/data/README.md."""

import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from train_tokenizer import write_json

from .chat import ChatTokenizer
from .golden_texts import write_jsonl
from .omni_samples import CODEBOOKS, omni_sample, scheduled_sampling

# In the short one pictures and most answers do not fit; the long one leaves room to choose between turns.
SHORT, LONG = 48, 144


def turns(*texts: str) -> list[dict]:
    """Question, answer, question ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def flat_codes(generator: random.Random, frames: int, rest: int = 0) -> list[int]:
    return generator.choices(range(2048), k=frames * CODEBOOKS + rest)


def rows_and_decisions() -> list[tuple[dict, dict]]:
    """Each row for something of its own: fields that are not named are absent, decisions are the first ones."""
    generator = random.Random(11)
    several = turns("the heron", "it walked", "fish?", "12 fish.", "and the kettle", "don't")
    long_think = "<think>\n" + "the heron walked " * 14 + "\n</think>\n\nfish."
    voice = {"spk_emb": [0.5, -1.0]}

    def codes(*frames: int) -> list[list[int]]:
        return [flat_codes(generator, count) for count in frames]

    cases = [
        # a recording in text, before and behind it; a reference that fits, and two that are longer than the prompt, with
        # and without a speaker; a system message of its own; a partial frame
        ([{"role": "system", "content": "S"}, *turns("water", "it's 12")], {"question_audios": [9], "answer_audios": [flat_codes(generator, 9, 5)], "ref_audios": codes(5)[0]}, {"audio_form": 1, "use_ref": True, "system": 2}),
        (turns("water", "fish"), {"question_audios": [4], "answer_audios": codes(6), "ref_audios": codes(40)[0], **voice}, {"audio_form": 2, "use_ref": True, "remove_think": True}),
        (turns("鹭", "浅"), {"question_audios": [5], "answer_audios": codes(8), "ref_audios": codes(70)[0]}, {"audio_form": 3, "use_ref": True, "system": 5}),
        # several turns: one drawn in the middle, one that does not fit, one whose answer has no codes
        (several, {"question_audios": [3, 6, 0], "answer_audios": codes(4, 5, 6), **voice}, {"turn_start": 1, "audio_form": 2, "remove_think": True}),
        (several[:2] + turns("the heron " * 30, "no"), {"answer_audios": codes(3, 2), **voice}, {"turn_start": 1, "system": 5}),
        (several, {"answer_audios": codes(4, 0, 6), "ref_audios": codes(3)[0]}, {"turn_start": 2, "remove_think": True, "use_ref": True}),
        # the four places of a picture; the last is lost, as its question is a recording alone
        (turns(" <image> what is it?", "the heron"), {"image_bytes": 1}, {"remove_think": True}),
        (turns("what\n<image>", "<think>\nfish\n</think>\n\ncheese"), {"image_bytes": 1, "answer_audios": codes(3)}, {"image_form": 1}),
        (turns("<image>\nwhat<image>", "12"), {"image_bytes": 1, "answer_audios": codes(50)}, {"image_form": 2, "remove_think": True}),
        (turns("what <image>", "12"), {"image_bytes": 1, "question_audios": [5], "answer_audios": codes(3), **voice}, {"image_form": 3, "audio_form": 3}),
        (turns("what <image>", "it's"), {"image_bytes": 1, "question_audios": [5], "answer_audios": codes(3)}, {"remove_think": True}),
        # a think block that ends too late to be skipped; a reference that was not drawn
        (turns("why", long_think), {"answer_audios": codes(5), **voice}, {"remove_think": True}),
        (turns("why", "x"), {"answer_audios": codes(40), "ref_audios": codes(3)[0], **voice}, {"remove_think": True}),
    ]  # fmt: skip
    row = {"question_audios": [], "answer_audios": [], "image_bytes": 0, "ref_audios": [], "spk_emb": []}
    decision = {
        "turn_start": 0,
        "system": -1,
        "remove_think": False,
        "audio_form": 0,
        "image_form": 0,
        "use_ref": False,
    }
    return [
        ({"conversations": json.dumps(messages, ensure_ascii=False), **row, **fields}, {**decision, **drawn})
        for messages, fields, drawn in cases
    ]


def new_draws(generator: np.random.Generator, count: int, time: int) -> dict[str, np.ndarray]:
    """Scheduled sampling; squared, so that a fifth of the draws lies below its probability."""
    return {
        "sched_audio_u": (generator.random((count, time)) ** 2).astype(np.float32),
        "sched_audio_codes": generator.integers(0, 2112, (count, CODEBOOKS, time), np.int32),
        "sched_text_u": (generator.random((count, time)) ** 2).astype(np.float32),
        "sched_text_ids": generator.integers(0, 500, (count, time), np.int32),
    }


def samples(tokenizer: ChatTokenizer, case: Path, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a case samples-L.json or samples-L-text-only.json, from its rows and decisions."""
    length = int(case.stem.split("-")[1])
    lines = (case.parent / f"rows-{length}.jsonl").read_text(encoding="utf-8").splitlines()
    assembled = [
        omni_sample(tokenizer, json.loads(line), length, decision, not case.stem.endswith("-text-only"))
        for line, decision in zip(lines, json.loads(case.read_text()), strict=True)
    ]
    inputs = [
        scheduled_sampling(sample, {key: tensor[i] for key, tensor in draws.items()}) if draws else sample[0]
        for i, sample in enumerate(assembled)
    ]
    return {
        "input_ids": np.stack(inputs).astype(np.int32),
        "text_labels": np.stack([sample[1] for sample in assembled]).astype(np.int32),
        "audio_labels": np.stack([sample[2] for sample in assembled]).astype(np.int32),
    }


def write_omni_samples(output: Path) -> None:
    tokenizer, folder = ChatTokenizer(output / "tokenizer"), output / "omni-samples"
    folder.mkdir(parents=True, exist_ok=True)
    rows, decisions = zip(*rows_and_decisions())
    draws = new_draws(np.random.default_rng(5), len(rows), SHORT - 1)
    for name, length, drawn in (
        (f"samples-{SHORT}", SHORT, draws),
        (f"samples-{SHORT}-text-only", SHORT, {}),
        (f"samples-{LONG}", LONG, {}),
    ):
        write_jsonl(folder / f"rows-{length}.jsonl", rows)
        case = folder / f"{name}.json"
        write_json(case, decisions, indent=None)
        tensors = {**samples(tokenizer, case, drawn), **drawn}
        save_file(tensors, case.with_suffix(".safetensors"), metadata={"max_seq_len": str(length)})


def check_omni_samples(output: Path) -> list[str]:
    """Recompute; returns what disagrees."""
    tokenizer, problems = ChatTokenizer(output / "tokenizer"), []
    for case in sorted((output / "omni-samples").glob("samples-*.json")):
        expected = load_file(case.with_suffix(".safetensors"))
        draws = {key: tensor for key, tensor in expected.items() if key.startswith("sched_")}
        for key, tensor in samples(tokenizer, case, draws).items():
            if not np.array_equal(tensor, expected[key]):
                wrong = np.unique(np.nonzero(tensor != expected[key])[0]) if tensor.shape == expected[key].shape else []
                problems.append(f"omni-samples: {case.stem} {key}, rows {list(map(int, wrong))}")
    return problems
