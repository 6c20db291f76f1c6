"""A decode as a film: one frame a step."""

from collections.abc import Iterator, Sequence

from PIL import Image

from maskgen.sampling.base import Trajectory
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes


def decode_frames(tokenizer: Tokenizer, final: Codes, trajectories: Sequence[Trajectory], picture: Image.Image) -> list[Image.Image]:
    """Frames of one row's decode: unknown cells are grey; the last frame is the finished image.

    Args:
        tokenizer: The model's image tokenizer.
        final: Finished codes of the first row [level, row, column].
        trajectories: What each step did, in the order of decoding; the first row of each is shown.
        picture: The finished image.

    Raises:
        ValueError: If the tokenizer cannot show a partly known grid.
    """
    if not isinstance(tokenizer, ImageTokenizer):
        raise ValueError(f"an animation needs the learned image tokenizer, this model has {type(tokenizer).__name__}")
    return [*(tokenizer.preview(codes) for codes in partial_codes(final, trajectories)), picture]


def partial_codes(final: Codes, trajectories: Sequence[Trajectory]) -> Iterator[Codes]:
    """Codes of the first row after every step, UNKNOWN where nothing was decided yet."""
    level = 0
    for trajectory in trajectories:
        if level == len(final):
            return
        cells = trajectory.codes[-1, 0] != UNKNOWN
        depth = int(cells.sum()) // final[0].numel()  # levels that were decoded together: of each cell they stand behind one another
        for step in range(len(trajectory.codes)):
            codes = final.clone()
            codes[level : level + depth] = trajectory.codes[step, 0][cells].reshape(*final.shape[1:], depth).movedim(-1, 0)
            codes[level + depth :] = UNKNOWN
            yield codes
        level += depth
