"""Chat templates: a message becomes the text that a chat model was trained to answer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SHIELD = "\ue000"
"""First character of the stand-in for a special token that a message spells out."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template in the format of transformers.

    Args:
        template: Jinja template over `messages` and `add_generation_prompt`.
        tokens: Special tokens that the template names: bos_token, eos_token, ...
        question: What is asked about an image that comes without a prompt; None where the model sees no images.
    """

    template: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as text, up to where the answer begins. Templates run in the sandbox of Jinja.

        Args:
            messages: Each with a `role` ("system", "user", "assistant") and a `content`.

        Raises:
            ValueError: If the template cannot be read, or refuses the messages.
        """
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(reason: str) -> None:
            raise jinja2.TemplateError(reason)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals["raise_exception"] = refuse
        try:
            made = environment.from_string(self.template)
            return made.render(messages=list(messages), add_generation_prompt=True, **self.tokens)
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise ValueError(f"the chat template of the model cannot be applied ({error}); mend chat_template.jinja") from error

    def pieces(self, messages: Sequence[Mapping[str, str]], special: Sequence[str]) -> list[tuple[str, bool]]:
        """The conversation in pieces: text in which special tokens count, and special tokens that a message spelled out, which do not.

        Args:
            messages: As for `render`.
            special: Special tokens of the vocabulary.

        Returns:
            Each piece with whether special tokens in it count.
        """
        spelled = [SHIELD, *special]
        pattern = re.compile("|".join(re.escape(token) for token in sorted(spelled, key=len, reverse=True)))
        number = {token: index for index, token in enumerate(spelled)}

        def shielded(text: str) -> str:
            return pattern.sub(lambda found: f"{SHIELD}{number[found.group()]}{SHIELD}", text)

        shown = self.render([{**message, "content": shielded(message["content"])} for message in messages])
        parts = re.split(f"{SHIELD}(\\d+){SHIELD}", shown)
        return [(spelled[int(part)], False) if index % 2 else (part, True) for index, part in enumerate(parts) if part]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable data, the arguments."""
        return {"template": self.template, "tokens": dict(self.tokens), "question": self.question}
