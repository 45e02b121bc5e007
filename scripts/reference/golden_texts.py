"""Goldens of the tokenizer, the chat template and the text samples. Layout: tests/golden/data/README.md."""

import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from train_tokenizer import ADDED_TOKENS, train, write_json, write_tokenizer

from .chat import ChatTokenizer
from .samples import SYSTEM_PROMPTS, pretrain_sample, sft_sample

PRETRAIN_LENGTH, SFT_LENGTH = 48, 160
SENTENCES = """The heron stood in the shallow water and waited for a fish.
We'll see whether they've finished; she's sure that he'd rather walk.
Don't touch the kettle, it's hot! You're welcome to the bread and the cheese.
In 1969 two people walked on the moon; 12 did so by 1972, at a cost of 25,400,000,000 dollars.
Der Reiher steht im flachen Wasser und wartet. Übermäßig großer Käse.
Le héron attend près de l'étang où nagent les poissons.
Цапля стоит в воде и ждёт рыбу.
鹭站在浅水里等鱼。你好，请介绍一下你自己。今天天气怎么样？
サギは水辺で魚を待っている。
왜가리가 물가에서 물고기를 기다린다.
for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; }  // a dot product
{"name": "translate", "arguments": {"text": "water", "n": 3}}
assistant user system tool think name arguments""".splitlines()
WORDS = "the heron water it's they've don't fish. walked 12 1972 cheese, étang Käse 鹭站在 浅水里 等鱼 цапля 魚を 물고기 🐦 x[i] =".split()
ODD_TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\r\n", "\t", "a", "A", "é", "e\u0301", "ß", "鱼", "🐦", "👩\u200d🔬", "\u00a0x", "x\u3000y", "\u2028",
    "\u0085", "\u200b", "\ufeffbom", "\u001c", "\x00nul", "can't", "CAN'T", "'s", "'sure", "''s", "we'll've", "12345", "3.14159", "½ Ⅷ ²",
    "  lead", "trail  ", "a  b", "a\n\n\n b", " \n \n", "tab\t\tx", "<|im_start|>", "<|im_start", "<|im_end|><|im_end|>", "<think>\n\n</think>\n\n",
    "x<tool_call>y</tool_call> z", "<|buffer1|><|buffer9|>", "<image>", "<|image_pad|>", "don't  stop", "ÀÉÎ", "\ud7ff\ue000", "\U0010ffff",
    "a" * 70, "=" * 33, " " * 20 + "x", "\n" * 9, "नमस्ते", "שלום", "ไทย", "e" + "\u0301" * 5, "x\u0327 y", "_under_score", "a_b", "l'étang",
]  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "translate",
        "description": 'Translate <b>"q"</b> & keep ü 鱼',
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "n": {"type": "integer", "default": 3}},
        },
    },
}
CALL = {"name": "translate", "arguments": {"text": "鱼", "n": 1}}


def phrase(generator: random.Random, most: int = 8) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(1, most)))


def random_text(generator: random.Random) -> str:
    parts = [
        generator.choice([phrase(generator, 3), generator.choice(ADDED_TOKENS), " ", "  ", "\n", "'ll", "7"])
        for _ in range(6)
    ]
    return generator.choice(["", " "]).join(parts)


def assistant_message(generator: random.Random) -> dict:
    form = generator.randrange(7)
    reply = phrase(generator)
    if form == 0:
        return {"role": "assistant", "content": reply, "reasoning_content": f"\n{phrase(generator)}\n"}
    if form == 1:
        return {"role": "assistant", "content": f"<think>\n{phrase(generator)}\n</think>\n\n{reply}"}
    if form == 2:
        return {"role": "assistant", "content": f"a</think>b<think>c</think>\n\n{reply}"}
    if form == 3:
        return {"role": "assistant", "content": reply if generator.random() < 0.5 else "", "tool_calls": [CALL]}
    if form == 4:
        return {"role": "assistant", "content": "", "tool_calls": [{"function": {**CALL, "arguments": "{}"}}, CALL]}
    return {"role": "assistant", "content": generator.choice([reply, "\n\n" + reply])}


def conversation(generator: random.Random) -> list[dict]:
    messages = []
    if generator.random() < 0.4:
        messages.append({"role": "system", "content": phrase(generator)})
    for _ in range(generator.randint(1, 3)):
        messages.append({"role": "user", "content": phrase(generator)})
        messages.append(assistant_message(generator))
        calls = messages[-1].get("tool_calls", [])
        if calls:
            messages += [{"role": "tool", "content": json.dumps({"r": n})} for n in range(len(calls))]
            messages.append({"role": "assistant", "content": phrase(generator)})
    return messages


def chat_cases(tokenizer: ChatTokenizer, generator: random.Random) -> list[dict]:
    cases = []
    for number in range(32):
        messages = conversation(generator)
        if number % 5 == 1:
            messages.insert(2, {"role": "system", "content": "mid " + phrase(generator)})
        if number % 7 == 3:
            messages.append({"role": generator.choice(["user", "tool", "narrator"]), "content": phrase(generator)})
        if number % 11 == 5:
            messages[0]["content"] = None
        case = {"messages": messages, "add_generation_prompt": generator.random() < 0.5}
        if number % 4 == 2:
            case["tools"] = [TOOL] * generator.randint(1, 2)
        if case["add_generation_prompt"] and generator.random() < 0.6:
            case["open_thinking"] = generator.random() < 0.5
        text = tokenizer.render(
            messages, case.get("tools"), case["add_generation_prompt"], case.get("open_thinking", False)
        )
        cases.append({**case, "text": text})
    return cases


def token_cases(tokenizer: ChatTokenizer, generator: random.Random) -> dict:
    texts = ODD_TEXTS + SENTENCES + [random_text(generator) for _ in range(150)]
    encode = [{"text": text, "ids": tokenizer.encode(text)} for text in texts]
    size = tokenizer.tokenizer.get_vocab_size()
    lists = [case["ids"] for case in encode[:80]]
    lists += [generator.choices(range(size), k=generator.randint(1, 12)) for _ in range(80)]
    lists += [generator.choices(range(36, 292), k=generator.randint(1, 6)) for _ in range(60)]
    decode = [
        {"ids": ids, "text": tokenizer.decode(ids), "text_skip_special": tokenizer.decode(ids, skip_special=True)}
        for ids in lists
    ]
    return {"encode": encode, "decode": decode}


def text_rows(generator: random.Random) -> tuple[list[dict], list[dict], list[dict]]:
    """Pretraining rows, conversations as they stand in a JSONL file (tools and tool calls as JSON text), decisions."""
    pretrain = [{"text": phrase(generator, 30)} for _ in range(16)] + [
        {"text": ""},
        {"text": "<|im_end|> x"},
        {"text": "x<|endoftext|>y"},
    ]
    sft, decisions = [], []
    for number in range(22):
        messages = conversation(generator)
        for message in messages:
            if "tool_calls" in message:
                message["tool_calls"] = json.dumps(message["tool_calls"], ensure_ascii=False)
        if number % 6 == 4 and messages[0]["role"] == "system":
            messages[0]["tools"] = json.dumps([TOOL], ensure_ascii=False)
        if number % 9 == 7:
            messages[-1]["content"] = "  two blanks hide the header"
        sft.append({"conversations": messages})
        takes_prompt = messages[0]["role"] != "system"
        system = generator.randrange(len(SYSTEM_PROMPTS)) if takes_prompt and number % 2 else -1
        decisions.append({"system": system, "remove_think": generator.random() < 0.7})
    return pretrain, sft, decisions


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def samples(tokenizer: ChatTokenizer, folder: Path) -> tuple[dict, dict]:
    """The tensors of pretrain.jsonl and sft.jsonl in the folder."""
    rows = [json.loads(line) for line in (folder / "pretrain.jsonl").read_text(encoding="utf-8").splitlines()]
    pretrain = [pretrain_sample(tokenizer, row["text"], PRETRAIN_LENGTH) for row in rows]
    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text(encoding="utf-8").splitlines()]
    decisions = json.loads((folder / "sft_decisions.json").read_text())
    sft = [
        sft_sample(tokenizer, row["conversations"], SFT_LENGTH, decision["system"], decision["remove_think"])
        for row, decision in zip(rows, decisions, strict=True)
    ]
    return tuple(dict(zip(("input_ids", "labels"), map(torch.tensor, zip(*pairs)))) for pairs in (pretrain, sft))


def write_texts(output: Path, vocab_size: int = 500) -> None:
    generator = random.Random(7)
    folder = output / "tokenizer"
    training = SENTENCES * 4 + [f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")] * 9
    write_tokenizer(folder, train(training, vocab_size))
    tokenizer = ChatTokenizer(folder)
    write_json(folder / "cases.json", token_cases(tokenizer, generator), indent=None)
    write_json(folder / "chat.json", chat_cases(tokenizer, generator), indent=None)

    folder = output / "text-samples"
    folder.mkdir(parents=True, exist_ok=True)
    pretrain, sft, decisions = text_rows(generator)
    write_jsonl(folder / "pretrain.jsonl", pretrain)
    write_jsonl(folder / "sft.jsonl", sft)
    write_json(folder / "sft_decisions.json", decisions, indent=None)
    lengths = {"pretrain": PRETRAIN_LENGTH, "sft": SFT_LENGTH}
    for (name, length), tensors in zip(lengths.items(), samples(tokenizer, folder)):
        save_file(tensors, folder / f"{name}.safetensors", metadata={"max_seq_len": str(length)})


def check_texts(output: Path) -> list[str]:
    """Recompute; returns what disagrees."""
    tokenizer, problems = ChatTokenizer(output / "tokenizer"), []
    cases = json.loads((output / "tokenizer" / "cases.json").read_text(encoding="utf-8"))
    problems += [
        f"encode {case['text']!r}" for case in cases["encode"] if tokenizer.encode(case["text"]) != case["ids"]
    ]
    problems += [f"decode {case['ids']}" for case in cases["decode"] if tokenizer.decode(case["ids"]) != case["text"]]
    for number, case in enumerate(json.loads((output / "tokenizer" / "chat.json").read_text(encoding="utf-8"))):
        text = tokenizer.render(
            case["messages"], case.get("tools"), case["add_generation_prompt"], case.get("open_thinking", False)
        )
        problems += [f"chat case {number}"] if text != case["text"] else []
    for name, tensors in zip(("pretrain", "sft"), samples(tokenizer, output / "text-samples")):
        expected = load_file(output / "text-samples" / f"{name}.safetensors")
        problems += [f"text-samples: {name} {key}" for key in tensors if not torch.equal(tensors[key], expected[key])]
    return problems
