"""Zero-shot naming: a judge that knows is right, one that knows nothing is not, and candidates are fair."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders.toned_rows import ROWS, row
from PIL import Image

from maskgen.evaluation.image.zero_shot import evaluate_zero_shot, own_rank, rival_captions, tone_captions


def oracle(picture: Image.Image, captions: Sequence[str]) -> list[float]:
    number = picture.getpixel((0, 0))[0]  # type: ignore[index]
    return [float(caption == ROWS[number].caption) for caption in captions]


def test_an_oracle_is_always_right_and_one_that_knows_nothing_never(toned: Path, tmp_path: Path) -> None:
    report = evaluate_zero_shot(toned, tmp_path / "made", oracle, limit=20, candidates=5, facts={"model": "oracle"})
    assert [report[name] for name in ("model", "pictures", "top_1", "top_5", "tone")] == ["oracle", 20, 1.0, 1.0, 1.0]
    assert (report["top_1_chance"], report["top_5_chance"], report["tone_chance"]) == (0.2, 1.0, 1 / 6)
    assert json.loads((tmp_path / "made" / "zeroshot.json").read_text()) == report
    blind = evaluate_zero_shot(toned, tmp_path, lambda picture, captions: [0.0] * len(captions), candidates=6)
    assert (blind["top_1"], blind["top_5"], blind["tone"]) == (0.0, 0.0, 0.0), "equal scores count against the picture"


def test_rivals_have_the_style_of_the_picture_another_label_and_no_fixed_place() -> None:
    places = set()
    for one in ROWS:
        captions = rival_captions(one, ROWS, 6)
        assert len(set(captions)) == 6
        assert all(caption.endswith(f"{one.style} style") for caption in captions)
        assert captions == rival_captions(one, ROWS[::-1], 6)
        places.add(captions.index(one.caption))
    assert len(places) > 3
    with pytest.raises(ValueError, match="found 12 captions in flat style, wanted 13"):
        rival_captions(ROWS[0], ROWS, 13)


def test_tones_stand_in_their_own_place_in_the_caption() -> None:
    captions = tone_captions(row(3, 2, "flat"))
    assert captions[0] == "subject 3, flat style"
    assert captions[2] == row(3, 2, "flat").caption
    assert captions[5] == "subject 3 with dark skin, flat style"
    with pytest.raises(ValueError, match="names no skin tone"):
        tone_captions(row(3, 0, "flat"))


def test_a_split_that_was_trained_on_or_is_not_there_is_refused(toned: Path, tmp_path: Path) -> None:
    for split in ("train", "X"):
        with pytest.raises(ValueError, match=f"no held-out split '{split}', there are A"):
            evaluate_zero_shot(toned, tmp_path, oracle, split)
    assert own_rank([1.0, 3.0, 2.0], 2) == 1
