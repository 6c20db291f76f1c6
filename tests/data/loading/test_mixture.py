"""Mixtures of shards: the merged space, joined samples, filled texts, exact draws."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.mixed_shards import AUDIO, END, IMAGE, SPEAKER, TEXT, TRANSCRIPT, picture, write, write_both

from maskgen.data.loading.mixture import Part
from maskgen.data.loading.token_data import TokenData
from maskgen.data.loading.token_spaces import merged_space
from maskgen.tokens.packing import unpack
from maskgen.tokens.space import TokenSpace


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_both(tmp_path_factory.mktemp("mixture"))


def data(parts: list[Part], **options: Any) -> TokenData:
    made = TokenData(parts, **{"batch_size": 4, "text_cells": 9, "validation_rows": 4, **options})
    made.setup("fit")
    return made


def samples(made: TokenData, batches: int = 8) -> list[dict[str, torch.Tensor]]:
    found: list[dict[str, torch.Tensor]] = []
    loader = made.train_dataloader()
    while len(found) < batches * made.batch_size:
        for batch in loader:
            found += unpack(batch, made.space)
    return found[: batches * made.batch_size]


def test_the_space_holds_all_modalities_in_the_order_in_which_they_come(folders: tuple[str, str]) -> None:
    space, prints = merged_space(folders)
    assert space == TokenSpace([TEXT, IMAGE, AUDIO, SPEAKER, TRANSCRIPT])
    assert prints["transcript"] == "transcript-print"
    assert merged_space(folders[::-1])[0].modalities[0] == AUDIO


def test_shards_of_other_tokenizers_are_refused_by_name(folders: tuple[str, str], tmp_path: Path) -> None:
    other = write(tmp_path / "other", TokenSpace([TEXT]), {"train": [picture(0)]}, {"text": "another"})
    with pytest.raises(ValueError, match="have text from other tokenizers \\(text-print, another\\)"):
        merged_space([folders[0], other])
    larger = write(tmp_path / "larger", TokenSpace([replace(TEXT, codebook_size=12)]), {"train": [picture(0)]})
    with pytest.raises(ValueError, match="have text from other tokenizers"):
        merged_space([folders[0], larger])


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ({}, {"validation_splits": ["a"]}, "no part has the validation split 'a'; there are A, train"),
        ({"drop": ["txt"]}, {}, "has no txt to drop; it has text, image"),
    ],
)
def test_what_would_do_nothing_is_refused(folders: tuple[str, str], part: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data([Part(folder=folders[0], **part)], **options)


def test_texts_without_an_end_cannot_be_filled(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "endless", TokenSpace([replace(TEXT, end=None)]), {"train": [picture(n) for n in range(4)], "A": [picture(1)]}
    )
    with pytest.raises(ValueError, match="text_cells is 9, but no text of these shards has a code for its end"):
        data([Part(folder=folder)])
    assert len(samples(data([Part(folder=folder)], text_cells=0), 1)) == 4


def test_parts_come_by_weight_and_joined_samples_agree(folders: tuple[str, str]) -> None:
    parts = [
        Part(folder=folders[0], weight=2.0),
        Part(folder=folders[1], weight=1.0),
        Part(folder=folders[0], join=folders[1], weight=1.0, drop=["text"]),
    ]
    found = samples(data(parts), 128)
    kinds = Counter(tuple(sorted(sample)) for sample in found)
    assert set(kinds) == {("image", "text"), ("audio", "speaker", "transcript"), ("audio", "image", "speaker", "transcript")}
    assert kinds["image", "text"] == pytest.approx(256, abs=20)
    joined = [sample for sample in found if {"image", "audio"} <= set(sample)]
    assert all(int(sample["image"][0, 0, 0]) == int(sample["audio"][0, 0]) for sample in joined)
    assert {int(sample["image"][0, 0, 0]) for sample in joined} == {2, 3, 4}


def test_no_partner_is_an_error(folders: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="agree in 'colour'"):
        data([Part(folder=folders[0], join=folders[1], on="colour")])


def test_texts_are_filled_to_every_length_behind_their_end(folders: tuple[str, str]) -> None:
    made = data([Part(folder=folders[0], canonical_share=1.0)])
    lengths = set()
    for sample in samples(made, 80):
        text, label = sample["text"][0], int(sample["image"][0, 0, 0])
        assert text[: label + 1].eq(label).all()
        assert text[label + 1 :].eq(END).all()
        assert len(text) <= 9
        lengths.add((label, len(text)))
    assert {length for label, length in lengths if label == 0} == set(range(2, 10))
    held_out = [sample for loader in made.val_dataloader() for batch in loader for sample in unpack(batch, made.space)]
    assert [len(sample["text"][0]) for sample in held_out] == [9]


def test_a_resumed_mixture_goes_on_with_the_same_samples(folders: tuple[str, str]) -> None:
    parts = [Part(folder=folders[0]), Part(folder=folders[0], join=folders[1])]
    whole, again = data(parts).train_dataloader(), data(parts).train_dataloader()
    batches = iter(whole)
    next(batches)
    state = whole.state_dict()
    expected = next(batches)
    again.load_state_dict(state)
    assert next(iter(again)).ids.equal(expected.ids)


def test_validation_takes_every_part_that_has_the_split(folders: tuple[str, str]) -> None:
    parts = [Part(folder=folders[0]), Part(folder=folders[1]), Part(folder=folders[0], join=folders[1])]
    made = data(parts)
    rows = [[sorted(sample) for batch in loader for sample in unpack(batch, made.space)] for loader in made.val_dataloader()]
    assert [len(found) for found in rows] == [1, 2, 1]
    assert rows[2] == [["audio", "image", "speaker", "text", "transcript"]]
