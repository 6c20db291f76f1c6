"""The vocabulary of Qwen2's tokenizer from the files of its older form, which Dream publishes: vocab.json and merges.txt."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from maskgen.interop.base import read_json
from maskgen.networks.backbone import Vocabulary
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Engine

WORDS, MERGES, SETTINGS = "vocab.json", "merges.txt", "tokenizer_config.json"
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How a text is cut before its pieces are merged: a fact of Qwen2's tokenizer."""


def has_old_vocabulary(folder: Path) -> bool:
    """Whether a folder has the files of the older form."""
    return (folder / WORDS).is_file() and (folder / MERGES).is_file()


def qwen_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a folder's files, as that of a tokenizer.json; added tokens are those of tokenizer_config.json.

    Raises:
        ValueError: If a file is missing or damaged, or the numbers of the added tokens have holes.
    """
    words, settings = read_json(folder / WORDS), read_json(folder / SETTINGS)
    lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version:")]
    try:
        engine = Engine(models.BPE(vocab=dict(words), merges=merges))  # type: ignore[arg-type]
    except Exception as error:  # the tokenizers library raises no narrower type
        raise ValueError(f"{folder / WORDS} and {MERGES} are no vocabulary ({error}); copy the model again") from error
    engine.normalizer = normalizers.NFC()
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    engine.decoder = decoders.ByteLevel()
    _add(engine, settings.get("added_tokens_decoder"), folder / SETTINGS)
    roles = {role: one.get("content") if isinstance(one, Mapping) else one for role, one in settings.items() if role.endswith("_token")}
    return Vocabulary(engine.to_str(), {role: text for role, text in roles.items() if isinstance(text, str)})


def _add(engine: Engine, added: Any, source: Path) -> None:
    """Add tokens, each under its own number.

    Raises:
        ValueError: If there are none, or one would get another number.
    """
    if not isinstance(added, Mapping) or not all(str(number).isdigit() and isinstance(one, Mapping) for number, one in added.items()):
        raise ValueError(f"{source} has no added_tokens_decoder with the special tokens; copy the model again")
    ordered = [one for _, one in sorted(added.items(), key=lambda item: int(item[0]))]
    for special, run in groupby(ordered, key=lambda one: bool(one.get("special"))):  # one call a run: each call costs a pass over all
        tokens = [AddedToken(str(one.get("content")), special=special, normalized=bool(one.get("normalized"))) for one in run]
        (engine.add_special_tokens if special else engine.add_tokens)(tokens)
    for number, one in added.items():
        if (found := engine.token_to_id(str(one.get("content")))) != int(number):
            raise ValueError(f"{source} gives {one.get('content')!r} the number {number}, and it would get {found}; copy the model again")
