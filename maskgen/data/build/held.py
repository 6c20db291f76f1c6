"""What the samples of a build hold, in words: how many a text, a picture, a sound, which together, and which are unlike the rest."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from maskgen.data.build.job import FIRST_KEYS
from maskgen.data.shards.manifest import Held

NAMES = {"text": "text", "image": "picture", "audio": "sound"}


def held_summary(held: Iterable[Held]) -> str:
    """How many samples hold each kind of media, and which kinds together; empty if nothing is known."""
    together: Counter[tuple[str, ...]] = Counter()
    for one in held:
        together[one.kinds] += one.count
    if not together:
        return ""
    single = (f"{sum(count for kinds, count in together.items() if kind in kinds)} hold a {name}" for kind, name in NAMES.items())
    combined = (f"{count} {_words(kinds)}" for kinds, count in sorted(together.items(), key=lambda pair: (-pair[1], pair[0])))
    return f"of {together.total()} samples {', '.join(single)}; together: {', '.join(combined)}"


def bucket_summary(buckets: Iterable[Mapping[str, int]]) -> str:
    """How many images each bucket has, the fullest first; empty for a build without buckets."""
    total: Counter[str] = Counter()
    for one in buckets:
        total.update(one)
    each = ", ".join(f"{count} of {size}" for size, count in sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))
    return f"{total.total()} images in {len(total)} buckets: {each}" if total else ""


def odd_ones(held: Iterable[Held]) -> Iterator[str]:
    """One sentence for the samples of each source that hold other media than most samples of it."""
    sources: dict[str, dict[tuple[str, ...], list[Held]]] = {}
    for one in held:
        sources.setdefault(one.source, {}).setdefault(one.kinds, []).append(one)
    for source, kinds in sorted(sources.items()):
        counts = {found: sum(one.count for one in parts) for found, parts in kinds.items()}
        usual = max(sorted(counts), key=lambda found: counts[found])
        for found in sorted(set(counts) - {usual}):
            keys = sorted(key for one in kinds[found] for key in one.first)[:FIRST_KEYS]
            more = ", ..." if counts[found] > len(keys) else ""
            total = sum(counts.values())
            yield (
                f"{source or 'the source'}: {counts[found]} of {total} samples hold {_words(found)}, where {counts[usual]} hold "
                f"{_words(usual)}: {', '.join(keys)}{more}; are their files named alike, and in one place?"
            )


def _words(kinds: Sequence[str]) -> str:
    """Kinds of media in words."""
    names = [NAMES[kind] for kind in kinds]
    return " and ".join(names) if len(names) > 1 else f"{names[0]} alone" if names else "nothing"
