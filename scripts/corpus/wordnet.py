"""Reader of the WordNet 3.0 database files (format: man page wndb(5WN))."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

PARTS = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}

# Numbers of the lexicographer files that the corpus treats in a special way (lexnames(5WN)).
ANIMAL, ARTIFACT, ATTRIBUTE, BODY, COGNITION = 5, 6, 7, 8, 9
FEELING, FOOD, GROUP, LOCATION = 12, 13, 14, 15
OBJECT, PERSON, PHENOMENON, PLANT = 17, 18, 19, 20
PROCESS, SHAPE, STATE, SUBSTANCE, TIME = 22, 25, 26, 27, 28


@dataclass
class Synset:
    """One meaning: the words that share it, its definition and its example sentences."""

    part: str
    offset: str
    lexfile: int
    words: list[str]
    definition: str
    examples: list[str]
    is_instance: bool  # a particular thing (Paris) and not a kind of things (city)
    hypernyms: list[str] = field(default_factory=list)


def split_gloss(gloss: str) -> tuple[str, list[str]]:
    """The definition and the quoted examples behind it; attributions after an example are dropped."""
    definition, *rest = gloss.split('"')
    return definition.strip().rstrip(";,:").strip(), [text.strip() for text in rest[0::2] if text.strip()]


def parse_synset(part: str, line: str, where: str) -> Synset:
    try:
        head, gloss = line.rstrip().split(" | ", 1)
        fields = head.split()
        count = int(fields[3], 16)
        # A syntactic marker such as "(p)" may follow an adjective.
        words = [word.split("(")[0].replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
        at = 4 + 2 * count
        pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
        definition, examples = split_gloss(gloss)
        return Synset(
            part,
            fields[0],
            int(fields[1]),
            words,
            definition,
            examples,
            is_instance=any(pointer[0] == "@i" for pointer in pointers),
            hypernyms=[pointer[1] for pointer in pointers if pointer[0] in ("@", "@i")],
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"{where}: expected a synset line as in wndb(5WN), found {line[:60]!r} ({error})") from error


class WordNet:
    """synsets[part][offset]; senses[part][lemma] lists offsets, the most usual sense first; use counts from tagged
    text."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, dict[str, Synset]] = {}
        self.senses: dict[str, dict[str, list[str]]] = {}
        for part in PARTS:
            self.synsets[part] = self._read_data(folder / f"data.{part}", part)
            self.senses[part] = self._read_index(folder / f"index.{part}")
        self.use_count = self._read_counts(folder / "cntlist.rev")

    @staticmethod
    def _lines(path: Path):
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.startswith("  "):  # the licence
                    yield f"{path}:{number}", line

    def _read_data(self, path: Path, part: str) -> dict[str, Synset]:
        synsets = (parse_synset(part, line, where) for where, line in self._lines(path))
        return {synset.offset: synset for synset in synsets}

    def _read_index(self, path: Path) -> dict[str, list[str]]:
        senses = {}
        for where, line in self._lines(path):
            fields = line.split()
            try:
                senses[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
            except (ValueError, IndexError) as error:
                raise ValueError(f"{where}: expected an index line as in wndb(5WN), found {line[:60]!r}") from error
        return senses

    def _read_counts(self, path: Path) -> dict[tuple[str, str], int]:
        """(part, lemma) -> how often its first sense was tagged in running text."""
        part_of = {number: part for part, number in PARTS.items()} | {"5": "adj"}
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for _, line in self._lines(path):
            key, sense, count = line.split()
            lemma, _, tail = key.partition("%")
            if sense == "1" and tail[:1] in part_of:
                counts[part_of[tail[0]], lemma.replace("_", " ")] += int(count)
        return counts

    def first_sense(self, part: str, lemma: str) -> Synset | None:
        """The most usual sense; a kind of things (a heron) goes before a namesake (the mathematician Heron)."""
        senses = [self.synsets[part][offset] for offset in self.senses[part].get(lemma, [])]
        return next((synset for synset in senses if lemma in synset.words), senses[0] if senses else None)

    def main_part(self, lemma: str) -> str:
        """The part of speech in which the word is used most."""
        known = [part for part in PARTS if lemma in self.senses[part]]
        return max(known, key=lambda part: self.use_count.get((part, lemma), 0))
