"""The emoji corpus: planted packages, captions, letterbox, splits and the rows in the repository."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgen.data.corpora import npm
from maskgen.data.corpora.emoji import build_emoji
from maskgen.data.corpora.emoji_captions import captions, natural, with_article
from maskgen.data.corpora.emoji_drawings import Drawing, code_points, letterboxed_raster, rasterise, render_drawing
from maskgen.data.corpora.emoji_splits import HeldOut, concept_of, gender_of, held_out
from maskgen.data.shards.format import Sample, read_split
from maskgen.data.shards.manifest import read_index

EMOJI = Path(__file__).parents[3] / "data" / "emoji"
TONES = ["light", "medium-light", "medium", "medium-dark", "dark"]


def sample_rows() -> Iterator[tuple[str, Sample]]:
    index = read_index(EMOJI / "sample")
    for split in index.counts:
        yield from read_split(EMOJI / "sample", index, split)


# Splits


@pytest.mark.parametrize(
    ("base", "concept", "gender"),
    [
        ("woman astronaut", "astronaut", "woman"),
        ("astronaut", "astronaut", ""),
        ("man walking: facing right", "walking", "man"),
        ("merman", "merperson", "man"),
        ("woman and man holding hands", "holding hands", ""),
        ("backhand index pointing left", "backhand index pointing", ""),
        ("left-right arrow", "arrow", ""),
        ("woman", "person", "woman"),
        ("family: man, woman, girl, boy", "family", ""),
        ("deaf person", "deaf", ""),
    ],
)
def test_concept_strips_gender_and_direction(base: str, concept: str, gender: str) -> None:
    assert concept_of(base) == concept
    assert gender_of(base) == gender


def corpus() -> list[tuple[str, int, str]]:
    """A corpus with toned roles, untoned things and three families."""
    roles = [f"{gender}role{number}" for number in range(60) for gender in ("man ", "woman ", "")]
    things = [f"thing{number}" for number in range(400)]
    families = ("noto", "fluent", "twemoji")
    return [(base, tone, family) for family in families for base in roles for tone in range(6)] + [
        (t, 0, f) for f in families for t in things
    ]


def test_every_rule_holds_out_what_it_says_and_nothing_it_must_not() -> None:
    rows = corpus()
    held = held_out(rows)
    splits = {row: held.split_of(*row) for row in rows}
    train = {row for row, split in splits.items() if split == "train"}
    assert set(splits.values()) == {"train", "A", "B", "C", "D"}
    assert not {(b, t) for b, t, _ in train} & {(b, t) for (b, t, _), split in splits.items() if split == "A"}
    assert {tone for _, tone, _ in train} == set(range(6))
    assert len(held.tone) == 180
    assert all(1 <= tone <= 5 for tone in held.tone.values())
    twins = [(held.tone[f"man role{n}"], held.tone[f"woman role{n}"], held.tone[f"role{n}"]) for n in range(60)]
    assert all(len(set(tones)) == 1 for tones in twins)
    for concept, gender in held.gender.items():
        assert not any(concept_of(b) == concept and gender_of(b) == gender for b, _, _ in train)
    assert not any(concept_of(b) in held.concepts for b, _, _ in train)
    assert all(tone == 0 for (_, tone, _), split in splits.items() if split == "D")
    for concept, family in held.family.items():
        assert {f for b, _, f in train if concept_of(b) == concept} <= {"noto", "fluent", "twemoji"} - {family}


def test_splits_do_not_depend_on_order_or_on_other_rows() -> None:
    rows = corpus()
    assert held_out(reversed(rows)) == held_out(rows)
    fewer = held_out(row for row in rows if row[0] != "thing7")
    assert fewer.tone == held_out(rows).tone
    assert fewer.concepts | {"thing7"} == held_out(rows).concepts | {"thing7"}


def test_recorded_splits_agree_with_the_sample_and_with_the_manifest() -> None:
    record = json.loads((EMOJI / "splits.json").read_text(encoding="utf-8"))
    held = HeldOut.from_dict(record["held_out"])
    assert held.to_dict() == record["held_out"]
    found = set()
    for _, sample in sample_rows():
        row = sample["json"]
        found.add(row["split"])
        assert held.split_of(row["base"], row["tone"], row["family"]) == row["split"]
        assert concept_of(row["base"]) == row["concept"]
    assert found == {"train", "A", "B", "C", "D"}
    assert record["labels"]["A"] == 330


# Captions


@pytest.mark.parametrize(
    ("label", "style", "wanted"),
    [
        ("red heart", "flat", "a red heart, flat style"),
        ("woman astronaut: dark skin tone", "flat", "a woman astronaut with dark skin, flat style"),
        ("man: medium-dark skin tone, beard", "3d", "a man with a beard and medium-dark skin, 3d style"),
        ("woman: red hair", "noto", "a woman with red hair, noto style"),
        ("person: light skin tone, bald", "noto", "a bald person with light skin, noto style"),
        ("flag: France", "twemoji", "the flag of france, twemoji style"),
        ("kiss: woman, man, dark skin tone, light skin tone", "noto", "a kiss of a woman and a man with dark and light skin, noto style"),
        ("woman lifting weights", "noto", "a woman lifting weights, noto style"),
        ("people hugging", "noto", "people hugging, noto style"),
        ("OK hand", "color", "an ok hand, color style"),
        ("unicorn", "color", "a unicorn, color style"),
        ("hourglass done", "color", "an hourglass done, color style"),
        ("one o’clock", "color", "a clock showing one o'clock, color style"),
        ("glasses", "flat", "glasses, flat style"),
        ("cactus", "flat", "a cactus, flat style"),
    ],
)
def test_canonical_caption(label: str, style: str, wanted: str) -> None:
    assert captions(label, style, (), "key")[0] == wanted


def test_alternatives_keep_tone_and_label_and_take_tags_by_key_alone() -> None:
    tags = ["space", "rocket", "woman", "moon", "star"]
    first = captions("woman astronaut: dark skin tone", "flat", tags, "key")
    assert first == captions("woman astronaut: dark skin tone", "flat", list(reversed(tags)), "key")
    assert 5 <= len(first) <= 7
    assert len(set(first)) == len(first)
    assert all("woman astronaut with dark skin" in caption for caption in first)
    assert not any(caption.endswith("woman") for caption in first)
    assert len({tuple(captions("woman astronaut: dark skin tone", "flat", tags, str(key))) for key in range(20)}) > 5


@settings(deadline=None)
@given(st.text(alphabet="abcdefgh ", min_size=1).filter(str.strip))
def test_articles_never_change_the_words(text: str) -> None:
    assert with_article(text.strip()).endswith(natural(text.strip()))


# Drawings


def test_letterbox_centres_and_never_stretches() -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (40, 20), (255, 0, 0, 255)).save(stream, format="PNG")
    red = (letterboxed_raster(stream.getvalue(), 32) == (255, 0, 0)).all(axis=-1)
    assert red.any(axis=1).sum() in range(13, 17)
    assert red.any(axis=0).all()
    svg = rasterise(Drawing(body='<rect width="36" height="18" fill="#f00"/>', box=(0, 0, 36, 18)), 64)
    rows = (svg == (255, 0, 0)).all(axis=(1, 2)).nonzero()[0]
    assert (rows.min(), rows.max()) == (16, 47)
    assert (svg[:16] == 255).all()
    assert (svg[48:] == 255).all()


def test_transparent_colour_leaves_no_fringe() -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (256, 256), (0, 0, 0, 0)).save(stream, format="WEBP", lossless=True, exact=True)
    assert (letterboxed_raster(stream.getvalue(), 64) == 255).all()


def test_a_flip_mirrors_inside_the_view_box() -> None:
    body = '<rect x="2" width="10" height="32" fill="#00f"/>'
    plain, mirrored = (render_drawing(Drawing(body=body, box=(2, 0, 30, 32), flipped=flip), 64) for flip in (False, True))
    assert (plain == mirrored[:, ::-1]).mean() > 0.99
    assert (plain != mirrored).any()


def test_code_points_are_padded_and_lose_the_selector() -> None:
    assert code_points("2764-fe0f") == "2764"
    assert code_points("23-fe0f-20e3") == "0023-20E3"
    assert code_points("1f3f4-e0067_e0062") == "1F3F4-E0067-E0062"


# Building


def package(folder: Path, name: str, files: dict[str, bytes]) -> dict[str, str]:
    """A tarball as npm writes it; returns the recipe's entry."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, content in files.items():
            header = tarfile.TarInfo(f"package/{path}")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / npm.tarball_name(name, "1.0.0")).write_bytes(stream.getvalue())
    return {"package": name, "version": "1.0.0", "sha256": hashlib.sha256(stream.getvalue()).hexdigest()}


def planted_recipe(folder: Path) -> Path:
    """A recipe over planted packages: a toned hand, a heart, a copy of the heart with a longer label, a mirrored alias."""
    downloads = folder / "build" / "downloads"
    skins = [{"label": f"hand: {tone} skin tone", "hexcode": f"1F44B-1F3F{'BCDEF'[n]}", "tone": n + 1} for n, tone in enumerate(TONES)]
    two = {"label": "hand: light skin tone, dark skin tone", "hexcode": "1FAF1", "tone": [1, 5]}
    data = [
        {"label": "hand", "hexcode": "1F44B", "group": 1, "subgroup": 0, "tags": ["wave"], "skins": [*skins, two]},
        {"label": "twin of the red heart", "hexcode": "2765", "group": 0, "subgroup": 1, "tags": []},
        {"label": "red heart", "hexcode": "2764-FE0F", "group": 0, "subgroup": 1, "tags": ["love"]},
        {"label": "arrow", "hexcode": "2B05", "group": 0, "subgroup": 1, "tags": []},
    ]
    groups = {"groups": {"0": "smileys", "1": "people"}, "subgroups": {"0": "hands", "1": "hearts"}}
    labels = {"en/data.json": json.dumps(data).encode(), "meta/groups.json": json.dumps(groups).encode()}
    square = '<rect width="{}" height="16" fill="{}"/>'
    icons = {f"hand-{n}": {"body": square.format(16, f"#{n}{n}0000")} for n in range(7)}
    icons |= {"heart": {"body": square.format(16, "#f00")}, "left": {"body": square.format(8, "#0f0")}}
    chars = {"2764": "heart", "2765": "heart", "2b05": "right", "1f44b": "hand-0", "1faf1": "hand-6"}
    chars |= {f"1f44b-1f3f{'bcdef'[n]}": f"hand-{n + 1}" for n in range(5)}
    aliases = {"right": {"parent": "left", "hFlip": True}}
    set_ = {"prefix": "p", "icons": icons, "aliases": aliases, "width": 16, "height": 16}
    style = package(downloads, "@planted/set", {"icons.json": json.dumps(set_).encode(), "chars.json": json.dumps(chars).encode()})
    recipe = {"name": "planted", "size": 16, "shard_rows": 4, "licence": "none", "captions": package(downloads, "labels", labels)}
    recipe |= {"styles": {"plain": {"family": "noto", "kind": "iconify", **style}}, "sample": ["red heart"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_a_planted_build_gives_every_row_once_and_the_same_bytes_again(tmp_path: Path) -> None:
    recipe = planted_recipe(tmp_path)
    index = build_emoji(recipe, processes=1)
    raw = tmp_path / "build" / "raw"
    rows = {sample["json"]["label"]: sample for split in index.counts for _, sample in read_split(raw, index, split)}
    tones = {label: sample["json"]["tone"] for label, sample in rows.items()}
    assert tones == {
        "hand": 0,
        **{f"hand: {t} skin tone": n + 1 for n, t in enumerate(TONES)},
        "hand: light skin tone, dark skin tone": 0,
    } | {
        "red heart": 0,
        "arrow": 0,
    }
    assert (rows["red heart"]["png"] == (255, 0, 0)).all()
    assert (rows["arrow"]["png"][0, [0, 15]] == [(255, 255, 255), (0, 255, 0)]).all()
    assert index.counts["A"] == 1
    assert read_index(tmp_path / "build" / "sample").counts == {rows["red heart"]["json"]["split"]: 1}
    assert json.loads((tmp_path / "build" / "records" / "splits.json").read_text())["pairs_before_duplicates"] == 10
    before = {path: path.read_bytes() for path in tmp_path.rglob("build/r*/*")}
    build_emoji(recipe, processes=1)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("build/r*/*")}


def test_a_changed_tarball_and_a_missing_npm_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = package(tmp_path, "labels", {})
    with pytest.raises(ValueError, match="the recipe wants 000"):
        npm.fetch("labels", "1.0.0", "000", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert npm.fetch(**entry, folder=tmp_path).name == "labels-1.0.0.tgz"
    with pytest.raises(ValueError, match=r"npm is not on the PATH.*install Node.js"):
        npm.fetch("other", "1.0.0", "000", tmp_path)


def test_unknown_recipe_keys_and_kinds_are_refused(tmp_path: Path) -> None:
    path = planted_recipe(tmp_path)
    plain = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**plain, "colour": 1}))
    with pytest.raises(ValueError, match="colour"):
        build_emoji(path, processes=1)
    plain["styles"]["plain"]["kind"] = "png"
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ValueError, match="wanted iconify or webp"):
        build_emoji(path, processes=1)


# The rows in the repository


def test_the_sample_holds_real_rows_of_all_styles() -> None:
    rows = list(sample_rows())
    styles = {row["json"]["style"] for _, row in rows}
    assert styles == {"noto", "flat", "color", "3d", "twemoji"}
    assert 40 <= len(rows) <= 50
    assert sum(path.stat().st_size for path in (EMOJI / "sample").iterdir()) < 300_000
    hearts = [row for _, row in rows if row["json"]["label"] == "red heart"]
    assert len(hearts) == 5
    for row in hearts:
        red, green, blue = (np.asarray(row["png"][32, 32], dtype=int)[channel] for channel in range(3))
        assert red > 180 > max(green, blue)
        assert (row["png"][0, 0] > 240).all()
