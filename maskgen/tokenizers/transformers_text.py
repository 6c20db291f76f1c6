"""Text tokenizer for pretrained models: any fast tokenizer of transformers, without needing transformers."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import read_text, write_text
from maskgen.io.schema import Maybe, Record, Table, Text, Whole
from maskgen.networks.backbone import Vocabulary, read_vocabulary
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.chat import ChatTemplate
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import MOST_CODES, Kind, Modality
from tokenizers import Tokenizer as Engine

_BUNDLE_KIND = "transformers_text_tokenizer"
_CHAT = Record({"template": Text(), "tokens": Table(Text()), "question": Maybe(Text())})
_SCHEMA = Record({}, {"end": Maybe(Text()), "size": Whole(1, MOST_CODES), "chat": _CHAT})


class TransformersTextTokenizer(Tokenizer):
    """Text tokenizer of a pretrained model, from its tokenizer.json: code v is row v of the model's embedding table.

    No special token is added, and a special token spelled out in a text is plain text. Truncation and padding set in the file are disabled.
    What the vocabulary itself discards (case, spaces) isn't restored.

    Args:
        vocabulary: Content of a tokenizer.json.
        end: Token that ends a text; None if the model has none.
        size: Codes; None takes the largest of the vocabulary and those below it. A model's table may have more rows than its vocabulary.
        chat: How a message to the model is written; None for a model that does not chat.

    Raises:
        ValueError: If the vocabulary cannot be read, lacks the token or has more codes than `size`.
    """

    kind: ClassVar[Kind] = "text"

    def __init__(self, vocabulary: str, end: str | None = None, size: int | None = None, chat: ChatTemplate | None = None) -> None:
        self._engine = _engine(vocabulary)
        self._engine.encode_special_tokens = True
        self._reader: Engine | None = None  # the engine in which special tokens count, made on demand
        self._vocabulary, self._end, self._size, self.chat = vocabulary, end, size, chat
        found = max(self._engine.get_vocab().values()) + 1
        if size is not None and size < found:
            raise ValueError(f"the vocabulary has {found} codes, the model {size}; give both from one folder")
        self.num_levels, self.codebook_size = 1, size or found
        self.end: int | None = None if end is None else self._engine.token_to_id(end)
        if end is not None and self.end is None:
            raise ValueError(f"the vocabulary has no token {end!r} to end a text with; name one of its tokens")

    @classmethod
    def from_transformers(cls, source: Path | str) -> "TransformersTextTokenizer":
        """Load the tokenizer from a `save_pretrained` folder or a hub id. Its eos_token, or else its sep_token, ends a text.

        Raises:
            ValueError: If there is no tokenizer.json, or it is damaged.
        """
        found = read_vocabulary(str(source))
        if found is None:
            raise ValueError(f"{source} has no {VOCABULARY_FILE}; save a fast tokenizer of transformers there with save_pretrained")
        return cls.of(found)

    @classmethod
    def of(cls, found: Vocabulary) -> "TransformersTextTokenizer":
        """Build the tokenizer from the vocabulary that was loaded with a backbone."""
        return cls(found.text, found.specials.get("eos_token", found.specials.get("sep_token")))

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "TransformersTextTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, _SCHEMA)
        config = dict(bundle.config)
        chat = ChatTemplate(**config.pop("chat")) if "chat" in config else None
        return cls((bundle.folder / VOCABULARY_FILE).read_text(encoding="utf-8"), **config, chat=chat)

    @property
    def vocabulary(self) -> str:
        """Content of the tokenizer.json, as it was given."""
        return self._vocabulary

    def engine(self) -> Engine:
        """The tokenizer as it was given, with its template of special tokens."""
        return Engine.from_str(self._vocabulary)

    @property
    def _config(self) -> dict[str, Any]:
        """The arguments as plain data; what is None is left out but for `end`, which older bundles have."""
        size = {} if self._size is None else {"size": self._size}
        return {"end": self._end, **size, **({} if self.chat is None else {"chat": self.chat.to_dict()})}

    @property
    def fingerprint(self) -> str:
        """Hash of vocabulary and settings, equal to the bundle's fingerprint."""
        digest = hashlib.sha256(self._vocabulary.encode()).hexdigest()
        return fingerprint_of(_BUNDLE_KIND, self._config, {VOCABULARY_FILE: digest})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        return save_bundle(folder, _BUNDLE_KIND, self._config, {}, {VOCABULARY_FILE: self._vocabulary.encode()})

    def read(self, path: Path | str) -> str:
        """Read a UTF-8 text file, without the line break at its end.

        Raises:
            ValueError: If the file is missing, over 1 MiB or not UTF-8.
        """
        return read_text(path)

    def write(self, media: str, path: Path | str) -> None:
        """Write text as UTF-8, with a line break at its end."""
        write_text(media, path)

    def encode(self, media: Sequence[str]) -> list[Codes]:
        """Encode each text as codes of shape [1, n]. Empty text has n = 0.

        Raises:
            ValueError: If a text contains an unpaired surrogate, which isn't valid Unicode.
        """
        for text in media:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(f"the text has a lone surrogate at character {error.start}, so it is no Unicode text; cut it") from error
        found = self._engine.encode_batch(list(media), add_special_tokens=False)
        return [torch.tensor([codes.ids], dtype=torch.long) for codes in found]

    def encode_chat(self, message: str) -> Codes:
        """Encode a user's message as codes [1, n] of a conversation, up to where the answer begins.

        Special tokens of the template count; those that the message spells out are plain text.

        Raises:
            ValueError: If the model has no chat template, or the template refuses the message.
        """
        if self.chat is None:
            raise ValueError("the tokenizer has no chat template, so it takes no messages; give a text with holes, such as 'a [3] cat'")
        special = [token.content for token in self._engine.get_added_tokens_decoder().values() if token.special]
        found: list[int] = []
        for text, counts in self.chat.pieces([{"role": "user", "content": message}], special):
            found += self.encode_special(text) if counts else self._engine.encode(text, add_special_tokens=False).ids
        return torch.tensor([found], dtype=torch.long)

    def encode_special(self, text: str) -> list[int]:
        """Codes of a text in which the special tokens of the vocabulary count."""
        if self._reader is None:
            self._reader = _engine(self._vocabulary)
        found: list[int] = self._reader.encode(text, add_special_tokens=False).ids
        return found

    def token(self, text: str) -> int | None:
        """Code of a token of the vocabulary, a special one too; None if there is none."""
        found: int | None = self._engine.token_to_id(text)
        return found

    @property
    def num_tokens(self) -> int:
        """Tokens of the vocabulary, special ones included; `codebook_size` may be larger."""
        return int(self._engine.get_vocab_size())

    def decode(self, codes: Sequence[Codes]) -> list[str]:
        """Decode each [1, n] grid to text. Special tokens (a model may sample them) are omitted.

        Raises:
            ValueError: If codes have another shape or are out of range or unknown.
        """
        return [self._engine.decode(self._checked(grid)) for grid in codes]

    def modality(self, name: str) -> Modality:
        """Describe this tokenizer as a modality of a token space, with the code that ends a text."""
        return dataclasses.replace(super().modality(name), end=self.end)

    def _checked(self, grid: Codes) -> list[int]:
        """Validate the grid of one text and return its ids."""
        if grid.ndim != 2 or grid.shape[0] != 1:
            raise ValueError(f"text codes have shape {tuple(grid.shape)}, wanted [1, n]")
        ids: list[int] = grid[0].tolist()
        if any(not 0 <= code < self.codebook_size for code in ids):
            raise ValueError(
                f"text codes must lie in [0, {self.codebook_size}), got {min(ids)} to {max(ids)} ({UNKNOWN} is an unknown cell)"
            )
        return ids


def _engine(vocabulary: str) -> Engine:
    """The engine of a vocabulary, without truncation and padding.

    Raises:
        ValueError: If the vocabulary cannot be read.
    """
    try:
        engine = Engine.from_str(vocabulary)
    except Exception as error:  # the tokenizers library raises no narrower type
        raise ValueError(f"tokenizer.json is damaged or of another format ({error}); save the tokenizer again") from error
    engine.no_truncation()
    engine.no_padding()
    return engine
