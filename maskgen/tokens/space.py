"""The shared token space: assigns a range of ids to each level of each modality."""

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from maskgen.io.schema import Items, Maybe, Record, Text, Whole, record_of

PAD = 0
MASK = 1
MOST_LEVELS, MOST_CODES, MOST_WIDTH = 256, 2**24, 65_536

Kind = Literal["text", "image", "audio", "attribute", "phones", "transcript", "features"]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """A modality of the token space.

    Args:
        name: Key of the modality in samples and shards, for example "image".
        kind: What the tokenizer turns into codes: text, image, audio, attribute, phones or transcript; or features, whose cells hold
            vectors beside their only code and are always known.
        num_levels: Residual levels per cell (1 for text and one-codebook images).
        codebook_size: Codes per level.
        end: Code that ends a text; all cells after it hold it too. None if every sample fills its grid.
        stride: Steps of the time axis from one cell of a 1-D grid to the next.
        width: Numbers in the vector of a cell of kind features; 0 for every other kind.
    """

    name: str
    kind: Kind
    num_levels: int
    codebook_size: int
    end: int | None = None
    stride: int = 1
    width: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"modality {self.name!r} has kind {self.kind!r}; choose one of {', '.join(get_args(Kind))}")
        if self.num_levels < 1 or self.codebook_size < 1:
            raise ValueError(
                f"modality {self.name!r} needs num_levels and codebook_size of at least 1, got {self.num_levels} and {self.codebook_size}"
            )
        if (self.end is not None and not 0 <= self.end < self.codebook_size) or self.stride < 1:
            raise ValueError(
                f"modality {self.name!r} has {self.codebook_size} codes, end={self.end} and stride={self.stride}; "
                "the end is one of its codes, the stride at least 1"
            )
        if (self.width > 0) != self.has_vectors or (self.has_vectors and (self.num_levels, self.codebook_size) != (1, 1)):
            raise ValueError(
                f"modality {self.name!r} ({self.kind}) has width={self.width}, {self.num_levels} levels of {self.codebook_size} codes; "
                "features have a width above 0 and one level of one code, all other kinds width 0"
            )

    @property
    def timed(self) -> bool:
        """Whether each cell holds its own duration, at level 1, in cells of the modality that `has_frames`."""
        return self.kind == "phones"

    @property
    def has_frames(self) -> bool:
        """Whether its cells are the frames in which durations of timed cells are measured."""
        return self.kind == "audio"

    @property
    def is_text(self) -> bool:
        """Whether its codes are tokens of written text, as in a language model."""
        return self.kind == "text"

    @property
    def has_vectors(self) -> bool:
        """Whether its cells hold vectors, so that they are a condition and never a target."""
        return self.kind == "features"

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable data without what is at its default and was added later, so spaces saved before that compare equal."""
        later = {"end": None, "stride": 1, "width": 0}
        return {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}

    def same_ids(self, other: "Modality") -> bool:
        """Whether both have the same name, kind of codes and number of ids."""
        return dataclasses.replace(self, end=None, stride=1) == dataclasses.replace(other, end=None, stride=1)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The range of ids of one level of one modality: `offset` to `offset + size - 1`.

    Args:
        modality: Name of the modality.
        index: Number of the modality in its space, from 1 (0 is padding).
        level: Residual level, 0 is the coarsest.
        offset: First shared id.
        size: Number of ids, the codebook size.
    """

    modality: str
    index: int
    level: int
    offset: int
    size: int


class TokenSpace:
    """Assignment of ids: PAD 0, MASK 1, then special ids, then the modalities in the order in which they were added.

    Adding a modality never changes existing ids. A modality with Q levels owns Q consecutive ranges.

    Args:
        modalities: Modalities in the order in which they were added.
        specials: Names of further special ids, numbered from 2.

    Raises:
        ValueError: If two modalities or specials share a name.
    """

    def __init__(self, modalities: Iterable[Modality], specials: Iterable[str] = ()) -> None:
        self.modalities = tuple(modalities)
        self.specials = tuple(specials)
        names = [modality.name for modality in self.modalities]
        if len(set(names)) != len(names) or len(set(self.specials)) != len(self.specials):
            raise ValueError(f"names in a token space must be unique, got modalities {names} and specials {list(self.specials)}")
        self._segments: dict[str, list[Segment]] = {}
        offset = 2 + len(self.specials)
        for index, modality in enumerate(self.modalities, start=1):
            self._segments[modality.name] = [
                Segment(
                    modality=modality.name,
                    index=index,
                    level=level,
                    offset=offset + level * modality.codebook_size,
                    size=modality.codebook_size,
                )
                for level in range(modality.num_levels)
            ]
            offset += modality.num_levels * modality.codebook_size
        self.size = offset

    def of(self, name: str) -> list[Segment]:
        """Segments of a modality, coarse to fine.

        Raises:
            ValueError: If the space has no such modality.
        """
        if name not in self._segments:
            raise ValueError(f"this token space has no modality {name!r}; it has {', '.join(self._segments) or 'none'}")
        return self._segments[name]

    def segment(self, name: str, level: int) -> Segment:
        """Segment of one level of a modality.

        Raises:
            ValueError: If the modality or the level does not exist.
        """
        segments = self.of(name)
        if not 0 <= level < len(segments):
            raise ValueError(f"modality {name!r} has levels 0 to {len(segments) - 1}, got level {level}")
        return segments[level]

    def target(self, name: str) -> list[Segment]:
        """Segments of a modality that is to be generated, coarse to fine.

        Raises:
            ValueError: If the space has no such modality, or it holds vectors.
        """
        if self.modality(name).has_vectors:
            raise ValueError(f"{name} holds features of a frozen encoder, which are a condition alone; choose another target")
        return self.of(name)

    @property
    def feature_width(self) -> int:
        """Numbers in the vector of a cell: every modality of kind features has columns of its own; 0 without any."""
        return sum(modality.width for modality in self.modalities)

    def feature_columns(self, name: str) -> slice:
        """Columns of a cell's vector that belong to a modality; none where it holds codes alone."""
        start = sum(modality.width for modality in self.modalities[: self.index(name) - 1])
        return slice(start, start + self.modality(name).width)

    def index(self, name: str) -> int:
        """Number of a modality, from 1; 0 is padding."""
        return self.of(name)[0].index

    def modality(self, name: str) -> Modality:
        """The modality of that name."""
        return self.modalities[self.index(name) - 1]

    @property
    def num_levels(self) -> int:
        """Levels of the deepest modality."""
        return max((modality.num_levels for modality in self.modalities), default=1)

    def extended(self, modality: Modality) -> "TokenSpace":
        """The same space with one more modality at its end; existing ids don't change."""
        return TokenSpace((*self.modalities, modality), self.specials)

    def begins_with(self, other: "TokenSpace") -> bool:
        """Whether this space keeps every id of the other: they are equal, or this one has more modalities at its end."""
        pairs = zip(self.modalities, other.modalities, strict=False)
        enough = len(self.modalities) >= len(other.modalities) and self.specials == other.specials
        return enough and all(ours.same_ids(theirs) for ours, theirs in pairs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable data that `from_dict` reads."""
        return {"specials": list(self.specials), "modalities": [modality.to_dict() for modality in self.modalities]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TokenSpace":
        """Rebuilds a space from the output of `to_dict`."""
        return cls([Modality(**entry) for entry in data["modalities"]], data["specials"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenSpace) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.modalities, self.specials))

    def __repr__(self) -> str:
        members = ", ".join(f"{m.name} {m.num_levels}x{m.codebook_size}" for m in self.modalities)
        return f"TokenSpace({self.size} ids: {members})"


SPACE_SCHEMA = Record(
    {
        "specials": Items(Text()),
        "modalities": Items(
            record_of(
                Modality,
                num_levels=Whole(1, MOST_LEVELS),
                codebook_size=Whole(1, MOST_CODES),
                end=Maybe(Whole(0, MOST_CODES)),
                stride=Whole(1),
                width=Whole(0, MOST_WIDTH),
            ),
            least=1,
            most=64,
        ),
    }
)
"""Schema of a saved token space."""
