"""Training samples of the text stages: JSONL row -> (input_ids, labels), both of max_seq_len; labels are aligned, -100
is ignored."""

import json

from .chat import ChatTokenizer

PAD, TURN_START, TURN_END, IGNORED = 0, 1, 2, -100
EMPTY_THINK = "<think>\n\n</think>\n\n"
SYSTEM_PROMPTS = [
    "你是一个知识丰富的AI，尽力为用户提供准确的信息。",
    "你是minimind，一个小巧但有用的语言模型。",
    "你是一个专业的AI助手，请提供有价值的回答。",
    "你是minimind，请尽力帮助用户解决问题。",
    "你是一个可靠的AI，请给出准确的回答。",
    "You are a helpful AI assistant.",
    "You are minimind, a lightweight intelligent assistant.",
    "You are a friendly chatbot. Please answer the user's questions carefully.",
    "You are a knowledgeable AI. Try your best to provide accurate information.",
    "You are minimind, a small but useful language model.",
]


def padded(ids: list[int], length: int, filler: int) -> list[int]:
    return ids[:length] + [filler] * (length - len(ids))


def pretrain_sample(tokenizer: ChatTokenizer, text: str | float, length: int) -> tuple[list[int], list[int]]:
    ids = padded([TURN_START, *tokenizer.encode(str(text))[: length - 2], TURN_END], length, PAD)
    return ids, [IGNORED if token == PAD else token for token in ids]


def parsed_messages(messages: list[dict]) -> tuple[list[dict], list | None]:
    """Messages whose tool calls are lists, and the tools of the last system message that names some; both are JSON
    text in a row."""
    tools, result = None, []
    for message in messages:
        message = dict(message)
        if message["role"] == "system" and message.get("tools"):
            tools = json.loads(message["tools"])
        if isinstance(message.get("tool_calls"), str):
            message["tool_calls"] = json.loads(message["tool_calls"]) if message["tool_calls"] else None
        result.append(message)
    return result, tools


def assistant_labels(ids: list[int], start: list[int], end: list[int]) -> list[int]:
    """The ids between every `start` and the next `end`, that `end` included; everything else is ignored."""
    labels = [IGNORED] * len(ids)
    at = 0
    while at < len(ids):
        if ids[at : at + len(start)] != start:
            at += 1
            continue
        first = at + len(start)
        last = next((i for i in range(first, len(ids)) if ids[i : i + len(end)] == end), len(ids))
        stop = min(last + len(end), len(ids))
        labels[first:stop] = ids[first:stop]
        at = max(stop, at + 1)
    return labels


def sft_sample(
    tokenizer: ChatTokenizer, messages: list[dict], length: int, system: int, remove_think: bool
) -> tuple[list[int], list[int]]:
    """`system` is the index of the system prompt to put in front (-1: none), which conversations that open with a
    system message or use tools do not take; `remove_think` deletes empty think blocks."""
    takes_prompt = messages[0]["role"] != "system" and not any(message.get("tools") for message in messages)
    if system >= 0 and takes_prompt:
        messages = [{"role": "system", "content": SYSTEM_PROMPTS[system]}, *messages]
    messages, tools = parsed_messages(messages)
    text = tokenizer.render(messages, tools)
    if remove_think:
        text = text.replace(EMPTY_THINK, "")
    ids = padded(tokenizer.encode(text), length, PAD)
    start, end = tokenizer.encode("<|im_start|>assistant\n"), tokenizer.encode("<|im_end|>\n")
    return ids, assistant_labels(ids, start, end)
