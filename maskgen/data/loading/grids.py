"""Code grids of the samples in shards, and whether a training's configuration agrees with them."""

from collections.abc import Mapping, Sequence

from maskgen.data.loading.rows import ShardRows
from maskgen.data.loading.token_spaces import named
from maskgen.data.shards.store import ShardStore
from maskgen.tokens.space import TokenSpace

MOST_ROWS = 64
"""Samples of each folder that are looked at."""


def sample_grids(folders: str | Sequence[str], space: TokenSpace) -> dict[str, set[tuple[int, ...]]]:
    """Shapes of the code grids of each modality, in the first samples of each folder; without texts and features, which have alternatives.

    Shards that cannot be read are passed over: the data reports them.
    """
    found: dict[str, set[tuple[int, ...]]] = {one.name: set() for one in space.modalities if not (one.is_text or one.has_vectors)}
    fields = {f"{name}.npy": name for name in found}
    for folder in [folders] if isinstance(folders, str) else folders:
        store = ShardStore(folder)
        rows = ShardRows(store.locate, store.index().shards)
        for row in range(min(len(rows), MOST_ROWS)):
            try:
                members = rows.read(row, list(fields))
            except ValueError:
                break
            for field, array in members.items():
                found[fields[field]].add(tuple(array.shape[1:]))
    return found


def checked_grids(folders: str | Sequence[str], space: TokenSpace, given: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The code grids of a configuration, and those that all samples of a modality share where it names none.

    A grid in time alone has any length: speech and texts are generated at other lengths than they were learned at. Grids with rows and
    columns, and images of any number of axes, have the size of a sample, unless the build has buckets.

    Args:
        folders: Folder or URL of token shards, or several.
        space: Their token space.
        given: Modality to the code grid that generation fills by default.

    Returns:
        `given`, and each grid with rows and columns that it lacks.

    Raises:
        ValueError: If a grid has another number of axes than the samples, or another size where size matters.
    """
    grids = {name: list(grid) for name, grid in given.items()}
    for name, shapes in sample_grids(folders, space).items():
        sized = space.modality(name).kind == "image" or all(len(shape) > 1 for shape in shapes)
        if not shapes:
            continue
        if name not in grids:
            if sized and len(shapes) == 1:
                grids[name] = list(next(iter(shapes)))
        elif tuple(grids[name]) not in shapes and (
            (sized and not (space.modality(name).kind == "image" and _in_buckets(folders)))
            or len(grids[name]) not in {len(shape) for shape in shapes}
        ):
            have = " or ".join(str(list(shape)) for shape in sorted(shapes)[:3])
            raise ValueError(
                f"the configuration's grid of {name} is {grids[name]}, the codes in {named(folders)} have {have}; "
                "write that grid, or leave it out"
            )
    for name, grid in grids.items():
        if space.modality(name).is_text and len(grid) != 1:
            raise ValueError(f"the configuration's grid of {name} is {grid}, a text has one axis; write one number, such as [16]")
    return grids


def _in_buckets(folders: str | Sequence[str]) -> bool:
    """Whether all shards were built with aspect-ratio buckets: then the samples looked at need not have every grid."""
    about = [ShardStore(folder).index().about.get("image") for folder in ([folders] if isinstance(folders, str) else folders)]
    return all(isinstance(one, Mapping) and one.get("fit") == "bucket" for one in about)
