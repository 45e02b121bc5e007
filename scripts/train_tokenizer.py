#!/usr/bin/env python3
"""Trains the byte-level BPE tokenizer of this project on its corpus.

    pip install tokenizers
    python3 scripts/build_corpus.py --output data
    python3 scripts/train_tokenizer.py data/pretrain.jsonl data/sft.jsonl --output assets/tokenizer

Writes tokenizer.json and tokenizer_config.json: 6,400 entries, the model family's 36 special tokens at ids 0..35, the 256
bytes at 36..291, then merges in the order in which they were learnt. The same corpus gives the same files. The result is
committed under assets/tokenizer; weights depend on it, so train it again only for a new model.
"""

import argparse
import json
import os
import sys

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
           "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<tts_pad>",
           "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>"]
VISIBLE = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"] + [
    f"<|buffer{i}|>" for i in range(1, 10)]  # added tokens that decoding never skips

# A little of what a dictionary lacks, so that Chinese greetings and code points outside of English have some merges.
EXTRA = ["你好，请介绍一下你自己。", "今天天气怎么样？", "你是minimind，一个小巧但有用的语言模型。", "你是一个专业的AI助手，请提供有价值的回答。",
         "你是一个知识丰富的AI，尽力为用户提供准确的信息。", "你是minimind，请尽力帮助用户解决问题。",
         "你是一个可靠的AI，请给出准确的回答。", "为什么天空是蓝色的？", "请描述这张图片。"]


def texts(path, limit):
    """The texts of a JSON lines file: documents, or the messages of conversations."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number == limit:
                return
            entry = json.loads(line)
            if "text" in entry:
                yield entry["text"]
            else:
                yield "\n".join(message["content"] for message in entry["conversations"] if message.get("content"))


def train(files, limit, vocabulary):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL + VISIBLE, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    corpus = EXTRA * 20 + [text for path in files for text in texts(path, limit)]
    tokenizer.train_from_iterator(corpus, trainer)
    result = json.loads(tokenizer.to_str())
    for token in result["added_tokens"]:
        token["special"] = token["id"] < len(SPECIAL)
    return result


def check(result, vocabulary):
    """What the model family fixes: sizes and the places of the special tokens."""
    if len(result["model"]["vocab"]) != vocabulary:
        sys.exit(f"expected {vocabulary} entries, found {len(result['model']['vocab'])}: the corpus is too small")
    for number, token in enumerate(SPECIAL + VISIBLE):
        if result["model"]["vocab"].get(token) != number:
            sys.exit(f"expected {token} at id {number}, found {result['model']['vocab'].get(token)}")


def configuration(result, template):
    return {
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(token["id"]): {key: token[key] for key in
                                                    ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
                                 for token in result["added_tokens"]},
        "additional_special_tokens": [], "bos_token": "<|im_start|>", "chat_template": template,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "legacy": True, "model_max_length": 131072,
        "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<|endoftext|>",
    }


def write(path, value):
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="JSON lines with \"text\" or \"conversations\"")
    parser.add_argument("--output", required=True, help="directory for the two files")
    parser.add_argument("--limit", type=int, default=100000, help="lines read of each file")
    parser.add_argument("--vocabulary", type=int, default=6400)
    options = parser.parse_args()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference/chat_template.jinja"),
              encoding="utf-8") as file:
        template = file.read()
    result = train(options.files, options.limit, options.vocabulary)
    check(result, options.vocabulary)
    os.makedirs(options.output, exist_ok=True)
    write(os.path.join(options.output, "tokenizer.json"), result)
    write(os.path.join(options.output, "tokenizer_config.json"), configuration(result, template))
    print(f"{options.output}: {options.vocabulary} entries, {len(result['model']['merges'])} merges")


if __name__ == "__main__":
    main()
