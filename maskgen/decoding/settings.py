"""Generation settings: how each level of a modality is decoded, saved with a bundle and changed per call."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from maskgen.decoding.guidance import GuidanceSchedule, IntervalGuidance, guidance_by_name
from maskgen.io.shipped import find_path
from maskgen.masking.schedule import schedule_by_name
from maskgen.masking.time_shift import Shifted
from maskgen.sampling import by_name
from maskgen.sampling.base import Sampler

PerLevel = tuple[float, ...]
PER_LEVEL = ("steps", "temperature", "choice_temperature", "window")
WORDS = ("sampler", "schedule", "guidance_schedule", "null", "sampler_options")
"""Settings that are not numbers."""
WHOLE = ("steps", "top_k", "window", "refresh", "shortcut", "groups")
"""Settings that are whole numbers."""
CHEAPER = {"refresh": 1, "shortcut": 1, "merge": 0.0}
"""Acceleration settings, one at a time, to their value when off; they need one transformer without towers."""
RANGES = (
    ("min_p", 0.0, 1.0),
    ("guidance_rescale", 0.0, 1.0),
    ("noise_regularization", 0.0, 100.0),
    ("differential", 0.0, 1.0),
    ("refresh", 1, 10_000),
    ("shortcut", 1, 10_000),
    ("merge", 0.0, 0.5),
    ("time_shift", 1e-3, 1e3),
)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How one modality is decoded. A value with one entry a level counts for that level; its last entry serves all finer ones.

    Args:
        sampler: Name of the sampler, a file of `maskgen/sampling`.
        sampler_options: Options of that sampler alone, such as `{"eta": 0.02}`. A sampler around another one takes its name as `inner` and
            its options as `inner_options`.
        steps: Passes of the model, per level.
        temperature: Divides the logits, per level; 0 takes the likeliest code.
        choice_temperature: Scale of the noise of the sampler's ranking, per level; None takes the sampler's own.
        top_k: Codes that may be drawn; 0 for all.
        top_p: Share of probability that may be drawn; 1 for all.
        min_p: Least probability that may be drawn, as a share of the largest; 0 for all.
        typical_p: Share of probability of the most typical codes that may be drawn; 1 for all.
        schedule: Mask schedule of the decode; None takes the sampler's own.
        time_shift: Pace of the mask schedule: below 1 the first steps decode few cells and the last many, above 1 the other way round; 1
            leaves the schedule as it is.
        guidance_scale: 1 is off.
        guidance_schedule: constant, linear, cosine, mask_rate, linear_ahead, cosine_ahead, falling or interval.
        guidance_interval: First progress that is guided and first that is not, for `interval`.
        guidance_rescale: Share of the guided logits that is brought back to the spread of the conditional ones; 0 is off.
        null: What guidance leads away from without a negative prompt: "absent", the condition hidden, as under condition dropout in
            training; "masked", what was given as MASK, which needs no such training; or "alone", nothing but the cells that are
            generated, so that a known part of the target is hidden too.
        noise_regularization: Scale of the noise on the logits at both ends of a decode; 0 is off.
        differential: Share of the cells whose logits changed least that draw from the change alone; 0 is off.
        window: Steps of time that a cell sees of its own modality, per level; 0 is all. For a model trained so.
        refresh: Every so many model calls all cells are computed, in between only those that are masked or changed; 1 is exact.
        shortcut: The model runs at every so many calls, a trained shortcut in between; 1 is exact.
        merge: Share of the target's cells that are merged with the most similar other one inside each block; 0 is exact.
        groups: Levels that are decoded together, as they were learned; their steps and temperatures are those of their first level. None
            decodes each level alone.
    """

    sampler: str = "confidence"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = (12,)
    temperature: PerLevel = (1.0,)
    choice_temperature: PerLevel | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    schedule: str | None = None
    time_shift: float = 1.0
    guidance_scale: float = 1.0
    guidance_schedule: str = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    null: Literal["absent", "masked", "alone"] = "absent"
    noise_regularization: float = 0.0
    differential: float = 0.0
    window: tuple[int, ...] = (0,)
    refresh: int = 1
    shortcut: int = 1
    merge: float = 0.0
    groups: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in PER_LEVEL:
            if getattr(self, name) == ():
                raise ValueError(f"{name} needs at least one value, got none")
        if self.null not in ("absent", "masked", "alone"):
            raise ValueError(f'null must be "absent", "masked" or "alone", got {self.null!r}')
        for name, least, largest in RANGES:
            if not least <= getattr(self, name) <= largest:
                raise ValueError(f"{name} must lie in [{least:g}, {largest:g}], got {getattr(self, name)}")
        if min(self.window) < 0:
            raise ValueError(f"window counts steps of time and must be at least 0, got {self.window}")
        cheaper = [name for name, off in CHEAPER.items() if getattr(self, name) != off]
        if len(cheaper) > 1 or (cheaper and any(self.window)):
            both = [*cheaper, "window"] if any(self.window) else cheaper
            raise ValueError(f"{' and '.join(both)} do not go together; choose one of them")
        self.guidance()
        for level in range(max(len(self.steps), len(self.temperature), len(self.choice_temperature or ()))):
            self.at(level)
        if any(len(group) > 1 for group in self.groups or ()) and (needed := needs_of(self.at(0))):
            raise ValueError(
                f"the sampler {self.sampler} needs its own look at a single level ({', '.join(sorted(needed))}), so it cannot "
                "rank the codes of several levels together; leave groups out or choose another sampler"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GenerationSettings":
        """Settings from JSON or the command line; lists become tuples and a bare number serves all levels.

        Raises:
            ValueError: If a name is unknown or a value is out of range.
        """
        fields = {one.name for one in dataclasses.fields(cls)}
        unknown = set(data) - fields
        if unknown:
            raise ValueError(f"unknown generation settings {', '.join(sorted(unknown))}; there are {', '.join(sorted(fields))}")
        several = (*PER_LEVEL, "guidance_interval")
        values: dict[str, Any] = {
            name: _as_tuple(value) if name in several and value is not None else value
            for name, value in ((name, _number(name, value)) for name, value in data.items())
        }
        try:
            if values.get("groups") is not None:
                values["groups"] = tuple(tuple(group) for group in values["groups"])
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"a generation setting has a value of the wrong kind: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()}

    def changed(self, **changes: Any) -> "GenerationSettings":
        """The same settings but for what is given and not None; a bare `steps` or temperature changes the coarsest level alone.

        Another sampler brings its own options, choice temperature and schedule: those of the old one were chosen for it.
        """
        merged = self.to_dict()
        if changes.get("sampler") not in (None, self.sampler):
            merged |= {"sampler_options": {}, "choice_temperature": None, "schedule": None, "time_shift": 1.0}
        for name, value in changes.items():
            if value is None:
                continue
            old = merged.get(name)
            bare = isinstance(old, list) and not isinstance(value, (list, tuple))
            merged[name] = [value, *old[1:]] if bare and old is not None else value
        return self.from_dict(merged)

    def guidance(self, level: int = 0) -> GuidanceSchedule:
        """The guidance schedule of the decode of one level."""
        if self.guidance_schedule == "interval":
            return IntervalGuidance(self.guidance_scale, *self.guidance_interval)
        return guidance_by_name(self.guidance_schedule, self.guidance_scale, _entry(self.steps, level))

    def at(self, level: int) -> Sampler:
        """The sampler of one level."""
        common: dict[str, Any] = {
            "steps": _entry(self.steps, level),
            "temperature": _entry(self.temperature, level),
            "top_k": self.top_k or None,
            "top_p": None if self.top_p == 1.0 else self.top_p,
            "min_p": self.min_p or None,
            "typical_p": None if self.typical_p == 1.0 else self.typical_p,
        }
        if self.choice_temperature is not None:
            common["choice_temperature"] = _entry(self.choice_temperature, level)
        if self.schedule is not None:
            common["schedule"] = schedule_by_name(self.schedule)
        return _sampler(self.sampler, common, self.sampler_options, self.time_shift)

    def window_at(self, level: int) -> int:
        """Steps of time that a cell of one level sees of its own modality; 0 is all."""
        return int(_entry(self.window, level))


def _sampler(name: str, common: Mapping[str, Any], own: Mapping[str, Any], shift: float) -> Sampler:
    """The sampler of that name, from what all samplers may take and what it alone takes."""
    kind, own = by_name(name), dict(own)
    known = {one.name for one in dataclasses.fields(kind)}
    if "inner" in known:
        own["inner"] = _sampler(own.get("inner", "confidence"), common, own.pop("inner_options", {}), shift)
    if unknown := sorted(set(own) - known):
        theirs = sorted(known - {one.name for one in dataclasses.fields(Sampler)})
        raise ValueError(f"the sampler {name} has no options {', '.join(unknown)}; it has {', '.join(theirs) or 'none of its own'}")
    made = kind(**{option: value for option, value in {**common, **own}.items() if option in known})
    return made if shift == 1 else dataclasses.replace(made, schedule=Shifted(made.schedule, shift))


def needs_of(sampler: Sampler) -> set[str]:
    """What a sampler, and the one inside it, must be given in addition to the logits."""
    inner = getattr(sampler, "inner", None)
    return set(sampler.needs) | (needs_of(inner) if isinstance(inner, Sampler) else set())


def _number(name: str, value: Any) -> Any:
    """The value, numbers as numbers of the kind that is wanted: YAML 1.1 reads 1e-2 as text.

    Raises:
        ValueError: If there is something else where a number is wanted.
    """
    if isinstance(value, (list, tuple)):
        return [_number(name, one) for one in value]
    if name in WORDS or value is None:
        return value
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error
    if name not in WHOLE:
        return found
    if not found.is_integer():
        raise ValueError(f"{name} must be whole numbers, got {value!r}")
    return int(found)


def read_settings(path: Path) -> dict[str, GenerationSettings]:
    """Settings of each target modality from a YAML file, or from a shipped one of that relative name.

    Raises:
        ValueError: If the file is missing or no mapping of mappings, or a setting is unknown or out of range.
    """
    path = find_path(path)
    if not path.is_file():
        raise ValueError(f"generation settings {path} do not exist; see configs/generation_emoji64.yaml for one")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise ValueError(f"{path} must map each target modality to its settings, for example image: {{guidance_scale: 3.0}}")
    return {target: GenerationSettings.from_dict(entry) for target, entry in found.items()}


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _entry(values: tuple[Any, ...], level: int) -> Any:
    return values[min(level, len(values) - 1)]
