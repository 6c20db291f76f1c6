"""Text by masking: messages answered, holes filled, texts written from nothing."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import CallOptions, as_prompts, check_names, num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import TextOutput
from maskgen.processors.image import letterboxed
from maskgen.processors.text import TextProcessor, TextRequest


class TextGenerationPipeline(Pipeline):
    """Writes texts, and fills holes in given ones.

    `pipeline("a [2] heart, flat style").text` fills a hole of two tokens; `pipeline(length=16).text` writes 16 tokens from nothing. A chat
    model answers: `pipeline("Why is the sky blue?", length=64).text`.
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
        chat: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> TextOutput:
        """Answer one message or several, fill the holes of texts, or write texts from nothing.

        Args:
            prompt: Messages to a chat model, or texts in which "[3]" stands for three tokens to fill; None writes from nothing.
            length: Tokens of an answer, or of a text that is written from nothing; the model's default if None. A text may end before.
            image: Image that the text describes, for a model that sees images; in any form that `TextToImagePipeline` takes.
            chat: Whether prompts are messages, which the model's chat template wraps; only the answer is returned. False fills holes. None
                is True for a model with a chat template.
            options: Seeds, sampling and callbacks; see `CallOptions`.

        Returns:
            TextOutput with `texts`, prompt after prompt: whole texts, or the answers to messages.

        Raises:
            TypeError: If an argument has another type or there is none of its name.
            ValueError: If a prompt has no hole, or an argument is out of range or contradicts another.
        """
        check_names(TextGenerationPipeline.__call__, options, CallOptions)
        template = getattr(self.tokenizers["text"], "chat", None)
        chat = template is not None if chat is None else chat
        if chat and prompt is None and image is not None and template is not None:
            prompt = template.question
        prompts, count = None if prompt is None else as_prompts(prompt), num_outputs(options)
        settings = settings_from(self.settings_of("text"), options, len(self.space.of("text")))
        processor = TextProcessor(self.tokenizers["text"])
        seeds = seeds_of(options, [1] * (1 if prompts is None else len(prompts)), count)
        if image is not None and "image" not in self.tokenizers:
            raise ValueError(f"this model sees no images, it has {', '.join(self.tokenizers)}; leave image out")
        known = {} if image is None else self.encoded({"image": letterboxed(image, self.tokenizers["image"], self.grids.get("image"))})
        if chat and prompts is not None and length is None and "text" in self.grids:
            length = self.grids["text"][0]
        with self._watched(options) as callback:
            plan = processor.prepare(TextRequest(prompts=prompts, seeds=seeds, length=length, known=known, chat=chat))
            limits = options.get("batch_size", 32), options.get("batch_invariant")
            output = self.generate(plan.rows, "text", plan.seeds, settings, None, callback, *limits)
        if chat and prompts is not None:
            return TextOutput(processor.answers(plan, output.codes, self.space.modality("text").end), output.seeds, output)
        return TextOutput(processor.finish(plan, output.media), output.seeds, output)
