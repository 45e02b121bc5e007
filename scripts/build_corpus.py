#!/usr/bin/env python3
"""Build a small English training corpus from WordNet 3.0 (Debian package wordnet-base) and, where present,
chatterbot-corpus.

Written to the output folder:
  pretrain.jsonl             {"text": ...}: a definition and its example sentences per line
  sft.jsonl                  {"conversations": [...]}: questions about words, in several phrasings, and dialogues
  quickstart_pretrain.jsonl  the same for a few hundred common concrete nouns, which a small model can learn in minutes
  quickstart_sft.jsonl
  eval.jsonl                 five questions of quickstart_sft.jsonl with the answers expected

Only the standard library is used. The same input and seed give the same bytes.

  apt-get install wordnet-base && scripts/build_corpus.py --output data/corpus
  scripts/build_corpus.py --output data/corpus --chatterbot ~/chatterbot_corpus --nouns 500
"""

import argparse
import json
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path

from corpus import dialogues, wordnet
from corpus.english import Grammar, capitalised
from corpus.glosses import Entry, Unreadable, example_sentences, make_entry

# Share of the quickstart nouns by kind.
QUICKSTART_SHARES = {
    wordnet.ANIMAL: 0.30,
    wordnet.FOOD: 0.16,
    wordnet.ARTIFACT: 0.22,
    wordnet.PLANT: 0.12,
    wordnet.BODY: 0.10,
    wordnet.OBJECT: 0.06,
    wordnet.PHENOMENON: 0.04,
}
EVALUATION = {"heron": 0, "knife": 1, "elephant": 2, "apple": 0, "cheese": 3}  # noun -> index of its phrasing


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_lines(path: Path, rows: list[dict]) -> None:
    """Atomic: a reader sees the old file or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    note(f"{path}: {len(rows):,} lines, {path.stat().st_size / 1e6:.2f} MB")


def conversation(*turns: str) -> dict:
    roles = ("user", "assistant")
    return {"conversations": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def phrasings(entry: Entry, is_main_part: bool) -> list[str]:
    """Questions that the entry answers. The last ones name the word alone, so only its main part of speech may use
    them."""
    if entry.part == "verb":
        return [
            f"What does it mean {entry.name}?",
            f"Explain what it means {entry.name}.",
            f'What is the meaning of the verb "{entry.term}"?',
        ]
    if entry.part != "noun":
        kind = "adjective" if entry.part == "adj" else "adverb"
        own = [f'What does the {kind} "{entry.term}" mean?', f'Explain the {kind} "{entry.term}".']
        return own + ([f"What does {entry.term} mean?"] if is_main_part else [])
    if entry.is_person:
        verb = "was" if entry.is_past else "is"
        return [
            f"Who {verb} {entry.name}?",
            f"Tell me who {entry.name} {verb}.",
            f"Who {verb} {entry.name}, in one sentence?",
        ]
    verb = "are" if entry.is_plural else "is"
    own = [f"What {verb} {entry.name}?", f"Tell me what {entry.name} {verb}.", f"Do you know what {entry.name} {verb}?"]
    return own + ([f"Can you explain the word {entry.term}?"] if is_main_part else [])


def make_entries(net: wordnet.WordNet, grammar: Grammar) -> tuple[dict[tuple[str, str], Entry], Counter[str]]:
    """(part, lemma) -> entry of its first sense."""
    entries, dropped = {}, Counter()
    for part in wordnet.PARTS:
        for lemma in net.senses[part]:
            synset = net.first_sense(part, lemma)
            spelling = next((word for word in synset.words if word.lower() == lemma), lemma)
            try:
                entries[part, lemma] = make_entry(grammar, synset, spelling)
            except Unreadable as reason:
                dropped[f"{part}: {reason}"] += 1
        note(f"{part}: {len(net.senses[part]):,} words read")
    return entries, dropped


def pretrain_rows(net: wordnet.WordNet, grammar: Grammar, generator: random.Random) -> list[dict]:
    """A line per meaning: its sentence, now and then a synonym, and its examples."""
    rows = []
    for part in net.synsets.values():
        for synset in part.values():
            try:
                sentences = [make_entry(grammar, synset, synset.words[0]).sentence]
            except Unreadable:
                sentences = []
            if sentences and len(synset.words) > 1 and generator.random() < 0.5:
                sentences.append(f'Another word for "{synset.words[0]}" is "{synset.words[1]}".')
            sentences += example_sentences(synset)
            if sentences:
                rows.append({"text": " ".join(sentences)})
    generator.shuffle(rows)
    return rows


def sft_rows(net: wordnet.WordNet, entries: dict, chats: list[list[str]], generator: random.Random) -> list[dict]:
    rows = []
    for (part, lemma), entry in entries.items():
        questions = phrasings(entry, net.main_part(lemma) == part)
        rows += [conversation(question, entry.sentence) for question in generator.sample(questions, 2)]
        others = [word for word in entry.synset.words if word.lower() != lemma]
        if others and part == net.main_part(lemma) and generator.random() < 0.25:
            answer = f'Another word for "{entry.term}" is "{others[0]}".'
            rows.append(conversation(f"What is another word for {entry.term}?", answer))
    rows += [conversation(*turns) for turns in chats]
    generator.shuffle(rows)
    return rows


def quickstart_entries(net: wordnet.WordNet, entries: dict, count: int) -> list[Entry]:
    """The most used short concrete nouns of each kind; the evaluation's nouns come first."""

    def fits(lemma: str, entry: Entry, kind: int) -> bool:
        synset = entry.synset
        return (
            synset.lexfile == kind
            and lemma.isalpha()
            and entry.term.islower()
            and not entry.is_plural
            and 5 <= len(entry.sentence.split()) <= 18
            and len(entry.sentence) <= 110
            and not re.search(r" (means|is a name for) ", entry.sentence)
            and not lemma.endswith("s")
            and all(
                word.islower() for offset in net.senses["noun"][lemma] for word in net.synsets["noun"][offset].words
            )
            and net.main_part(lemma) == "noun"
        )

    chosen: dict[str, Entry] = {}
    for noun in EVALUATION:
        if ("noun", noun) not in entries:
            raise RuntimeError(f"WordNet: expected a readable first sense of the noun {noun!r}, found none")
        chosen[noun] = entries["noun", noun]
    used_synsets = {entry.synset.offset for entry in chosen.values()}
    for kind, share in QUICKSTART_SHARES.items():
        pool = [
            (lemma, entry) for (part, lemma), entry in entries.items() if part == "noun" and fits(lemma, entry, kind)
        ]
        pool.sort(key=lambda item: (-net.use_count.get(("noun", item[0]), 0), len(item[0]), item[0]))
        wanted = round(count * share)
        for lemma, entry in pool:
            if wanted == 0:
                break
            if entry.synset.offset not in used_synsets:
                chosen[lemma] = entry
                used_synsets.add(entry.synset.offset)
                wanted -= 1
    return list(chosen.values())


def quickstart_rows(
    entries: list[Entry], greetings: list[list[str]], generator: random.Random
) -> tuple[list, list, list]:
    """Pretraining lines, conversations (every noun in every phrasing), evaluation questions."""
    pretrain = [{"text": " ".join([entry.sentence, *example_sentences(entry.synset)[:1]])} for entry in entries]
    sft = [conversation(question, entry.sentence) for entry in entries for question in phrasings(entry, True)]
    evaluation = []
    for entry in entries:
        if entry.term in EVALUATION:
            evaluation.append(conversation(phrasings(entry, True)[EVALUATION[entry.term]], entry.sentence))
    sft += [conversation(*turns) for turns in greetings]
    generator.shuffle(pretrain)
    generator.shuffle(sft)
    return pretrain, sft, evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the files; made if missing"
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--chatterbot", metavar="DIR", help="folder of chatterbot-corpus; default: the installed package, if any"
    )
    parser.add_argument("--nouns", type=int, default=300, help="nouns in the quickstart files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    options = parser.parse_args()
    if not (options.wordnet / "data.noun").is_file():
        parser.error(f"{options.wordnet}/data.noun not found: apt-get install wordnet-base, or give --wordnet DIR")

    net = wordnet.WordNet(options.wordnet)
    note("counting articles")
    grammar = Grammar(net)
    entries, dropped = make_entries(net, grammar)
    folder = dialogues.find_folder(options.chatterbot)
    chats = dialogues.load(folder) if folder else []
    greetings = dialogues.load(folder, "greetings.yml") if folder else []

    options.output.mkdir(parents=True, exist_ok=True)
    write_lines(options.output / "pretrain.jsonl", pretrain_rows(net, grammar, random.Random(options.seed)))
    write_lines(options.output / "sft.jsonl", sft_rows(net, entries, chats, random.Random(options.seed + 1)))
    chosen = quickstart_entries(net, entries, options.nouns)
    pretrain, sft, evaluation = quickstart_rows(chosen, greetings, random.Random(options.seed + 2))
    write_lines(options.output / "quickstart_pretrain.jsonl", pretrain)
    write_lines(options.output / "quickstart_sft.jsonl", sft)
    write_lines(options.output / "eval.jsonl", evaluation)

    print(f"words with a sentence: {len(entries):,}; dropped: {sum(dropped.values()):,}")
    for reason, count in dropped.most_common():
        print(f"  {count:7,}  {reason}")
    print(f"dialogues: {len(chats):,} from {folder or 'nowhere (chatterbot-corpus not found)'}")
    print(f"quickstart nouns: {len(chosen):,}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"build_corpus.py: {error}")
