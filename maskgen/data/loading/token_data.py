"""Lightning data module over token shards, for training generators: one folder, or a mixture of several by weight."""

from collections.abc import Sequence
from functools import cached_property, partial

import lightning

from maskgen.data.loading.grouping import Grouping
from maskgen.data.loading.loader import FixedBatches, ResumableLoader, share_of
from maskgen.data.loading.mixture import Filled, JoinedRows, Part, folders_of
from maskgen.data.loading.order import BalancedOrder, MixtureOrder, Order, ShuffledOrder, balanced_weights, fixed_subset
from maskgen.data.loading.rows import training_order
from maskgen.data.loading.samples import Joined, TokenRows, held_out_split, open_rows
from maskgen.data.loading.token_spaces import merged_space, require_tokenizer_of, token_space
from maskgen.data.shards.store import Check, Damage, ShardStore
from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.packing import pack, pack_rows
from maskgen.tokens.space import TokenSpace


class TokenData(lightning.LightningDataModule):
    """Packed batches of token samples (`TokenBatch`), from one folder of shards or a mixture of several in their common token space.

    Args:
        parts: What is mixed. A folder of token shards or a URL for fsspec is one part with the defaults of `Part`.
        batch_size: Rows per batch on each process.
        global_batch: Rows per batch on all processes together, instead of `batch_size`: a run then resumes on any number of processes that
            divides it.
        text_cells: Texts are filled with end codes to a random number of cells up to this; 0 leaves them as they are.
        length_multiple: Rows are padded to a multiple of this, so that a compiled model sees few shapes.
        grouping: How samples become rows: one by one (None), by length, packed.
        validation_splits: Splits to validate on, one loader for every part that has the split; "train" takes training rows.
            None takes "A", or the held-out split that the parts have (`held_out_split`).
        validation_rows: Samples of each split, the same ones always, with their first captions.
        num_workers: Worker processes; 0 reads in this process.
        check: "hash" reads all shards once at the start and compares their sha256; "size" compares their length alone.
        damage: At a damaged shard "stop", or "skip" it with a warning and a count.
        seed: Decides the order of training, captions, partners and text lengths.

    Raises:
        ValueError: If a folder holds no token shards, two have a modality of one name from different tokenizers, or a split is missing.
    """

    def __init__(
        self,
        parts: str | Sequence[Part],
        batch_size: int = 64,
        text_cells: int = 0,
        length_multiple: int = 1,
        grouping: Grouping | None = None,
        validation_splits: Sequence[str] | None = None,
        validation_rows: int = 128,
        num_workers: int = 0,
        check: Check = "hash",
        damage: Damage = "stop",
        seed: int = 0,
        global_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.parts = (Part(folder=parts),) if isinstance(parts, str) else tuple(parts)
        self.batch_size, self.text_cells, self.length_multiple = batch_size, text_cells, length_multiple
        self.grouping, self.num_workers, self.check, self.damage, self.seed = grouping, num_workers, check, damage, seed
        self.global_batch = global_batch
        self._splits, self.validation_rows = validation_splits, validation_rows
        self.train: list[Filled] = []
        self.validation: list[Filled] = []

    @cached_property
    def validation_splits(self) -> tuple[str, ...]:
        """Splits to validate on."""
        if self._splits is not None:
            return tuple(self._splits)
        shared = [set.intersection(*(set(ShardStore(folder).index().counts) for folder in part.folders)) for part in self.parts]
        return (held_out_split(set[str]().union(*shared), "A"),)

    @cached_property
    def _merged(self) -> tuple[TokenSpace, dict[str, str]]:
        return merged_space(folders_of(self.parts))

    @property
    def space(self) -> TokenSpace:
        """The token space of all parts."""
        return self._merged[0]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Modality to the fingerprint of its tokenizer."""
        return self._merged[1]

    def setup(self, stage: str) -> None:
        """Opens the training split of every part, and the validation splits that it has."""
        if self.train:
            return
        space = self.space
        self._check()
        self.train = [self._filled(part, "train", space) for part in self.parts]
        self.validation = [
            train if split == "train" else self._filled(part, split, space)
            for split in self.validation_splits
            for part, train in zip(self.parts, self.train, strict=True)
            if all(split in ShardStore(folder).index().counts for folder in part.folders)
        ]

    @property
    def rows_per_process(self) -> int:
        """Rows per batch on each process.

        Raises:
            ValueError: If the processes can't share the global batch evenly.
        """
        processes = share_of(self).world_size
        if self.global_batch is None:
            return self.batch_size
        if self.global_batch < 1 or self.global_batch % processes:
            raise ValueError(
                f"global_batch is {self.global_batch}, which {processes} processes can't share evenly; take a multiple of {processes}"
            )
        return self.global_batch // processes

    def _check(self) -> None:
        """Refuse options that would have no effect.

        Raises:
            ValueError: If no part has a validation split, a part drops a modality it lacks, or phrases or text_cells have no text.
        """
        indexes = {folder: token_space(ShardStore(folder)) for part in self.parts for folder in part.folders}
        for split in self.validation_splits:
            if not any(all(split in indexes[folder][0].counts for folder in part.folders) for part in self.parts):
                splits = sorted({name for index, _ in indexes.values() for name in index.counts})
                raise ValueError(f"no part has the validation split {split!r}; there are {', '.join(splits)}")
        for part in self.parts:
            names = {one.name: one.kind for folder in part.folders for one in indexes[folder][1].modalities}
            if lacking := [name for name in part.drop if name not in names]:
                raise ValueError(f"{part.folder} has no {', '.join(lacking)} to drop; it has {', '.join(names)}")
            if part.phrases is not None and "text" not in names:
                raise ValueError(f"{part.folder} has no text to put into phrases; it has {', '.join(names)}")
        if any(part.phrases for part in self.parts) and self.space.feature_width:
            raise ValueError("phrases change captions whose features were computed when the shards were built; leave phrases out")
        if self.text_cells and not any(one.kind == "text" and one.end is not None for one in self.space.modalities):
            raise ValueError(
                f"text_cells is {self.text_cells}, but no text of these shards has a code for its end; build them again or set it to 0"
            )

    def _filled(self, part: Part, split: str, space: TokenSpace) -> Filled:
        """The samples of one split of a part."""
        opened = [self._open(folder, split, part) for folder in part.folders]
        rows = opened[0] if part.join is None else JoinedRows(opened[0], opened[1], part.on, self.seed)
        return Filled(rows, space, self.text_cells, part.drop, self.seed)

    def _open(self, folder: str, split: str, part: Part) -> TokenRows:
        store = ShardStore(folder)
        index, space = token_space(store)
        if "text" in index.fingerprints:
            require_tokenizer_of(part.phrases, store, index)
        rows = open_rows(store, index, split, self.check, self.damage)
        return TokenRows(rows, space, part.canonical_share, part.longest_text, self.seed, part.phrases)

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end, parts mixed by weight."""
        orders = [self._order(part, filled) for part, filled in zip(self.parts, self.train, strict=True)]
        order = orders[0] if len(orders) == 1 else MixtureOrder(orders, [part.weight for part in self.parts], self.seed)
        data = Joined(self.train)
        collate = partial(pack_rows, space=self.space, multiple=self.length_multiple)
        return ResumableLoader(
            data, order, self.rows_per_process, collate, self.grouping, data.length, share=share_of(self), num_workers=self.num_workers
        )

    def _order(self, part: Part, filled: Filled) -> Order:
        """The endless order of one part."""
        if isinstance(filled.source, TokenRows):
            return training_order(filled.source.rows, part.balance, part.window, self.seed)
        if part.balance:
            return BalancedOrder(balanced_weights([filled.source.meta(row) for row in range(len(filled))], part.balance), self.seed)
        return ShuffledOrder([len(filled)], self.seed)

    def val_dataloader(self) -> list[FixedBatches]:
        """A fixed subset of each part's validation splits."""

        def collate(samples: Sequence[dict[str, Codes]]) -> TokenBatch:
            return pack(samples, self.space, self.length_multiple)

        orders = [fixed_subset([_key(data, row) for row in range(len(data))], self.validation_rows) for data in self.validation]
        rows = self.rows_per_process * share_of(self).world_size
        return [FixedBatches(data, order, rows, collate) for data, order in zip(self.validation, orders, strict=True)]


def _key(data: Filled, row: int) -> str:
    """Key of a sample."""
    return data.source.rows.key(row) if isinstance(data.source, TokenRows) else data.source.key(row)
