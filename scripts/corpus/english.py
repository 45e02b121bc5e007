"""The little English grammar that turns dictionary glosses into sentences: articles, countability, heads of noun
phrases."""

import re
from collections import Counter

from .wordnet import (
    ANIMAL,
    ARTIFACT,
    ATTRIBUTE,
    BODY,
    COGNITION,
    FEELING,
    FOOD,
    GROUP,
    LOCATION,
    OBJECT,
    PERSON,
    PHENOMENON,
    PLANT,
    PROCESS,
    SHAPE,
    STATE,
    SUBSTANCE,
    WordNet,
)

DETERMINERS = set(
    """a an the any one some something someone somebody anyone anybody anything either each all both several those that
    what whatever whoever every everything his her its their two three four five six seven eight nine ten most many
    another no nothing none few this these it""".split()
)
# The first of these after the head noun ends a noun phrase's core.
PHRASE_ENDS = set(
    """of with in for from on that which who whose whom having used to by at where when while consisting made containing
    found between into through over under above below near without within along around against after before during upon
    about across behind beneath beside beyond inside outside toward towards onto off up down out as like than such
    including resembling formed caused produced worn held given grown lying being belonging related similar native
    characterized especially usually often sometimes originally formerly now believed considered based but so if
    is are was were has have had can may might will would should does do not living growing occurring typically chiefly
    commonly mostly mainly primarily generally especially designed noted intended widely""".split()
)
SUPERLATIVES = re.compile(
    r"^(first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|last|only|same|main|upper|lower|"
    r"largest|smallest|highest|lowest|longest|oldest|best|worst|most|least|outermost|innermost|act|branch|capital)$"
)
COUNT_LEXFILES = {ANIMAL, ARTIFACT, BODY, GROUP, LOCATION, OBJECT, PERSON, PLANT, SHAPE}
MASS_LEXFILES = {ATTRIBUTE, COGNITION, FEELING, FOOD, PHENOMENON, PROCESS, STATE, SUBSTANCE}
PAIRS = {"scissors", "trousers", "pants", "pliers", "tongs", "shears", "jeans", "shorts", "spectacles", "binoculars"}

WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def article(phrase: str) -> str:
    """a or an, by the sound of the first word."""
    word = phrase.split()[0] if phrase.split() else phrase
    low = word.lower()
    if re.match(r"(hour|honest|honou?r|heir)", low):
        return "an"
    if re.match(r"(eu|ewe|one|once|ubiq|ur[aeio]|use|usu|ut[aei]|uni(?!m|n|d)|united|union|unit)", low):
        return "a"
    if re.match(r"[A-Z]{2,}|[A-Z]-", word):
        return "an" if word[0] in "AEFHILMNORSX" else "a"
    return "an" if low[:1] in "aeiou" or re.match(r"(8|11|18)", low) else "a"


def plural(noun: str) -> str:
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


class Grammar:
    """What WordNet's own definitions and examples tell about its nouns: which of them take an article."""

    def __init__(self, wordnet: WordNet) -> None:
        self.wordnet = wordnet
        self.with_article: Counter[str] = Counter()
        self.bare: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        for part in wordnet.synsets.values():
            for synset in part.values():
                for text in (synset.definition, *synset.examples):
                    self._count(WORD.findall(text.lower()))

    def _count(self, words: list[str]) -> None:
        self.seen.update(words)
        for before, word, after in zip(["", *words], words, [*words[1:], "of"]):
            ends = after in PHRASE_ENDS or after in ("and", "or")
            if before in ("a", "an", "another", "each", "every"):
                self.with_article[word] += ends
            elif before in ("of", "with", "from", "in", "by", "into", "some", "much", "is", "produces", "contains"):
                self.bare[word] += ends

    def is_noun(self, word: str) -> bool:
        return word.lower() in self.wordnet.senses["noun"]

    def is_mainly_verb(self, word: str) -> bool:
        return word in self.wordnet.senses["verb"] and self.wordnet.main_part(word) == "verb"

    def singular(self, word: str) -> str | None:
        """The singular of a plural noun, or None where the word is no plural."""
        low = word.lower()
        if low in ("men", "women", "people", "mice", "feet", "teeth", "geese", "children", "leaves", "cattle"):
            return {"people": "person", "leaves": "leaf", "cattle": "cow"}.get(low, low)
        if len(low) < 4 or not low.endswith("s") or re.search(r"(ss|us|is|ics)$", low):
            return None
        candidates = [low[:-1]]
        if low.endswith("ies"):
            candidates.insert(0, low[:-3] + "y")
        if low.endswith("es"):
            candidates.append(low[:-2])
        if low.endswith("ves"):
            candidates += [low[:-3] + "f", low[:-3] + "fe"]
        return next((candidate for candidate in candidates if self.is_noun(candidate)), None)

    def is_countable(self, noun: str, lexfile: int | None = None) -> bool:
        """By use in WordNet's texts, the kind of thing it is counting as a few more observations; compounds by their
        last word."""
        word = noun.lower().split()[-1]
        if lexfile is None:
            synset = self.wordnet.first_sense("noun", word)
            lexfile = synset.lexfile if synset else ARTIFACT
        yes, no = self.with_article[word] + 0.7 * self.seen[plural(word)], float(self.bare[word])
        if lexfile in COUNT_LEXFILES:
            yes += 8 if lexfile in (ANIMAL, PERSON) else 2
        elif lexfile in MASS_LEXFILES:
            no += 2
        else:
            yes += 0.5
        if re.search(r"(ness|ity|ism|ing|ics|ship|hood)$", word) and lexfile not in COUNT_LEXFILES:
            no += 2
        return yes > no

    def head(self, phrase: str) -> str | None:
        """The head noun of a bare noun phrase: the last noun before the first preposition, participle or
        punctuation."""
        words = []
        for token in phrase.split():
            word = token.strip(",;:()'`")
            if words and word.lower() in PHRASE_ENDS:
                break
            after_noun = words and words[-1] not in ("and", "or") and self.is_noun(words[-1])
            if after_noun and re.search(r"(ed|ing)$", word) and not self.is_noun(word):
                break
            words.append(word)
            if token[-1:] in ";:" or (token[-1:] == "," and self._ends_noun(word)):
                break
        last = words[-1] if words else ""
        return last if last and (self.is_noun(last) or self.singular(last)) else None

    def _ends_noun(self, word: str) -> bool:
        """A comma after a word that is mainly a noun closes the phrase ("bread, cheese"); after an adjective it does
        not."""
        low = word.lower()
        return self.is_noun(low) and low not in self.wordnet.senses["adj"]
