"""Text by masking: holes filled, texts written from nothing."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import CallOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import TextOutput
from maskgen.processors.image import letterboxed
from maskgen.processors.text import TextProcessor, TextRequest


class TextGenerationPipeline(Pipeline):
    """Writes texts, and fills holes in given ones.

    `pipeline("a [2] heart, flat style").text` fills a hole of two tokens; `pipeline(length=16).text` writes 16 tokens from nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    makes: ClassVar[str | None] = "text"
    does: ClassVar[str] = "text generation"
    default_model: ClassVar[str] = "any-64"

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        length: int | None = None,
        image: Any = None,
        **options: Unpack[CallOptions],
    ) -> TextOutput:
        """Fill the holes of one text or several, or write texts from nothing.

        Args:
            prompt: Texts in which "[3]" stands for three tokens to fill; None writes from nothing.
            length: Tokens of a text that is written from nothing; the model's default if None. A text may end before.
            image: Image that the text describes, for a model that sees images; in any form that `TextToImagePipeline` takes.
            options: Seeds, sampling and callbacks; see `CallOptions`.

        Returns:
            TextOutput with `texts`, prompt after prompt.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If a prompt has no hole, or an argument is out of range or contradicts another.
        """
        check_names(TextGenerationPipeline.__call__, options, CallOptions)
        prompts, count = None if prompt is None else as_prompts(prompt), num_outputs(options)
        settings = settings_from(self.settings_of("text"), options, len(self.space.of("text")))
        processor = TextProcessor(self.tokenizers["text"])
        seeds = seeds_of(options, [1] * (1 if prompts is None else len(prompts)), count)
        if image is not None and "image" not in self.tokenizers:
            raise ValueError(f"this model sees no images, it has {', '.join(self.tokenizers)}; leave image out")
        known = {} if image is None else self.encoded({"image": letterboxed(image, self.tokenizers["image"], self.grids.get("image"))})
        with self._watched(options) as callback:
            plan = processor.prepare(TextRequest(prompts=prompts, seeds=seeds, length=length, known=known))
            limits = options.get("batch_size", 32), options.get("batch_invariant")
            output = self.generate(plan.rows, "text", plan.seeds, settings, None, callback, *limits)
        return TextOutput(processor.finish(plan, output.media), output.seeds, output)
