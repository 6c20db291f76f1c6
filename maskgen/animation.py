"""A decode as a film: one frame a step."""

from collections.abc import Iterator

from PIL import Image

from maskgen.batch import UNKNOWN, Codes
from maskgen.pipeline import GenerationOutput, Pipeline
from maskgen.tokenizers.image import ImageTokenizer


def decode_frames(pipeline: Pipeline, output: GenerationOutput) -> list[Image.Image]:
    """Frames of the first row's decode: cells not yet known are grey; the last frame is the picture itself.

    Args:
        pipeline: What made the output.
        output: Pictures with their trajectories.

    Raises:
        ValueError: If the model's image tokenizer cannot show a partly known grid.
    """
    tokenizer = pipeline.tokenizers["image"]
    if not isinstance(tokenizer, ImageTokenizer):
        raise ValueError(f"an animation needs the learned image tokenizer, this model has {type(tokenizer).__name__}")
    return [*(tokenizer.preview(codes) for codes in partial_codes(output)), output.images[0]]


def partial_codes(output: GenerationOutput) -> Iterator[Codes]:
    """Codes of the first row after every step, UNKNOWN where nothing was decided yet."""
    final, level = output.codes[0], 0
    for trajectory in output.trajectories:
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
