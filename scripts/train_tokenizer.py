#!/usr/bin/env python3
"""Train the byte-level BPE tokenizer on the corpus of build_corpus.py and write tokenizer.json and
tokenizer_config.json.

Ids 0..35 are the special tokens, 36..291 the single bytes, the rest merges in order. Needs `pip install tokenizers`.

  scripts/train_tokenizer.py --corpus data/corpus --output assets/tokenizer
  scripts/train_tokenizer.py --corpus data/corpus --output /tmp/tok --vocab-size 2048
"""

import argparse
import json
import os
import sys
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL_TOKENS = (
    """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <|audio_start|>
<|audio_end|> <|audio_pad|> <tts_pad> <tts_text_bos> <tts_text_eod> <tts_text_bos_single>""".split()
)
# These stay visible when special tokens are skipped in decoding.
VISIBLE_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
VISIBLE_TOKENS += [f"<|buffer{n}|>" for n in range(1, 10)]
ADDED_TOKENS = CONTROL_TOKENS + VISIBLE_TOKENS
TEMPLATE = Path(__file__).resolve().parent / "reference" / "chat_template.jinja"


def train(texts, vocab_size: int, progress: bool = False) -> dict:
    """The content of tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=ADDED_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["id"] < len(CONTROL_TOKENS)
    check(content, vocab_size)
    return content


def check(content: dict, vocab_size: int) -> None:
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    if len(vocab) != vocab_size or [token["content"] for token in content["added_tokens"]] != ADDED_TOKENS:
        raise RuntimeError(
            f"expected {vocab_size} entries and {len(ADDED_TOKENS)} added tokens, got {len(vocab)}: more text is needed"
        )
    for byte_id, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), len(ADDED_TOKENS)):
        if vocab[symbol] != byte_id:
            raise RuntimeError(f"expected byte symbol {symbol!r} at id {byte_id}, found {vocab[symbol]}")
    for index, (left, right) in enumerate(merges):
        if vocab[left + right] != len(ADDED_TOKENS) + 256 + index:
            raise RuntimeError(f"merge {index} ({left!r}, {right!r}): expected id {len(ADDED_TOKENS) + 256 + index}")


def config() -> dict:
    """The content of tokenizer_config.json."""
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": number < len(CONTROL_TOKENS),
            }
            for number, token in enumerate(ADDED_TOKENS)
        },
        "bos_token": "<|im_start|>",
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<|endoftext|>",
    }


def write_json(path: Path, content, indent: int | None = 1) -> None:
    """Atomic."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=indent)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_tokenizer(folder: Path, content: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The merges (thousands of short pairs) go without indentation, which halves the file.
    write_json(folder / "tokenizer.json", content, indent=None)
    write_json(folder / "tokenizer_config.json", config())


def corpus_texts(folder: Path, limit: int):
    """The first `limit` lines of each file; turns keep their role names, which so become tokens of their own."""
    with open(folder / "pretrain.jsonl", encoding="utf-8") as file:
        for line in islice(file, limit):
            yield json.loads(line)["text"]
    with open(folder / "sft.jsonl", encoding="utf-8") as file:
        for line in islice(file, limit):
            for message in json.loads(line)["conversations"]:
                yield f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    yield from ["<|im_start|>system\n"] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=Path, metavar="DIR", help="output folder of build_corpus.py")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="made if missing")
    parser.add_argument("--vocab-size", type=int, default=6400, help="default: %(default)s")
    parser.add_argument("--limit", type=int, default=100_000, help="lines taken of each file (default: %(default)s)")
    options = parser.parse_args()
    smallest = len(ADDED_TOKENS) + 256
    if options.vocab_size < smallest:
        parser.error(f"--vocab-size: expected at least {smallest} (special tokens and bytes), got {options.vocab_size}")
    content = train(corpus_texts(options.corpus, options.limit), options.vocab_size, progress=sys.stderr.isatty())
    write_tokenizer(options.output, content)
    size = (options.output / "tokenizer.json").stat().st_size
    print(f"{options.output}/tokenizer.json: {options.vocab_size} entries, {size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"train_tokenizer.py: {error}")
