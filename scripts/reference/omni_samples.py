"""Training samples of the omni stages: a row and its random decisions -> the nine streams, with their labels.

A row is a dictionary: `conversations` (JSON text), `question_audios` (feature rows of each recording), `answer_audios`
and `ref_audios` (codes, frame by frame), `image_bytes` (0 or 1) and `spk_emb`. A decision is a record of
samples-L.json, see tests/golden/data/README.md."""

import json

import numpy as np

from .chat import ChatTokenizer
from .samples import EMPTY_THINK, IGNORED, PAD, SYSTEM_PROMPTS, padded

CODEBOOKS, CODE_PAD, CODE_STOP, CODE_SPEAKER = 8, 2049, 2050, 2051
AUDIO_TOKEN, IMAGE_TOKEN, IMAGE_ROWS = "<|audio_pad|>", "<|image_pad|>", 64
IMAGE_ID = 12
ANSWER_ROOM, THINK_SEARCH = 100, 50
SAMPLING = 0.05


def with_audio(text: str, rows: int, form: int) -> str:
    audio = AUDIO_TOKEN * rows
    return (audio, text, f"{audio}\n\n{text}", f"{text}\n\n{audio}")[form]


def with_image(text: str, form: int) -> str:
    if "<image>" not in text:
        return text
    rest = text.replace("<image>", "").strip()
    return (f"<image>\n{rest}", f"<image>\n\n{rest}", f"{rest}\n<image>", f"{rest}\n\n<image>")[form]


def prompt_ids(tokenizer: ChatTokenizer, messages: list[dict], rows: int, images: bool, decision: dict) -> list[int]:
    """The tokens of a conversation whose last question is a recording of `rows` feature rows (0: it is text)."""
    if decision["system"] >= 0 and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": SYSTEM_PROMPTS[decision["system"]]}, *messages]
    asked = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    spoken = []
    for i, message in enumerate(messages):
        text = message["content"]
        if i == asked and rows > 0:
            text = with_audio(text, rows, decision["audio_form"])
        spoken.append({"role": message["role"], "content": with_image(text, decision["image_form"])})
    text = tokenizer.render(spoken)
    if decision["remove_think"]:
        text = text.replace(EMPTY_THINK, "")
    if images:
        text = text.replace("<image>", IMAGE_TOKEN * IMAGE_ROWS)
    return tokenizer.encode(text)


def kept_messages(tokenizer: ChatTokenizer, messages: list[dict], length: int, decision: dict) -> list[dict]:
    """Up to the answer that was drawn, or the nearest before it whose prompt leaves room."""
    ends = [i + 1 for i, message in enumerate(messages) if message["role"] == "assistant"]
    if len(ends) < 2:
        return messages
    for turn in range(decision["turn_start"], -1, -1):
        kept = messages[: ends[turn]]
        if len(prompt_ids(tokenizer, kept, 0, False, decision)) + ANSWER_ROOM < length:
            return kept
    return messages[: ends[0]]


def last_turn(tokenizer: ChatTokenizer, ids: list[int]) -> tuple[int, int] | None:
    """Where the last answer begins, and its end marker (or the end of the ids)."""
    start, end = tokenizer.encode("<|im_start|>assistant\n"), tokenizer.encode("<|im_end|>\n")
    found, at = None, 0
    while at < len(ids):
        if ids[at : at + len(start)] != start:
            at += 1
            continue
        first = at + len(start)
        last = next((i for i in range(first, len(ids)) if ids[i : i + len(end)] == end), len(ids))
        found, at = (first, last), max(last + len(end), first)
    return found


def frames_of(codes: list[int]) -> np.ndarray:
    """[frames, 8]; a partial frame at the end does not count."""
    return np.array(codes[: len(codes) // CODEBOOKS * CODEBOOKS], np.int64).reshape(-1, CODEBOOKS)


def code_streams(tokenizer, row, answer, ids, turn, use_reference) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels [8, length] of the codes, not yet shifted."""
    length = len(ids)
    streams = np.full((CODEBOOKS, length), CODE_PAD, np.int64)
    labels = np.full((CODEBOOKS, length), IGNORED, np.int64)
    start, end = turn
    think_end = tokenizer.encode("</think>\n\n")
    for at in range(start, min(end, start + THINK_SEARCH)):
        if ids[at : at + len(think_end)] == think_end:
            start = at + len(think_end)
            break
    speaker = 1 if row["spk_emb"] else 0
    first = start
    if row["ref_audios"] and use_reference:
        reference = frames_of(row["ref_audios"])
        first = max(speaker, start - len(reference))
        if first < start:
            streams[:, first:start] = reference[len(reference) - (start - first) :].T
    if speaker and first > 0:
        streams[:, first - 1] = CODE_SPEAKER
    frames = frames_of(answer)
    for q in range(CODEBOOKS):
        codes = [*frames[:, q], CODE_STOP]
        begin = start + q + 1
        fits = max(0, min(len(codes), length - begin))
        streams[q, begin : begin + fits] = labels[q, begin : begin + fits] = codes[:fits]
    return streams, labels


def omni_sample(
    tokenizer: ChatTokenizer, row: dict, length: int, decision: dict, front_ends: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """input_ids [9, length - 1], text_labels [length - 1], audio_labels [8, length - 1]. Without front ends recordings
    and pictures are left out."""
    messages = kept_messages(tokenizer, json.loads(row["conversations"]), length, decision)
    roles = [message["role"] for message in messages]
    users, answers = roles.count("user"), roles.count("assistant")
    questions = row["question_audios"]
    rows = questions[users - 1] if front_ends and users and len(questions) >= users else 0
    ids = padded(prompt_ids(tokenizer, messages, rows, front_ends, decision), length, PAD)
    text_labels = np.full(length, IGNORED, np.int64)
    streams = np.full((CODEBOOKS, length), CODE_PAD, np.int64)
    labels = np.full((CODEBOOKS, length), IGNORED, np.int64)
    turn = last_turn(tokenizer, ids)
    if turn:
        stop = min(turn[1] + len(tokenizer.encode("<|im_end|>\n")), length)
        text_labels[turn[0] : stop] = ids[turn[0] : stop]
        answer = row["answer_audios"][answers - 1] if 0 < answers <= len(row["answer_audios"]) else []
        if answer:
            streams, labels = code_streams(tokenizer, row, answer, ids, turn, decision["use_ref"])
    inputs = np.concatenate([streams, [ids]])
    return inputs[:, :-1], text_labels[1:], labels[:, 1:]


def scheduled_sampling(sample: tuple[np.ndarray, ...], draws: dict[str, np.ndarray]) -> np.ndarray:
    """The inputs of a sample with those replaced whose draw is below the probability."""
    inputs, text_labels, audio_labels = sample
    inputs = inputs.copy()
    spoken = (audio_labels != IGNORED).any(0) & (draws["sched_audio_u"] < np.float32(SAMPLING))
    inputs[:CODEBOOKS, spoken] = draws["sched_audio_codes"][:, spoken]
    said = (text_labels != IGNORED) & (inputs[-1] != IMAGE_ID) & (draws["sched_text_u"] < np.float32(SAMPLING))
    inputs[-1, said] = draws["sched_text_ids"][said]
    return inputs
