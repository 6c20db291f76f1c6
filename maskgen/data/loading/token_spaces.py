"""The token space of shards: of one folder, and of several together."""

from collections.abc import Sequence

from maskgen.data.loading.caption_templates import Phrases
from maskgen.data.shards.codes import index_space
from maskgen.data.shards.manifest import Index
from maskgen.data.shards.store import ShardStore
from maskgen.tokens.space import Modality, TokenSpace


def merged_space(folders: str | Sequence[str]) -> tuple[TokenSpace, dict[str, str]]:
    """The token space of folders of shards: modalities in the order in which they first come, and their tokenizers' fingerprints.

    Args:
        folders: Folder or URL of token shards with index.json, or several. One string gives space and fingerprints as in its index.json.

    Raises:
        ValueError: If a folder holds no token shards, or two have a modality of one name from different tokenizers; names both.
    """
    if isinstance(folders, str):
        index, space = token_space(ShardStore(folders))
        return space, dict(index.fingerprints)
    members: dict[str, tuple[Modality, str | None, str]] = {}
    specials: dict[tuple[str, ...], str] = {}
    for place in folders:
        index, space = token_space(ShardStore(place))
        specials.setdefault(space.specials, place)
        for modality in space.modalities:
            made = index.fingerprints.get(modality.name)
            known, tokenizer, where = members.setdefault(modality.name, (modality, made, place))
            if tokenizer != made or not known.same_ids(modality):
                raise ValueError(
                    f"{where} and {place} have {modality.name} from other tokenizers ({tokenizer}, {made}); "
                    "rebuild one with the tokenizer of the other: maskgen data tokenize"
                )
            if known.end is None and modality.end is not None:
                members[modality.name] = (modality, made, where)
    if len(specials) > 1:
        raise ValueError(f"{' and '.join(specials.values())} have different special ids; rebuild one like the other: maskgen data tokenize")
    prints = {name: made for name, (_, made, _) in members.items() if made is not None}
    return TokenSpace([modality for modality, _, _ in members.values()], next(iter(specials), ())), prints


def named(folders: str | Sequence[str]) -> str:
    """Folders as an error names them."""
    return folders if isinstance(folders, str) else ", ".join(folders)


def token_space(store: ShardStore) -> tuple[Index, TokenSpace]:
    """Index and token space of token shards.

    Raises:
        ValueError: If there are none, or the index holds no token space.
    """
    index = store.index()
    return index, index_space(index, store.place)


def require_tokenizer_of(phrases: Phrases | None, store: ShardStore, index: Index) -> None:
    """Refuses phrases with another text tokenizer than that of the shards.

    Raises:
        ValueError: With both fingerprints.
    """
    if phrases is not None and phrases.tokenizer.fingerprint != index.fingerprints.get("text"):
        raise ValueError(
            f"the phrases' text tokenizer ({phrases.tokenizer.fingerprint}) is not that of {store.place} "
            f"({index.fingerprints.get('text')}); give phrases the bundle with which the shards were made"
        )
