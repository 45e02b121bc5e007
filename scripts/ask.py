#!/usr/bin/env python3
"""Asks a model the questions of a conversations file and prints its answers beside the gold ones.

    python3 scripts/ask.py data/eval.jsonl --model out/quickstart/sft/model
"""

import argparse
import json
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", help="JSON lines of conversations: a question and its gold answer each")
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--chat", default="build/release/bin/chat", help="the chat program")
    options = parser.parse_args()
    same = count = 0
    with open(options.questions, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                question, gold = (message["content"] for message in json.loads(line)["conversations"][-2:])
            except (ValueError, KeyError, TypeError) as error:
                sys.exit(
                    f"{options.questions}:{number}: expected a conversation with a question and an answer ({error})"
                )
            done = subprocess.run(
                [options.chat, "--model", options.model, "--greedy", "--max-new-tokens", "80", "--prompt", question],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            answer = done.stdout.strip()
            same += answer == gold
            count += 1
            print(f"question  {question}\n  model   {answer}\n  gold    {gold}\n")
    print(f"{same} of {count} answers equal the gold answer to the letter")


if __name__ == "__main__":
    main()
