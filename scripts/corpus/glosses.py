"""From a WordNet meaning to a sentence that reads as an answer: "A heron is a grey or white wading bird with ..."."""

import re
from dataclasses import dataclass

from .english import DETERMINERS, PAIRS, PHRASE_ENDS, SUPERLATIVES, Grammar, article, capitalised
from .wordnet import ANIMAL, LOCATION, PERSON, PLANT, Synset

OFFENSIVE = re.compile(
    r"\b(obscene|vulgar|slur|offensive|disparaging|derogatory|sexual|coitus|copulat\w*|genital\w*|excrement|feces)\b"
)
TAXON = re.compile(
    r"^((type|a|the|one|large|small|former|in some classifications|chiefly|including|monotypic|alternative)\s)*"
    r"\S*\s*\S*\s*(sub|super|infra)?(genus|family|order|class|phylum|kingdom|tribe|genera|families|division)\b"
)
LATIN_RANK = re.compile(
    r"^(genus|family|order|class|phylum|kingdom|subfamily|suborder|subclass|superfamily|tribe) [A-Z]"
)


class Unreadable(Exception):
    """The reason why no sentence was made of a gloss."""


@dataclass
class Entry:
    """A term with its sentence. `name` is the term with its article as it stands in a question ("a heron", "water",
    "to run")."""

    part: str
    term: str
    name: str
    is_plural: bool
    is_person: bool
    is_past: bool
    sentence: str
    synset: Synset


def first_clause(definition: str) -> str:
    """Usage labels and asides in parentheses go, and so does everything behind the first semicolon."""
    text = definition
    while True:
        shorter = re.sub(r"\s*\([^()]*\)", " ", text)
        if shorter == text:
            break
        text = shorter
    text = re.split(r"[;:]|--|\s-\s", text.strip(" ;,:"))[0]
    text = re.sub(r"`([^`']*)'", r'"\1"', text)
    return re.sub(r"\s+", " ", re.sub(r"\s+([,.])", r"\1", text)).strip(" ,.").replace("_", " ")


def check_clause(clause: str, definition: str) -> None:
    if not clause:
        raise Unreadable("nothing left outside parentheses")
    if OFFENSIVE.search(definition):
        raise Unreadable("coarse")
    if re.search(r"[()\[\]{}`|=<>/*]|\.\.|\. ", clause.replace("e.g.", "").replace("i.e.", "")):
        raise Unreadable("symbols or an unbalanced bracket")
    if clause.count('"') % 2:
        raise Unreadable("unbalanced quotation marks")
    if not clause.isascii():
        raise Unreadable("not ASCII")
    if len(clause) > 180:
        raise Unreadable("longer than 180 characters")


def noun_clause(grammar: Grammar, clause: str, term_is_plural: bool) -> tuple[str, bool]:
    """The gloss with the article it lacks, and whether it is about several things."""
    first = clause.split()[0]
    if first.lower() in DETERMINERS:
        return clause, False
    gerund = first.endswith("ing") and clause.split()[1:2] and clause.split()[1] in DETERMINERS | PHRASE_ENDS
    if first.lower() == "part" or gerund:
        return clause, False
    head = grammar.head(clause)
    if head is None:
        raise Unreadable("no head noun found in the gloss")
    if SUPERLATIVES.match(first.lower()):
        return "the " + clause, False
    if grammar.singular(head):
        if head == first.lower() and grammar.is_mainly_verb(grammar.singular(head)):
            raise Unreadable("the gloss begins with a verb")
        return clause, True
    if first.endswith("'s") or term_is_plural:
        return clause, False
    return (f"{article(clause)} {clause}" if grammar.is_countable(head) else clause), False


def noun_entry(grammar: Grammar, synset: Synset, term: str) -> Entry:
    clause = first_clause(synset.definition)
    check_clause(clause, synset.definition)
    if synset.lexfile in (ANIMAL, PLANT):
        latin_binomial = re.match(r"^[A-Z][a-z]+ [a-z]+$", term) and synset.words.index(term) > 0
        if latin_binomial or any(LATIN_RANK.match(word) for word in synset.words) or TAXON.match(clause):
            raise Unreadable("Latin name of a taxon")
    is_person = synset.lexfile == PERSON and synset.is_instance
    if is_person and " " not in term:
        raise Unreadable("surname without a first name")
    is_plural = term.lower() in PAIRS or (
        not synset.is_instance
        and synset.lexfile != LOCATION
        and bool(grammar.singular(term.split()[-1]))
        and not re.match(r"(a|an) ", clause)
    )
    clause, gloss_is_plural = noun_clause(grammar, clause, is_plural)
    if gloss_is_plural and len(clause.split()) == 1:
        raise Unreadable("the gloss is a bare plural")
    if clause.split()[0] in ("the", "that", "it") and len(clause.split()) < 3:
        raise Unreadable("fewer than three words")
    is_past = is_person and "born" not in synset.definition
    proper = synset.is_instance or (term[0].isupper() and synset.lexfile not in (ANIMAL, PLANT, PERSON))
    if proper or is_plural or not grammar.is_countable(term, synset.lexfile):
        name = term
    else:
        name = f"{article(term)} {term}"
    if (
        proper
        and synset.lexfile == LOCATION
        and is_person is False
        and re.search(r"(Islands|States|Sea|Ocean|River|Alps|Mountains)$", term)
    ):
        name = "the " + term
    verb = "was" if is_past else "are" if is_plural else "is"
    if gloss_is_plural and not is_plural:
        verb = "is a name for" if name != term else "means"
    return Entry("noun", term, name, is_plural, is_person, is_past, f"{capitalised(name)} {verb} {clause}.", synset)


def verb_entry(synset: Synset, term: str) -> Entry:
    clause = re.sub(r"^to ", "", first_clause(synset.definition))
    check_clause(clause, synset.definition)
    if clause == term:
        raise Unreadable("defined by itself")
    return Entry("verb", term, f"to {term}", False, False, False, f"To {term} means to {clause}.", synset)


def modifier_entry(part: str, synset: Synset, term: str) -> Entry:
    clause = first_clause(synset.definition)
    check_clause(clause, synset.definition)
    if clause.lower() == term.lower():
        raise Unreadable("defined by itself")
    return Entry(part, term, term, False, False, False, f'The word "{term}" means {clause}.', synset)


def make_entry(grammar: Grammar, synset: Synset, term: str) -> Entry:
    """Raises Unreadable with the reason where no good sentence can be made."""
    if not re.match(r"^[A-Za-z][A-Za-z' -]*$", term):
        raise Unreadable("the term holds digits or symbols")
    if synset.part == "noun":
        return noun_entry(grammar, synset, term)
    if synset.part == "verb":
        return verb_entry(synset, term)
    return modifier_entry(synset.part, synset, term)


def example_sentences(synset: Synset) -> list[str]:
    """Those of the examples that are sentences (five words or more), with capital and full stop."""
    sentences = []
    for example in synset.examples:
        text = re.sub(r"`([^`']*)'", r'"\1"', re.sub(r"\s+", " ", example)).strip(" ;,")
        if len(text.split()) < 5 or not text.isascii() or re.search(r"[()\[\]`_/]|\.\.", text) or text.count('"') % 2:
            continue
        if OFFENSIVE.search(text):
            continue
        sentences.append(capitalised(text) + ("" if text[-1] in ".!?\"'" else "."))
    return sentences
