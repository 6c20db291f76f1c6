"""Chooses the held-out emoji rows by the sha256 of their concept, without randomness or row numbers.

A concept is a label without gender words and directions, so that a gender variant never leaks a held-out subject.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FAMILIES = ("noto", "fluent", "twemoji")
_GENDER_WORDS = """
man woman person men women people boy girl child adult male female
"""
_GENDER = frozenset(_GENDER_WORDS.split())
_DIRECTION = frozenset(
    ["left", "right", "up", "down", "leftwards", "rightwards", "upwards", "downwards", "left-facing", "right-facing", "facing"]
)
_TWINS = {
    "mermaid": "merperson",
    "merman": "merperson",
    "princess": "prince",
    "santa claus": "claus",
    "mrs. claus": "claus",
    "mx claus": "claus",
    "old man": "older person",
    "old woman": "older person",
}
_MAN = re.compile(r"\b(man|merman)\b")
_WOMAN = re.compile(r"\b(woman|mermaid)\b")


def concept_of(base: str) -> str:
    """Concept of an untoned label: without gender and direction words; "person" or "arrow" if nothing else is left.

    Args:
        base: Label without skin tone, such as "woman walking: facing right".

    Returns:
        Key such as "walking".
    """
    text = _TWINS.get(base.lower(), base.lower())
    words = re.sub(r"[:,]", " ", text).split()
    kept = [word for word in words if word not in _GENDER and not all(part in _DIRECTION for part in word.split("-"))]
    while kept and kept[0] == "and":
        kept = kept[1:]
    return " ".join(kept) or "person"


def gender_of(base: str) -> str:
    """ "man", "woman" or "" for a label that names neither or both."""
    man, woman = bool(_MAN.search(base.lower())), bool(_WOMAN.search(base.lower()))
    return "" if man == woman else "man" if man else "woman"


def concept_digest(rule: str, concept: str) -> int:
    """Integer from the sha256 of a rule's letter and a concept."""
    return int.from_bytes(hashlib.sha256(f"{rule}:{concept}".encode()).digest()[:8], "big")


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out values by rule.

    Args:
        tone: Rule A, base label to the held-out tone 1..5.
        gender: Rule B, concept to the held-out gender.
        family: Rule C, concept to the held-out drawing family.
        concepts: Rule D, held-out concepts.
    """

    tone: Mapping[str, int] = field(default_factory=dict)
    gender: Mapping[str, str] = field(default_factory=dict)
    family: Mapping[str, str] = field(default_factory=dict)
    concepts: frozenset[str] = frozenset()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "HeldOut":
        """Inverse of `to_dict`."""
        return cls(tone=plain["A"], gender=plain["B"], family=plain["C"], concepts=frozenset(plain["D"]))

    def split_of(self, base: str, tone: int, family: str) -> str:
        """Split of one row: the first of D, A, B, C that holds it out, otherwise train."""
        concept = concept_of(base)
        if concept in self.concepts:
            return "D"
        if tone and self.tone.get(base) == tone:
            return "A"
        if concept in self.gender and self.gender[concept] == gender_of(base):
            return "B"
        return "C" if self.family.get(concept) == family else "train"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, sorted."""
        return {
            "A": dict(sorted(self.tone.items())),
            "B": dict(sorted(self.gender.items())),
            "C": dict(sorted(self.family.items())),
            "D": sorted(self.concepts),
        }


def held_out(rows: Iterable[tuple[str, int, str]]) -> HeldOut:
    """Apply the four rules to a whole corpus.

    B leaves out the bare person, since every other role needs the words "a woman". D uses only concepts without skin tones, so that A keeps
    every toned base: each tone and each base is in training, but never the held-out pair.

    Args:
        rows: Base label, tone (0 for none or several) and family of every row.

    Returns:
        The held-out tones, genders, families and concepts.
    """
    tones, genders, families = defaultdict(set), defaultdict(set), defaultdict(set)
    for base, tone, family in rows:
        concept = concept_of(base)
        tones[base].add(tone)
        genders[concept].add(gender_of(base))
        families[concept].add(family)
    toned = {base for base, seen in tones.items() if seen >= {1, 2, 3, 4, 5}}
    roles = {concept for concept, seen in genders.items() if seen >= {"man", "woman"} and concept != "person"}
    with_tones = {concept_of(base) for base, seen in tones.items() if seen != {0}}
    return HeldOut(
        tone={base: concept_digest("A", concept_of(base)) % 5 + 1 for base in toned},
        gender={c: ("man", "woman")[concept_digest("B", c) // 6 % 2] for c in roles if concept_digest("B", c) % 6 == 0},
        family={
            c: FAMILIES[concept_digest("C", c) // 20 % 3]
            for c, seen in families.items()
            if seen == set(FAMILIES) and concept_digest("C", c) % 20 == 0
        },
        concepts=frozenset(c for c in families if c not in with_tones and concept_digest("D", c) % 33 == 0),
    )
