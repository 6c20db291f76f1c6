"""Texts as requests: prompts as known cells, texts with holes as cells to fill."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from maskgen.processors.base import Prepared, Processor
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text_encoder import TextEncoder
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.packing import until_end

HOLE = re.compile(r"\[(\d+)\]")
LARGEST_HOLE = 256


def prompt_codes(tokenizer: Tokenizer, text: str, allow_empty: bool = False) -> dict[str, Codes]:
    """Known cells of a prompt, {"text": codes [1, n]}; nothing for an empty one.

    Raises:
        ValueError: If the prompt is empty and must not be, or has more cells than the tokenizer's `longest_prompt`.
    """
    if not text.strip():
        if allow_empty:
            return {}
        raise ValueError("the prompt is empty; say what the output shows or says")
    codes = tokenizer.encode([text.strip()])[0]
    if codes.shape[1] > tokenizer.longest_prompt:
        raise ValueError(f"the prompt has {codes.shape[1]} text tokens, at most {tokenizer.longest_prompt} are taken; shorten it")
    return {"text": codes}


def encoders_of(tokenizers: Mapping[str, Tokenizer]) -> dict[str, TextEncoder]:
    """Frozen text encoders among the tokenizers of a model, by modality."""
    return {name: one for name, one in tokenizers.items() if isinstance(one, TextEncoder)}


def told_codes(tokenizers: Mapping[str, Tokenizer], text: str, allow_empty: bool = False) -> dict[str, Codes]:
    """Known cells of a prompt for every part of a model that reads text: its text tokenizer and its frozen encoders.

    Args:
        tokenizers: Of the model; its text tokenizer is called "text".
        text: The prompt.
        allow_empty: Whether an empty prompt is none, instead of an error.

    Raises:
        ValueError: If the prompt is empty and must not be, is too long, or nothing of the model reads text.
    """
    encoders = encoders_of(tokenizers)
    if "text" not in tokenizers and not encoders:
        if text.strip():
            raise ValueError(f"this model draws without a text, got the prompt {text[:80]!r}; leave it out")
        return {}
    if not text.strip() and not allow_empty:
        raise ValueError("the prompt is empty; say what the output shows or says")
    cells = prompt_codes(tokenizers["text"], text, allow_empty) if "text" in tokenizers else {}
    for name, encoder in encoders.items() if text.strip() else ():
        if (count := encoder.num_tokens(text.strip())) > encoder.longest_prompt:
            raise ValueError(f"the prompt has {count} tokens of the encoder {name}, at most {encoder.longest_prompt} are taken; shorten it")
        cells[name] = encoder.encode([text.strip()])[0]
    return cells


def with_holes(text: str, tokenizer: Tokenizer) -> Codes:
    """Codes [1, n] of a text in which "[3]" stands for three unknown codes.

    Args:
        text: For example "a red [2], flat style".
        tokenizer: Any text tokenizer. The text after a hole is encoded with its space if the tokenizer would not put one there.

    Raises:
        ValueError: If there is no hole, or one has no or more than 256 codes.
    """
    parts = HOLE.split(text)
    sizes = [int(size) for size in parts[1::2]]
    if not sizes or min(sizes) < 1 or max(sizes) > LARGEST_HOLE:
        raise ValueError(f"{text[:80]!r} has no hole to fill; write [3] where three codes are wanted, 1 to {LARGEST_HOLE} in each")
    spaced = joins_with_spaces(tokenizer)
    codes = tokenizer.encode([part.strip() if spaced and number else part.rstrip() for number, part in enumerate(parts[::2])])
    cells = [codes[0]]
    for size, after in zip(sizes, codes[1:], strict=True):
        cells += [torch.full((1, size), UNKNOWN), after]
    return torch.cat(cells, dim=1)


def joins_with_spaces(tokenizer: Tokenizer) -> bool:
    """Whether texts that are encoded apart and decoded together have a space between them."""
    text: str = tokenizer.decode([torch.cat(tokenizer.encode(["a", "b"]), dim=1)])[0]
    return " " in text.strip()


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """What a text model is asked for.

    Args:
        prompts: Texts with holes, such as "a [2] heart"; None generates texts from nothing or from `known` alone.
        seeds: One an output of each prompt.
        length: Cells of each generated text where there is no prompt, and of each answer; None takes the model's default grid.
        known: Cells of other modalities beside every row.
        chat: Whether the prompts are messages to a chat model.
    """

    prompts: Sequence[str] | None
    seeds: Sequence[Sequence[int]]
    length: int | None = None
    known: Mapping[str, Codes] = field(default_factory=dict)
    chat: bool = False


class TextProcessor(Processor[TextRequest, Prepared]):
    """Texts with holes, and messages to a chat model, to cells and back.

    Args:
        tokenizer: The model's text tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def prepare(self, request: TextRequest) -> Prepared:
        """Rows of a text's known and blank cells; see `Processor.prepare`."""
        if request.length is not None and not 1 <= request.length <= 2**16:
            raise ValueError(f"length counts text tokens and must lie in 1 to {2**16}, got {request.length}")
        if request.prompts is None:
            blank = {} if request.length is None else {"text": torch.full((1, request.length), UNKNOWN)}
            texts: list[dict[str, Codes]] = [blank for _ in request.seeds]
        elif request.chat:
            texts = [{"text": self._conversation(prompt, request.length)} for prompt in request.prompts]
        elif request.length is not None:
            raise ValueError(
                "length is for texts that are written from nothing; a prompt has its own length, with [3] for three more tokens"
            )
        else:
            texts = [{"text": with_holes(prompt, self.tokenizer)} for prompt in request.prompts]
        rows = [{**request.known, **text} for text, seeds in zip(texts, request.seeds, strict=True) for _ in seeds]
        return Prepared(rows, [seed for seeds in request.seeds for seed in seeds])

    def _conversation(self, message: str, length: int | None) -> Codes:
        """Codes [1, n] of a message with `length` unknown ones for the answer."""
        if not isinstance(self.tokenizer, TransformersTextTokenizer):
            raise ValueError("messages need the tokenizer of a chat model; give a text with holes, such as 'a [3] cat'")
        if not message.strip():
            raise ValueError("the prompt is empty; ask the model something")
        if length is None:
            raise ValueError("the model has no default length of an answer; give length")
        return torch.cat([self.tokenizer.encode_chat(message), torch.full((1, length), UNKNOWN)], dim=1)

    def finish(self, plan: Prepared, media: Sequence[Any]) -> list[str]:
        """The texts as they are."""
        return [str(text) for text in media]

    def answers(self, plan: Prepared, codes: Sequence[Codes], end: int | None) -> list[str]:
        """What was written behind each message.

        Args:
            plan: Rows that begin with a message.
            codes: The filled codes [1, n] of each row.
            end: Code that ends a text.
        """
        blank = [row["text"] == UNKNOWN for row in plan.rows]
        return [str(self.tokenizer.decode([until_end(made[:, cells[0]], end)])[0]) for made, cells in zip(codes, blank, strict=True)]
