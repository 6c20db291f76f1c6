"""Turns an emoji's label, skin tone, style and tags into English captions: the canonical one first, then alternatives."""

import hashlib
import re
from collections.abc import Sequence

TONES = ("", "light", "medium-light", "medium", "medium-dark", "dark")
_TONE = re.compile(r"(medium-light|medium-dark|light|medium|dark) skin tone")
_PREPOSITIONS = re.compile(
    r"\b(with|without|of|in|on|at|to|for|behind|over|showing|facing|holding|wearing|fluttering|tilted|and|curving|pointed)\b"
)
_BARE_FIRST_WORDS = """
people men women french two hundred santa mrs. mx statue mount tokyo no litter potable clinking pouring ping ginger
"""
_BARE_FIRST = frozenset(_BARE_FIRST_WORDS.split())
_BARE_ALONE_WORDS = """
camping cooking construction sunrise sunset fog foggy information lightning wood ice salt butter bacon bread rice broccoli
garlic popcorn spaghetti sushi oden sake mate confetti aries taurus gemini cancer leo virgo libra scorpio sagittarius
capricorn aquarius pisces ophiuchus om khanda cinema infinity plus minus multiply divide customs kaaba moai zzz coral
badminton tennis bowling lacrosse softball volleyball basketball baseball wireless dna soap dizzy locked unlocked star-struck
radioactive prohibited luggage skis registered copyright yarn thread
"""
_BARE_ALONE = frozenset(_BARE_ALONE_WORDS.split())
_SINGULAR_S_WORDS = """
cactus lotus hibiscus bus trolleybus minibus compass walrus platypus octopus virus dress canvas asparagus cross
"""
_SINGULAR_S = frozenset(_SINGULAR_S_WORDS.split())
_PERSONS = frozenset(["man", "woman", "person"])
_BARE_NOUN = re.compile(
    r"\b(in|with|wearing|bouncing|raising|tipping|feeding|rowing|getting|taking) "
    r"((?:white cane|lotus position|manual wheelchair|motorized wheelchair|steamy room)\b"
    r"|(?:tuxedo|veil|headscarf|crown|skullcap|turban|ball|hand|baby|boat|haircut|massage|bath|suit)\b)"
)
_WORDED = {"breast-feeding": "woman breast-feeding"}
_AN_ANYWAY = ("hour", "honest", "x-ray", "8")
_A_ANYWAY = ("uni", "one", "eu", "use", "united", "u.")


def natural(label: str) -> str:
    """A label as running text without its skin tones, lower case.

    Args:
        label: English label such as "woman: blond hair" or "flag: France".

    Returns:
        Text such as "woman with blond hair" or "flag of france".
    """
    text = label.lower().replace("’", "'").replace("“", '"').replace("”", '"')
    head, _, rest = text.partition(": ")
    head = f"clock showing {head}" if head.endswith(("o'clock", "-thirty")) else _WORDED.get(head, head)
    if head.split()[0] in _PERSONS:
        head = _BARE_NOUN.sub(r"\1 a \2", head)
    parts = [part for part in rest.split(", ") if part and not _TONE.fullmatch(part)]
    return _joined(head, parts) if parts else head


def _joined(head: str, parts: list[str]) -> str:
    """The words before and after a label's colon as one phrase."""
    if parts == ["bald"]:
        return f"bald {head}"
    if parts[0].startswith("facing") or head == "keycap":
        return f"{head} {parts[0]}"
    if parts == ["beard"]:
        return f"{head} with a beard"
    if head == "flag":
        return f"flag of {', '.join(parts)}"
    if head not in ("family", "kiss", "couple with heart"):
        return f"{head} with {' and '.join(parts)}"
    members = [with_article(part) for part in parts]
    return f"{head} of {' and '.join(filter(None, [', '.join(members[:-1]), members[-1]]))}"


def tone_phrase(label: str) -> str:
    """ " with dark skin", " and dark skin" after hair, " with dark and light skin" for two people of two tones, or nothing."""
    tones = _TONE.findall(label)
    word = "and" if re.search(r" (hair|beard)\b", label) else "with"
    return f" {word} {' and '.join(tones)} skin" if tones and ":" in label else ""


def with_article(text: str) -> str:
    """The text with "a", "an" or "the" where English needs it; plurals and names have none."""
    head = _PREPOSITIONS.split(text, maxsplit=1)[0].split() or text.split()
    last = head[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is")) and last not in _SINGULAR_S and head[0] not in _PERSONS
    if text.startswith("flag of "):
        return f"the {text}"
    bare = head[0] in _BARE_FIRST or (len(head) == 1 and last in _BARE_ALONE) or head == ["ice", "cream"]
    if bare or (plural and not text.startswith("regional")) or "thumbs" in head or "palms" in head:
        return text
    vowel = text.startswith(_AN_ANYWAY) or (text[0] in "aeiou" and not text.startswith(_A_ANYWAY))
    return f"{'an' if vowel else 'a'} {text}"


def shuffled_tags(tags: Sequence[str], key: str) -> list[str]:
    """Tags in an order that depends only on the key."""
    return sorted(tags, key=lambda tag: hashlib.sha256(f"{key}:{tag}".encode()).hexdigest())


def captions(label: str, style: str, tags: Sequence[str], key: str) -> list[str]:
    """Captions of one image, canonical first.

    Args:
        label: English label, skin tone included.
        style: Name of the drawing style.
        tags: Keywords; those that are already in the label are left out.
        key: Key of the row; it alone decides which tags are appended.

    Returns:
        Five captions, six if a tag is left: canonical, without style, style first, bare label, tags after, tags before.
    """
    bare = natural(label) + tone_phrase(label)
    full, styled = with_article(bare), f"{style} style"
    texts = [f"{full}, {styled}", full, f"{styled} {full}", bare, f"{bare}, {styled}"]
    words = set(re.findall(r"[\w-]+", bare))
    extra = shuffled_tags([tag.lower() for tag in tags if not set(tag.lower().split()) <= words], key)
    if extra:
        texts += [f"{full}, {styled}, {', '.join(extra[:2])}", f"{', '.join(extra[-2:])}, {full}, {styled}"]
    return list(dict.fromkeys(texts))
