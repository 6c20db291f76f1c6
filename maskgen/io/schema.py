"""Schemas for untrusted configs, which are validated completely before anything is built from them."""

import dataclasses
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST_WHOLE = 2**31
LARGEST_REAL = 1e30
LONGEST_LIST = 4096
LONGEST_TABLE = 100_000
LONGEST_TEXT = 2**20
DEEPEST = 16
"""Maximum nesting depth of lists and mappings."""


class Schema(ABC):
    """Base class of schemas, each of which validates one value."""

    @abstractmethod
    def check(self, value: Any, where: str) -> None:
        """Validate a value and everything nested in it.

        Args:
            value: Value read from JSON or a checkpoint.
            where: Location of the value, for the error message, for example "models/mine: config.transformer.dim".

        Raises:
            ValueError: If it is invalid. The message names the location, the value found and what was expected.
        """


def _require(holds: bool, value: Any, where: str, wanted: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not holds:
        shown = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of over 30 digits"
        found = shown if len(shown) <= 60 else f"{shown[:60]}…"
        raise ValueError(f"{where} is {found}, wanted {wanted}; copy the file again, or export it anew")


@dataclass(frozen=True)
class Whole(Schema):
    """Schema of an integer from `least` to `most`."""

    least: int = 0
    most: int = LARGEST_WHOLE

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        fits = isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most
        _require(fits, value, where, f"a whole number in [{self.least}, {self.most}]")


@dataclass(frozen=True)
class Real(Schema):
    """Schema of a finite number from `least` to `most`."""

    least: float = -LARGEST_REAL
    most: float = LARGEST_REAL

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        fits = isinstance(value, int | float) and not isinstance(value, bool) and self.least <= value <= self.most
        _require(fits, value, where, f"a finite number in [{self.least:g}, {self.most:g}]")


@dataclass(frozen=True)
class Flag(Schema):
    """Schema of a boolean."""

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        _require(isinstance(value, bool), value, where, "true or false")


@dataclass(frozen=True)
class Text(Schema):
    """Schema of a string, which must be one of `choices` if any are given."""

    choices: Sequence[str] = ()

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        fits = isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value
        _require(fits and (not self.choices or value in self.choices), value, where, " or ".join(self.choices) or "a text")


@dataclass(frozen=True)
class Maybe(Schema):
    """Schema of a value that matches another schema or is null."""

    other: Schema

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        if value is not None:
            self.other.check(value, where)


@dataclass(frozen=True)
class Items(Schema):
    """Schema of a list of `least` to `most` items that share one schema."""

    item: Schema
    least: int = 0
    most: int = LONGEST_LIST

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        fits = isinstance(value, list | tuple) and self.least <= len(value) <= self.most
        _require(fits, value, where, f"a list of {self.least} to {self.most} entries")
        for place, entry in enumerate(value):
            self.item.check(entry, f"{where}[{place}]")


@dataclass(frozen=True)
class Table(Schema):
    """Schema of a mapping from names to values that share one schema."""

    entry: Schema

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        fits = isinstance(value, Mapping) and len(value) <= LONGEST_TABLE and all(isinstance(name, str) for name in value)
        _require(fits, value, where, f"a table of at most {LONGEST_TABLE} names")
        for name, entry in value.items():
            self.entry.check(entry, f"{where}.{name}")


@dataclass(frozen=True)
class Record(Schema):
    """Schema of a mapping with known keys.

    Args:
        needed: Required keys.
        free: Optional keys.
    """

    needed: Mapping[str, Schema]
    free: Mapping[str, Schema] = field(default_factory=dict)

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        _require(isinstance(value, Mapping) and all(isinstance(name, str) for name in value), value, where, "a table")
        known = {**self.needed, **self.free}
        unknown, missing = sorted(set(value) - set(known)), sorted(set(self.needed) - set(value))
        if unknown or missing:
            fault = f"has the unknown entry {unknown[0][:60]!r}" if unknown else f"lacks {missing[0]!r}"
            raise ValueError(
                f"{where} {fault}, wanted {', '.join(sorted(known)) or 'an empty table'}; update maskgen or export the file anew"
            )
        for name, entry in value.items():
            known[name].check(entry, f"{where}.{name}")


@dataclass(frozen=True)
class Plain(Schema):
    """Schema of any plain data of bounded size, for values that only another library can validate.

    Args:
        depth: Remaining nesting depth of lists and mappings.
    """

    depth: int = DEEPEST

    def check(self, value: Any, where: str) -> None:
        """Validate a value; see `Schema.check`."""
        inside = Plain(self.depth - 1)
        if isinstance(value, Mapping | list | tuple):
            if not self.depth:
                raise ValueError(f"{where} lies {DEEPEST} lists or tables deep, wanted fewer; copy the file again, or export it anew")
            (Table(inside) if isinstance(value, Mapping) else Items(inside)).check(value, where)
        elif isinstance(value, str):
            Text().check(value, where)
        elif isinstance(value, int) and not isinstance(value, bool):
            Whole(-LARGEST_WHOLE).check(value, where)
        elif isinstance(value, float):
            Real().check(value, where)
        else:
            _require(value is None or isinstance(value, bool), value, where, "plain data")


def record_of(made: type, **special: Schema) -> Record:
    """Return the schema of a dataclass's arguments, derived from their types. Arguments with a default are optional.

    Args:
        made: Dataclass.
        special: Schemas of arguments whose type isn't specific enough.
    """
    hints = get_type_hints(made)
    found = {one.name: special.get(one.name) or _of_type(hints[one.name]) for one in dataclasses.fields(made)}
    missing = dataclasses.MISSING
    needed = {one.name for one in dataclasses.fields(made) if one.default is missing and one.default_factory is missing}
    return Record({name: found[name] for name in found if name in needed}, {name: found[name] for name in found if name not in needed})


def _of_type(hint: Any) -> Schema:
    """Return the schema of a type annotation."""
    plain: dict[Any, Schema] = {int: Whole(), float: Real(), bool: Flag(), str: Text()}
    if hint in plain:
        return plain[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Text(inner)
    if origin in (Union, types.UnionType) and type(None) in inner and len(inner) == 2:
        return Maybe(_of_type(next(one for one in inner if one is not type(None))))
    if isinstance(origin, type) and issubclass(origin, Mapping) and inner[0] is str:
        return Table(_of_type(inner[1]))
    if isinstance(origin, type) and issubclass(origin, Sequence) and len({one for one in inner if one is not Ellipsis}) == 1:
        return Items(_of_type(inner[0]))
    return Plain()
