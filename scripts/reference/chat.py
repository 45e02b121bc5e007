"""Tokenizer and chat template as Python users of the model directory see them (libraries tokenizers and jinja2)."""

import json
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer


class ChatTokenizer:
    """The tokenizer.json and tokenizer_config.json of a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self.template = environment.from_string(config["chat_template"])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special)

    def render(self, messages: list[dict], tools=None, add_generation_prompt=False, open_thinking=False) -> str:
        return self.template.render(
            messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, open_thinking=open_thinking
        )
