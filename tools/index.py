"""The local index: bm25 over the corpus in an in-memory SQLite FTS5 table, built once per process.

A question names a subject ("What is the currency of Norway?") and a relation. bm25 alone would let a rare word win, or
"Guinea" match Papua New Guinea; so among the best hits those whose subject is named in full, and by the longest name,
come first. When no subject is named, a word that the corpus does not know stands for the one it is spelled most like:
whoever reads a sign in a picture, or types, now and then drops a letter. The query is never FTS5 syntax: its words are
quoted one by one.
"""

import difflib
import re
import sqlite3
import threading
import unicodedata
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from foveate.tools.corpus import Fact, facts

KEYWORDS = {
    "capital": "capital city seat of government",
    "population": "population people inhabitants how many live",
    "area": "area size square kilometres km2 sq km large big surface",
    "currency": "currency money coin pay cash",
    "language": "official language spoken speak",
    "continent": "continent region located lies where part of the world",
    "highest point": "highest point mountain peak tallest elevation",
    "symbol": "chemical symbol abbreviation element",
    "atomic number": "atomic number protons element Z",
    "atomic weight": "atomic weight mass molar relative element",
    "melting point": "melting point melt temperature element",
    "boiling point": "boiling point boil temperature element",
    "density": "density dense element",
    "discovery year": "discovery year discovered found when element",
    "category": "category group series kind type class family of chemical element",
}
FILLERS = (
    "a an and are as at be by did do does for from give has have how i in is it its me much name of on or please tell"
    " than that the their this to used was what which who whose with you"
)
STOP_WORDS = frozenset(FILLERS.split())
SYMBOLS_LIKE_WORDS = frozenset(["As", "At", "Be", "He", "I", "In", "No"])
SYMBOL_LETTERS = 2
MAX_WORDS = 32
CANDIDATES = 40
LEAST_LIKENESS = 0.8
"""Of a word to the one it is taken for, as difflib measures it: twice the letters in common by all letters."""
SHORTEST_GUESSED = 5
"""Letters of a word that may be a misspelling; shorter ones are like too many."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One passage that fits a query."""

    fact: Fact
    score: float
    """bm25 as SQLite gives it: the lower, the better."""


def words_of(text: str) -> list[str]:
    """Words in lower case without accents; "N'Djamena" and "Guinea-Bissau" are two words each, "U.S." is one.

    A genitive's "s" is none: it would be the symbol of sulfur.
    """
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    joined = re.sub(r"\b(?:[a-z]\.){2,}", lambda initials: initials[0].replace(".", ""), bare.lower())
    return re.findall(r"[^\W_]+", re.sub(r"['\u2019]s\b", "", joined))


def telling_words(name: str) -> list[str]:
    """The words of a name without "of" and "the"; all of them when nothing else is left (the symbol He)."""
    words = words_of(name)
    return [word for word in words if word not in STOP_WORDS] or words


def query_words(query: str) -> list[str]:
    """The words of a query that say something, each once; a chemical symbol inside the query stays (As, In, No)."""
    raw = re.findall(r"[^\W_]+", query)
    spelled_out = {word.lower() for word in raw[1:] if word in SYMBOLS_LIKE_WORDS}
    kept = [word for word in words_of(query) if word not in STOP_WORDS or word in spelled_out]
    return list(dict.fromkeys(kept))[:MAX_WORDS]


def pieces_of(query: str) -> set[str]:
    """Words of one or two letters that are no chemical symbols.

    They are parts of other words (Port-au-Prince), or small beside capitals (Pic la Selle).
    """
    inside = {word for token in query.split() for word in words_of(token) if len(words_of(token)) > 1}
    alone = {word for token in query.split() for word in words_of(token) if len(words_of(token)) == 1}
    written = re.findall(r"[^\W_]+", query)
    small = {word for word in written if word.islower() and query.lower() != query}
    large = {word.lower() for word in written if not word.islower()}
    return {word for word in (inside - alone) | (small - large) if len(word) <= SYMBOL_LETTERS}


class Index:
    """A read-only full-text index over facts; safe to use from several threads."""

    def __init__(self, corpus: tuple[Fact, ...]) -> None:
        self.corpus = corpus
        self._names = [[telling_words(name) for name in (fact.subject, *fact.names)] for fact in corpus]
        self._vocabulary = {word for fact in corpus for word in self._written(fact)}
        self._together = {pair for fact in corpus for pair in self._together_in(fact)}
        self._subjects = {tuple(name) for names in self._names for name in names}
        keywords = (words_of(text) for text in KEYWORDS.values())
        self._guessable = sorted({word for words in (*self._subjects, *keywords) for word in words})
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._database.close)
        self._database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(subject, names, keywords, text,"
            ' tokenize = "porter unicode61 remove_diacritics 2")'
        )
        rows = ((f.subject, " ".join(f.names), KEYWORDS[f.relation], f.text) for f in corpus)
        self._database.executemany("INSERT INTO passages VALUES (?, ?, ?, ?)", rows)

    def search(self, query: str, limit: int = 3) -> list[Hit]:
        """The best passages for a query in plain words, best first; empty when no word occurs in the corpus."""
        words = query_words(query)
        if not words:
            return []
        pieces = pieces_of(query) | self._beside(words_of(query))
        if not any(_is_named(name, set(words), pieces) for name in self._subjects):
            words = [self._known(word) for word in words]
        expression = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            rows = self._database.execute(
                "SELECT rowid, bm25(passages, 4.0, 2.0, 3.0, 1.0) AS score FROM passages WHERE passages MATCH ?"
                " ORDER BY score LIMIT ?",
                (expression, CANDIDATES),
            ).fetchall()
        named = set(words)
        ranked = sorted((-self._named_in(rowid - 1, named, pieces), score, rowid - 1) for rowid, score in rows)
        return [Hit(fact=self.corpus[idx], score=score) for _, score, idx in ranked[:limit]]

    def _beside(self, words: Sequence[str]) -> set[str]:
        """Short words that stand beside the same word as in a text about something else (La Soufriere)."""
        return {word for pair in pairwise(words) if pair in self._together for word in pair}

    @staticmethod
    def _together_in(fact: Fact) -> Iterator[tuple[str, str]]:
        """Neighbours of which one could be a symbol, which is not that of the fact's own subject."""
        names = {name for text in (fact.subject, *fact.names) for name in words_of(text)}
        for pair in pairwise(words_of(fact.text)):
            short = [word for word in pair if len(word) <= SYMBOL_LETTERS]
            if len(short) == 1 and names.isdisjoint(short) and STOP_WORDS.isdisjoint(pair):
                yield pair

    @staticmethod
    def _written(fact: Fact) -> Iterator[str]:
        """The words that a fact can be found by."""
        for text in (fact.subject, *fact.names, KEYWORDS[fact.relation], fact.text):
            yield from words_of(text)

    def _known(self, word: str) -> str:
        """The word, or the one of the corpus that it is most like when the corpus does not know it."""
        if word in self._vocabulary or len(word) < SHORTEST_GUESSED:
            return word
        return next(iter(difflib.get_close_matches(word, self._guessable, 1, LEAST_LIKENESS)), word)

    def _named_in(self, idx: int, words: set[str], pieces: set[str]) -> int:
        """Number of words of the longest name of a passage's subject that the query holds in full."""
        return max((len(name) for name in self._names[idx] if _is_named(name, words, pieces)), default=0)


def _is_named(name: Sequence[str], words: set[str], pieces: set[str]) -> bool:
    """Whether all of a name stands in a query; one of a single word not as a piece of another word."""
    return words.issuperset(name) and not (len(name) == 1 and name[0] in pieces)


@cache
def local_index() -> Index:
    """The index over the corpus that ships with Foveate."""
    return Index(facts())
