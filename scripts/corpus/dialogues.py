"""Reader of the chatterbot-corpus dialogues (BSD-3): YAML files of the plain form `conversations: - - question / -
answer`."""

import importlib.util
import re
from pathlib import Path


def find_folder(given: str | None) -> Path | None:
    """The folder of the English dialogues: the given one, or that of the installed package, or None."""
    if given:
        base = Path(given)
        folder = next((f for f in (base / "data" / "english", base / "english", base) if list(f.glob("*.yml"))), None)
        if folder is None:
            raise FileNotFoundError(
                f"{given}: expected the YAML files of chatterbot-corpus (data/english/*.yml), found none"
            )
        return folder
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "english"
    return folder if folder.is_dir() else None


def scalar(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].replace("''", "'") if text[0] == "'" else text[1:-1].replace('\\"', '"')
    return re.sub(r"\s+", " ", text).strip()


def parse(path: Path) -> list[list[str]]:
    """The conversations of one file, each a list of utterances."""
    conversations: list[list[str]] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("conversations:"):
            inside = True
        elif inside and re.match(r"\s*- - ?", line):
            conversations.append([re.sub(r"^\s*- - ?", "", line)])
        elif inside and conversations and re.match(r"\s+- ?", line):
            conversations[-1].append(re.sub(r"^\s+- ?", "", line))
        elif inside and conversations and line.strip():
            conversations[-1][-1] += " " + line.strip()
    return [[scalar(text) for text in conversation] for conversation in conversations]


def load(folder: Path, names: str = "*.yml") -> list[list[str]]:
    """Conversations with an even number of utterances, user first; very long or empty ones are left out."""
    result = []
    for path in sorted(folder.glob(names)):
        for turns in parse(path):
            turns = turns[: len(turns) // 2 * 2]
            if turns and all(0 < len(text) <= 400 and text.isascii() for text in turns):
                result.append(turns)
    return result
