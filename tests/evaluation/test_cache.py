"""The cache: what is known is not made again, and what changed is."""

from pathlib import Path

import torch

from maskgen.evaluation.cache import cached, digest, remembered


def test_digest_tells_order_shape_and_type() -> None:
    numbers = torch.arange(6, dtype=torch.uint8)
    found = {digest("a", "b"), digest("b", "a"), digest("ab"), digest(numbers), digest(numbers.view(2, 3)), digest(numbers.to(torch.int8))}
    assert len(found) == 6


def test_second_call_reads_what_the_first_made(tmp_path: Path) -> None:
    first = cached(tmp_path, "name", lambda: {"x": torch.ones(3)})
    second = cached(tmp_path, "name", lambda: {"x": torch.zeros(3)})
    assert torch.equal(first["x"], second["x"])
    assert [path.name for path in tmp_path.iterdir()] == ["name.safetensors"]


def test_only_new_items_are_computed_and_the_order_is_that_of_the_keys(tmp_path: Path) -> None:
    asked: list[str] = []
    values = {digest(str(number)): torch.tensor([float(number)]) for number in range(7)}

    def rows(keys: list[str]) -> torch.Tensor:
        def make(places: list[int]) -> torch.Tensor:
            asked.extend(keys[place] for place in places)
            return torch.stack([values[keys[place]] for place in places])

        return remembered(tmp_path, "kind", keys, make, part_size=2)

    names = list(values)
    first = rows([names[3], names[1], names[3], names[5]])
    assert first.flatten().tolist() == [3, 1, 3, 5]
    assert len(asked) == 3
    second = rows(names[::-1])
    assert second.flatten().tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert sorted(asked) == sorted(names)


def test_without_a_folder_everything_is_computed() -> None:
    keys = [digest("a"), digest("b")]
    rows = remembered(None, "kind", keys, lambda places: torch.tensor([[float(place)] for place in places]))
    assert rows.flatten().tolist() == [0, 1]
