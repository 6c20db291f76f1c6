"""Tables and Hugging Face data sets: a row is an item, a bad row never stops the rest, no cell leads out of the data's folder."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from builders.sources import LIMIT, bad, captions, listed, write
from PIL import Image

from maskgen.data.sources.folder import HuggingFaceSource, TableSource
from maskgen.data.sources.media import BadMedia

PIXEL = io.BytesIO()
Image.new("RGB", (2, 2), "red").save(PIXEL, format="PNG")
PNG = PIXEL.getvalue()


ROWS = [{"say": "a cat", "file": "cat.png", "n": 3, "part": "train"}, {"say": "a dog", "file": "", "n": None, "part": None}]


def table(root: Path, kind: str) -> Path:
    write(root, {"cat.png": PNG})
    path = root / f"table.{kind}"
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        lines = [ROWS[0].keys(), *(row.values() for row in ROWS)]
        path.write_text("\n".join(mark.join("" if cell is None else str(cell) for cell in line) for line in lines), encoding="utf-8-sig")
    elif kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_row_is_an_item_in_every_kind_of_table(tmp_path: Path, kind: str) -> None:
    source = TableSource(table(tmp_path, kind), text="say", image="file", attributes=["n"], split="part")
    cat, dog = listed(source).values()
    assert (cat.key, dog.key) == ("table-00000000", "table-00000001")
    assert (captions(cat), cat.parts["image"].read(LIMIT), cat.split) == (["a cat"], PNG, "train")
    assert cat.attributes == {"n": "3" if kind in ("csv", "tsv") else 3}
    assert (captions(dog), set(dog.parts), dog.split) == (["a dog"], {"text"}, None)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="has no column 'words', its columns are say, file, n, part"):
        list(TableSource(table(tmp_path, kind), text="words").items())


def test_paths_in_a_table_may_not_leave_its_folder(tmp_path: Path) -> None:
    write(tmp_path, {"secret.png": PNG, "t/in.png": PNG, "media/a.png": PNG})
    (tmp_path / "t/link.png").symlink_to("../secret.png")
    names = [
        "in.png",
        "../secret.png",
        "/etc/passwd",
        "link.png",
        "a/../../secret.png",
        "\0",
        "x" * 5000,
        "file:///etc/passwd",
        "pipe:id",
        ".",
    ]
    rows = [json.dumps({"file": name}) for name in names] + ['{"file": 5}', '{"file": {"path": "in.png"}}']
    write(tmp_path, {"t/t.jsonl": "\n".join(rows)})
    first, *others = listed(TableSource(tmp_path / "t/t.jsonl", image="file")).values()
    assert first.parts["image"].read(LIMIT) == PNG
    for name, item in zip([*names[1:], "5", "{}"], others, strict=True):
        assert re.search("leads outside|missing|no path|wanted a path", bad(item, "image")), name
    write(tmp_path, {"t/u.csv": "file\na.png\n"})
    (item,) = listed(TableSource(tmp_path / "t/u.csv", image="file", root=tmp_path / "media")).values()
    assert item.parts["image"].read(LIMIT) == PNG


def test_one_bad_row_is_said_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"t.jsonl": '{"a": "one"}\n{\n[]\n{"a": 5}\n{"a": ["x", "y"]}\n{"a": ""}\n{"a": "\\ud800"}\n'})
    found = list(listed(TableSource(tmp_path / "t.jsonl", text="a")).values())
    assert [captions(found[0]), captions(found[4])] == [["one"], ["x", "y"]]
    assert "bad JSON" in bad(found[1], "text")
    assert "wanted an object" in bad(found[2], "text")
    assert "wanted a text or a list" in bad(found[3], "text")
    assert bad(found[5], "text") == "a row without text, picture or sound"
    with pytest.raises(BadMedia, match="no UTF-8"):
        captions(found[6])
    write(tmp_path, {"t.csv": b"a,b\none,1\ntwo\nth\xffree,3\n"})
    one, two, three = listed(TableSource(tmp_path / "t.csv", text="a")).values()
    assert captions(one) == ["one"]
    assert bad(two, "text") == "1 cells, wanted 2"
    with pytest.raises(BadMedia, match="no UTF-8"):
        captions(three)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "", "has no column 'a'"),
        ("t.csv", "a\n", "holds no rows"),
        ("t.csv", "a,a\n1,2\n", "names a column twice"),
        ("t.csv", 'a\n"b" c\n', "is no table at line 2"),
        ("t.json", "{", "is no JSON"),
        ("t.json", "[" * 100_000, "is no JSON"),
        ("t.json", "{}", "holds dict, wanted a list"),
        ("t.json", "[]", "holds no rows"),
        ("t.parquet", "PAR1", "cannot be read as Parquet"),
        ("t.xlsx", "-", "wanted one of csv, tsv"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error(tmp_path: Path, name: str, content: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        list(TableSource(write(tmp_path, {name: content}) / name, text="a").items())
    with pytest.raises(ValueError, match="does not exist"):
        list(TableSource(tmp_path / "gone.csv", text="a").items())
    with pytest.raises(ValueError, match="at least one of the columns"):
        TableSource(tmp_path / name)


def test_parquet_holds_media_as_bytes_structs_or_paths_and_says_what_is_missing(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path, {"a.png": PNG, "t/b.png": PNG})
    rows = [
        {"plain": PNG, "struct": {"bytes": PNG, "path": "x"}},
        {"plain": None, "struct": {"bytes": None, "path": "b.png"}},
        {"plain": b"", "struct": {"bytes": None, "path": "../a.png"}},
        {"plain": PNG, "struct": None},
        {"plain": PNG, "struct": {"bytes": None, "path": None}},
    ]
    path = tmp_path / "t/t.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    found = list(listed(TableSource(path, image="plain", audio="struct")).values())
    assert [set(item.parts) for item in found] == [{"image", "audio"}, {"audio"}, {"image", "audio"}, {"image"}, {"image"}]
    assert found[0].parts["image"].read(LIMIT) == found[0].parts["audio"].read(LIMIT) == found[1].parts["audio"].read(LIMIT) == PNG
    assert found[2].parts["image"].read(LIMIT) == b""
    assert "leads outside" in bad(found[2], "audio")
    with pytest.raises(BadMedia, match="at most 5"):
        found[0].parts["image"].read(5)


def test_a_bad_text_in_parquet_is_one_rows_fault(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    broken = pyarrow.StringArray.from_buffers(2, pyarrow.py_buffer(np.array([0, 2, 4], np.int32)), pyarrow.py_buffer(b"okb\xff"))
    parquet.write_table(pyarrow.table({"a": broken}), tmp_path / "t.parquet")
    good, wrong = listed(TableSource(tmp_path / "t.parquet", text="a")).values()
    assert captions(good) == ["ok"]
    assert "no UTF-8" in bad(wrong, "text")


@pytest.mark.parametrize(
    "texts",
    [
        ['"Hello there', "second line", 'good bye"', "last"],
        ['"Yes," he said.', "second", 'He said "no"', '"'],
        ['""', '"a" "b"', "it's", '" "'],
    ],
)
def test_quotes_in_a_tsv_are_text(tmp_path: Path, texts: list[str], caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{number}\t{text}\n" for number, text in enumerate(texts))
    found = listed(TableSource(write(tmp_path, {"t.tsv": f"path\tsentence\n{rows}"}) / "t.tsv", text="sentence"))
    assert [captions(item) for item in found.values()] == [[text] for text in texts]
    assert "quoted" not in caplog.text


def test_a_tsv_quoted_as_csv_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (item,) = listed(TableSource(write(tmp_path, {"t.tsv": 'say\n"He said ""no"""\n'}) / "t.tsv", text="say")).values()
    assert captions(item) == ['"He said ""no"""']
    assert "1 rows hold cells quoted as in CSV; in TSV quotes are text" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_cell_with_line_breaks_is_one_caption(tmp_path: Path, kind: str) -> None:
    text, path = "one\r\ntwo\nthree\u2028four", tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_bytes(f'say\n"{text}"\n'.encode())
    elif kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist([{"say": text}]), path)
    else:
        path.write_text(json.dumps({"say": text} if kind == "jsonl" else [{"say": text}]))
    (item,) = listed(TableSource(path, text="say")).values()
    assert captions(item) == ["one two three four"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_nan_is_a_missing_value(tmp_path: Path, kind: str) -> None:
    nan, path = float("nan"), write(tmp_path, {"a.png": PNG}) / f"t.{kind}"
    rows = [{"say": "a", "file": "a.png", "n": nan}, {"say": nan if kind != "parquet" else None, "file": "a.png", "n": 1.0}]
    rows += [{"say": "b", "file": nan, "n": 2.0}, {"say": ["c", nan], "file": "a.png", "n": 3.0}] if kind != "parquet" else []
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows))
    found = list(listed(TableSource(path, text="say", image="file", attributes=["n"])).values())
    wanted = [({"text", "image"}, {}), ({"image"}, {"n": 1.0}), ({"text"}, {"n": 2.0}), ({"text", "image"}, {"n": 3.0})]
    assert [(set(item.parts), item.attributes) for item in found] == wanted[: len(rows)]
    keyed = listed(TableSource(path, text="say", image="file", key="n"))
    assert next(iter(keyed)) == "t-00000000", "NaN is no key"


# Hugging Face (importing datasets takes seconds)


@pytest.mark.slow
def test_a_saved_data_set_is_read_undecoded(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    broken = PNG[:20]
    pictures = [{"bytes": PNG, "path": None}, None, {"bytes": broken, "path": "x.png"}]
    features = datasets.Features(
        {"picture": datasets.Image(), "say": datasets.Value("string"), "kind": datasets.ClassLabel(names=["x", "y"])}
    )
    whole = datasets.Dataset.from_dict({"picture": pictures, "say": ["a cat", "b", "c"], "kind": [0, 1, -1]}, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([0])}).save_to_disk(str(tmp_path / "d"))
    found = listed(HuggingFaceSource(str(tmp_path / "d"), image="picture", text="say", attributes=["kind"]))
    assert list(found) == ["test-00000000", "train-00000000", "train-00000001", "train-00000002"]
    assert [item.split for item in found.values()] == ["test", "train", "train", "train"]
    cat, empty, last = list(found.values())[1:]
    assert (captions(cat), cat.parts["image"].read(LIMIT), cat.attributes) == (["a cat"], PNG, {"kind": "x"})
    assert (set(empty.parts), last.attributes, last.parts["image"].read(LIMIT)) == ({"text"}, {}, broken)
    assert len(listed(HuggingFaceSource(str(tmp_path / "d"), split="test", image="picture"))) == 1
    with pytest.raises(ValueError, match="no split 'dev', it has train, test"):
        list(HuggingFaceSource(str(tmp_path / "d"), split="dev", text="say").items())
    with pytest.raises(ValueError, match="no column 'words'"):
        list(HuggingFaceSource(str(tmp_path / "d"), text="words").items())


@pytest.mark.slow
def test_a_data_set_without_splits_may_not_point_outside_of_its_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"picture": [{"bytes": None, "path": path} for path in ("/etc/passwd", "../secret.png", "in.png")], "say": ["a", "b", "c"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "one"))
    write(tmp_path, {"secret.png": PNG, "one/in.png": PNG})
    found = listed(HuggingFaceSource(str(tmp_path / "one"), image="picture", text="say"))
    assert list(found) == ["00000000", "00000001", "00000002"]
    outside, above, inner = found.values()
    assert "leads outside" in bad(outside, "image")
    assert "leads outside" in bad(above, "image")
    assert inner.parts["image"].read(LIMIT) == PNG
    whole = datasets.Dataset.from_dict(rows)
    whole.save_to_disk(str(tmp_path / "two"))
    (tmp_path / "two/state.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded"):
        list(HuggingFaceSource(str(tmp_path / "two"), text="say").items())


@pytest.mark.slow
def test_code_of_a_data_set_is_never_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def load(*arguments: object, **options: object) -> object:
        asked.append((arguments, options))
        return datasets.Dataset.from_dict({"say": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(list(HuggingFaceSource("owner/unheard-of", text="say", subset="x").items())) == 1
    assert asked == [(("owner/unheard-of", "x"), {})]


@pytest.mark.parametrize("name", ["pandas", "../x", "a/b/c", "/etc", "a/b.py/..", "", "https://x/y", "-a/b", "a/;id"])
def test_names_that_are_no_data_set_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no folder of save_to_disk and no owner/name"):
        HuggingFaceSource(name, text="a")
