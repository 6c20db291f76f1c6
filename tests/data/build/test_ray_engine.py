"""The Ray engine writes the bytes of the local one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgen.cli.main import main


@pytest.mark.slow
def test_ray_and_local_builds_are_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install maskgen[ray]")
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text(f"picture number {number}")
    (tmp_path / "pictures" / "5.png").write_bytes(b"no picture")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: p\nsources: [{kind: folder, path: pictures}]\nimage: {size: 16}\nshard_samples: 4\nmax_bad: 0.5\n")
    for engine in ("local", "ray"):
        main(["data", "build", str(recipe), "--out", str(tmp_path / engine), "--workers", "2", "--engine", engine])
    local, ray = ({path.name: path.read_bytes() for path in (tmp_path / engine).iterdir()} for engine in ("local", "ray"))
    assert local == ray
    assert len([name for name in local if name.endswith(".tar")]) == 3
