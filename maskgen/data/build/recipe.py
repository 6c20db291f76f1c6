"""The YAML recipe of a data set: sources, image and audio settings, splits, limits, tokenizers."""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from maskgen.data.sources.buckets import bucket_sizes
from maskgen.data.sources.media import MAX_CROPS
from maskgen.io.limits import MediaLimits

SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
MODALITIES = ("text", "image", "audio", "features", "label")
MICRO = "micro"
"""Name of the modality of micro-conditions; its tokenizer reads numbers that the build notes."""
DEFAULT_SPLIT = "train"
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """Image settings.

    Args:
        size: Side in pixels; with buckets the side of the square of the same area.
        fit: "letterbox" keeps the whole image, "crop" fills the square, "bucket" fills the size of about the same area that cuts least.
        crops: Crops per image, each a sample of its own.
        multiple: With buckets: pixels that sides are multiples of, those of a cell of the image tokenizer.
        max_ratio: With buckets: largest ratio of the longer to the shorter side.
        buckets: With buckets: the sizes themselves, [[width, height], ...], in place of `multiple` and `max_ratio`.
        micro: Note the size of the original and the crop of every sample, for micro-conditions; builds with buckets always do.
    """

    size: int
    fit: Literal["letterbox", "crop", "bucket"] = "letterbox"
    crops: int = 1
    multiple: int = 0
    max_ratio: float = 2.0
    buckets: tuple[tuple[int, ...], ...] = ()
    micro: bool = False

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096 or not 1 <= self.crops <= MAX_CROPS:
            raise ValueError(f"image size must lie in [8, 4096] and crops in [1, {MAX_CROPS}], got {self.size} and {self.crops}")
        if self.fit != "crop" and self.crops > 1:
            raise ValueError(f"{self.crops} crops need fit: crop, got fit: {self.fit}")
        if self.fit != "bucket" and (self.multiple or self.buckets):
            raise ValueError(f"image multiple and buckets need fit: bucket, got fit: {self.fit}")
        if self.fit == "bucket" and bool(self.multiple) == bool(self.buckets):
            raise ValueError("fit: bucket needs multiple, the pixels of a cell, or a list of buckets, and not both")
        if any(len(pair) != 2 or not all(8 <= side <= 4096 for side in pair) for pair in self.buckets):
            raise ValueError(f"buckets are pairs of width and height in [8, 4096], got {[list(pair) for pair in self.buckets]}")
        if self.multiple:
            bucket_sizes(self.size, self.multiple, self.max_ratio)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the buckets; empty without buckets."""
        if self.multiple:
            return bucket_sizes(self.size, self.multiple, self.max_ratio)
        return tuple((pair[0], pair[1]) for pair in self.buckets)

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the settings of buckets and micro-conditions at their defaults, so that builds without them stay the same."""
        plain = dataclasses.asdict(self)
        late = {"multiple": 0, "max_ratio": 2.0, "buckets": (), "micro": False}
        return {name: value for name, value in plain.items() if name not in late or value != late[name]}


@dataclass(frozen=True, kw_only=True)
class AudioRecipe:
    """Audio settings.

    Args:
        sample_rate_hz: Sample rate; audio with another rate is resampled and counted.
        channels: Number of channels; 1 mixes down.
    """

    sample_rate_hz: int
    channels: int = 1

    def __post_init__(self) -> None:
        if not 1000 <= self.sample_rate_hz <= 384_000 or not 1 <= self.channels <= 8:
            raise ValueError(
                f"audio sample_rate_hz must lie in [1000, 384000] and channels in [1, 8], got {self.sample_rate_hz} and {self.channels}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Content of a recipe.

    Args:
        name: Name of the data set.
        sources: Settings of each source.
        image: Image settings; required if a source has images.
        audio: Audio settings; required if a source has audio.
        splits: Split name to its share of the samples; the rest is "train".
        shard_samples: Maximum number of samples per shard.
        seed: Seed of the distribution of samples over shards.
        limits: Size limits of media.
        max_bad: Maximum share of bad samples.
        tokenizers: Modality to the folder of its tokenizer; with tokenizers token shards are built, otherwise raw shards.
        root: Folder that relative paths start from.
    """

    name: str
    sources: tuple[dict[str, Any], ...]
    image: ImageRecipe | None = None
    audio: AudioRecipe | None = None
    splits: dict[str, float] = field(default_factory=dict)
    shard_samples: int = 1000
    seed: int = 0
    limits: MediaLimits = field(default_factory=MediaLimits)
    max_bad: float = 0.01
    tokenizers: dict[str, str] = field(default_factory=dict)
    root: Path = field(default=Path("."), metadata={"not in the YAML": True})

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; give at least one source")
        if self.shard_samples < 1 or not 0 <= self.max_bad <= 1:
            raise ValueError(f"shard_samples must be at least 1 and max_bad lie in [0, 1], got {self.shard_samples} and {self.max_bad}")
        if unknown := set(self.tokenizers) - {*MODALITIES, MICRO}:
            raise ValueError(f"tokenizers has the unknown modality {min(unknown)!r}; known are {', '.join((*MODALITIES, MICRO))}")
        _check_splits(self.splits)

    def tokenizer_folder(self, modality: str) -> Path:
        """Folder of a tokenizer: relative to the recipe or the current folder, or shipped with maskgen.

        Raises:
            ValueError: If none of these has it.
        """
        from maskgen.io.shipped import find_path

        name = self.tokenizers[modality]
        places = [self.root / name, Path(name), find_path(name)]
        for place in places:
            if (place / "bundle.json").is_file():
                return place.resolve()
        if modality == "features":
            found = " or ".join(map(str, places[:2]))
            raise ValueError(f"no text encoder in {found}; write one: maskgen export text-encoder ENCODER --out FOLDER")
        raise ValueError(f"no {modality} tokenizer in {' or '.join(str(place) for place in places[:2])}; give the folder of its bundle")


def _check_splits(splits: Mapping[str, float]) -> None:
    """Refuse names that can't be file names, and shares that leave nothing for training."""
    for name, share in splits.items():
        if not SPLIT_NAME.fullmatch(name) or name == DEFAULT_SPLIT:
            raise ValueError(f"splits has the name {name!r}; wanted letters, digits, _ and -, and not {DEFAULT_SPLIT!r}, which is the rest")
        if not 0 < share < 1:
            raise ValueError(f"the share of split {name} must lie between 0 and 1, got {share}")
    if sum(splits.values()) >= 1:
        raise ValueError(f"the shares in splits sum to {sum(splits.values()):g}; they must leave a rest for {DEFAULT_SPLIT}")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; a folder of media becomes a recipe with defaults.

    Args:
        path: YAML file, or a folder of media.

    Returns:
        The recipe, with paths relative to its folder.

    Raises:
        ValueError: If it is missing, not YAML, or a key is unknown, missing or of the wrong type.
    """
    if path.is_dir():
        folder = path.resolve()
        image, audio = ImageRecipe(size=64), AudioRecipe(sample_rate_hz=16_000)
        return Recipe(name=folder.name, sources=({"kind": "folder", "path": folder.name},), image=image, audio=audio, root=folder.parent)
    plain = read_yaml(path)
    try:
        return recipe_from(plain, path.resolve().parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: If the file is missing or holds no mapping.
    """
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist; give a YAML file or a folder of media")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(plain, dict):
        raise ValueError(f"recipe {path} holds {type(plain).__name__}, wanted keys such as name and sources")
    return plain


def recipe_from(plain: Mapping[str, Any], root: Path) -> Recipe:
    """A recipe from parsed YAML.

    Raises:
        ValueError: If a key is unknown, missing or of the wrong type; the message lists the known ones.
    """
    return section(Recipe, plain, "recipe", root=root)


def section(cls: type[Section], plain: Any, where: str, **more: Any) -> Section:
    """A dataclass from parsed YAML, checked key by key.

    Args:
        cls: Dataclass of the section.
        plain: Parsed YAML.
        where: Name of the section, for the error.
        **more: Fields that do not come from the YAML.

    Raises:
        ValueError: If a key is unknown, missing or of the wrong type.
    """
    assert dataclasses.is_dataclass(cls), "sections are dataclasses"
    known = {one.name: one for one in dataclasses.fields(cls) if not one.metadata}
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where} is {plain!r}, wanted the keys {', '.join(known)}")
    if unknown := [str(name) for name in plain if name not in known]:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(known)}")
    missing = [
        name
        for name, one in known.items()
        if name not in plain and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks the key {missing[0]!r}; known are {', '.join(known)}")
    types = typing.get_type_hints(cls)
    return cls(**{name: _value(types[name], plain[name], f"{where} {name}".removeprefix("recipe ")) for name in plain}, **more)


def _value(wanted: Any, value: Any, where: str) -> Any:
    """Check and convert one value."""
    options = [option for option in typing.get_args(wanted) if dataclasses.is_dataclass(option)] or [wanted]
    if dataclasses.is_dataclass(options[0]):
        return section(typing.cast(type[Any], options[0]), value, where)
    origin = typing.get_origin(wanted)
    if origin is dict and isinstance(value, Mapping):
        key_type, value_type = typing.get_args(wanted)
        return {_value(key_type, key, f"a key of {where}"): _value(value_type, part, f"{where} {key}") for key, part in value.items()}
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_value(typing.get_args(wanted)[0], part, f"{where} {number}") for number, part in enumerate(value))
    if origin is Literal and value not in typing.get_args(wanted):
        raise ValueError(f"{where} is {value!r}, wanted {' or '.join(typing.get_args(wanted))}")
    return value if wanted is Any or origin is Literal else _plain(wanted, value, where)


def _plain(wanted: Any, value: Any, where: str) -> Any:
    """Check one number, string or bool; an int is accepted for a float, a bool is not accepted for a number."""
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(wanted, type) or not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{where} is {value!r}, wanted {getattr(wanted, '__name__', wanted)}")
    return value
