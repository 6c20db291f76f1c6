"""A build from the folder that img2dataset writes: tars of jpg, txt and json, beside them tables and statistics."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskgen.cli.main import main
from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import read_index


def sample(number: int) -> dict[str, bytes]:
    """Members of one sample, with the fields that img2dataset writes."""
    picture = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(picture, "jpeg")
    facts: dict[str, Any] = {
        "caption": f"picture number {number}", "url": f"https://a.example/{number}.jpg", "key": f"{number:09d}", "status": "success",
        "error_message": None, "width": 30, "height": 20, "original_width": 60, "original_height": 40, "exif": "{}", "sha256": "0" * 64,
        "punsafe": 0.1, "similarity": float("nan") if number == 2 else 0.3,
    }  # fmt: skip
    return {"jpg": picture.getvalue(), "json": json.dumps(facts).encode(), "txt": facts["caption"].encode()}


def write(folder: Path, shard: int, numbers: range) -> None:
    """One tar with its table and statistics."""
    with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
        for number in numbers:
            for ending, content in sample(number).items():
                header = tarfile.TarInfo(f"{number:09d}.{ending}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": 4, "successes": len(numbers), "failed_to_download": 1}))


def test_tars_are_read_and_tables_and_statistics_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "web"
    source.mkdir()
    write(source, 0, range(0, 3))
    write(source, 1, range(3, 5))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: web\nsources: [{kind: webdataset, path: web}]\nimage: {size: 16}\nsplits: {}\n")
    main(["data", "build", str(recipe), "--out", str(tmp_path / "raw"), "--workers", "1"])
    index = read_index(tmp_path / "raw")
    assert index.counts == {"train": 5}
    metas = [found["json"] for _, found in read_split(tmp_path / "raw", index, "train")]
    assert sorted(meta["captions"] for meta in metas) == [[f"picture number {number}"] for number in range(5)], "one caption, not two"
    third = next(meta for meta in metas if meta["url"].endswith("/2.jpg"))
    assert (third["original_width"], third["original_height"], third["punsafe"]) == (60, 40, 0.1)
    assert "similarity" not in third
    assert "error_message" not in third
    assert "built 5 train" in capsys.readouterr().out


def test_a_tar_that_a_stopped_download_left_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "web"
    source.mkdir()
    write(source, 0, range(0, 3))
    path = source / "00001.tar"
    path.write_bytes((source / "00000.tar").read_bytes()[:3000])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: web\nsources: [{kind: webdataset, path: web}]\nimage: {size: 16}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "build", str(recipe), "--out", str(tmp_path / "raw"), "--workers", "1"])
    assert stopped.value.code == 2
    assert "00001.tar" in capsys.readouterr().err
