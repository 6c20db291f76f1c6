"""The contract of every processor: a request becomes rows of known and blank cells, generated cells become media."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import Codes

Request = TypeVar("Request")
Plan = TypeVar("Plan", bound="Prepared")
Special = TypeVar("Special", bound=Tokenizer)


@dataclass(frozen=True)
class Prepared:
    """What a decode needs to know of a request.

    Args:
        rows: Known and blank cells of each row, by modality; -1 is a blank cell.
        seeds: Seed of each row.
        negative: Per row what guidance leads away from, or None for no condition at all.
    """

    rows: Sequence[Mapping[str, Codes]]
    seeds: Sequence[int]
    negative: Sequence[Mapping[str, Codes]] | None = None


class Processor(ABC, Generic[Request, Plan]):
    """One modality's way from a request to cells and from cells to media; it holds tokenizers and never a model that generates."""

    @abstractmethod
    def prepare(self, request: Request) -> Plan:
        """Rows of known and blank cells.

        Raises:
            ValueError: If an argument of the request is out of range, or two contradict each other.
        """

    @abstractmethod
    def finish(self, plan: Plan, media: Sequence[Any]) -> list[Any]:
        """What the caller gets, from the decoded media of each row."""


def required(tokenizers: Mapping[str, Tokenizer], name: str, kind: type[Special]) -> Special:
    """The tokenizer of a modality, where more than the contract of all tokenizers is needed.

    Raises:
        ValueError: If it is of another class.
    """
    found = tokenizers[name]
    if not isinstance(found, kind):
        raise ValueError(f"the modality {name} needs a {kind.__name__}, this model has {type(found).__name__}; derive it from that class")
    return found
