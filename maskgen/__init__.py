"""maskgen: masked generative transformers over text, image and audio tokens."""

from typing import Any

from maskgen.version import __version__

__all__ = ["AnyOutput", "AnyToAny", "GenerationOutput", "Pipeline", "SpeechOutput", "Voice", "__version__"]


def __getattr__(name: str) -> Any:
    """Load pipelines, voices and models of any direction on first use, so that `import maskgen` stays fast and needs no torch."""
    if name in ("Pipeline", "GenerationOutput"):
        from maskgen.pipelines import base as pipeline

        return getattr(pipeline, name)
    if name in ("Voice", "SpeechOutput"):
        from maskgen.pipelines import text_to_speech as voice

        return getattr(voice, name)
    if name in ("AnyToAny", "AnyOutput"):
        from maskgen.pipelines import any_to_any as anything

        return getattr(anything, name)
    raise AttributeError(f"module 'maskgen' has no attribute {name!r}")
