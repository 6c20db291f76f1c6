"""The models of a server: a name, an engine, and what each can be asked for."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline
from maskgen.serving.engine import Engine, EngineLimits
from maskgen.serving.errors import ApiError
from maskgen.tokenizers.attribute import AttributeTokenizer

TASKS = ("draw", "edit", "speak", "transcribe", "generate")
"""What routes ask a model for."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model of the server.

    Args:
        name: As requests name it.
        engine: What runs its requests.
        tasks: Some of `TASKS`.
        description: What `GET /v1/models` says of it.
        voices: Names of its speakers.
        created: When it was loaded, in seconds since 1970.
    """

    name: str
    engine: Engine
    tasks: frozenset[str]
    description: dict[str, Any] = field(default_factory=dict)
    voices: tuple[str, ...] = ()
    created: int = 0

    @property
    def entry(self) -> dict[str, Any]:
        """The model as OpenAI's API lists one, with what it can do."""
        shown = {"tasks": sorted(self.tasks), "voices": list(self.voices), **self.description}
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "maskgen", **shown}


def serve_pipeline(name: str, pipeline: Pipeline, limits: EngineLimits | None = None) -> Served:
    """A pipeline with an engine of its own. Its progress bar is turned off.

    Args:
        name: As requests name it.
        pipeline: Any pipeline; the engine owns it from now on.
        limits: Of the engine.
    """
    pipeline.set_progress_bar_config(disable=True)
    speaker = pipeline.tokenizers.get("speaker")
    modalities = {one.name: {"kind": one.kind, "levels": one.num_levels, "codes": one.codebook_size} for one in pipeline.space.modalities}
    return Served(
        name=name,
        engine=Engine(pipeline, limits or EngineLimits()),
        tasks=tasks_of(pipeline),
        description={"pipeline": type(pipeline).__name__, "modalities": modalities, "targets": sorted(pipeline.settings)},
        voices=tuple(speaker.values) if isinstance(speaker, AttributeTokenizer) else (),
        created=int(time.time()),
    )


def tasks_of(pipeline: Pipeline) -> frozenset[str]:
    """What a pipeline can be asked for."""
    tasks = {"generate"}
    if isinstance(pipeline, TextToImagePipeline):
        tasks |= {"draw", "edit"}
    if isinstance(pipeline, TextToSpeechPipeline):
        tasks |= {"speak"}
    if isinstance(pipeline, AnyToAnyPipeline):
        tasks |= {"draw", "speak", "transcribe"}
        tasks |= {"edit"} if isinstance(pipeline.specialists.get("image"), TextToImagePipeline) else set()
    return frozenset(tasks)


class Catalogue:
    """The models of a server by name.

    Args:
        models: In the order of preference where a request names none.

    Raises:
        ValueError: If there is none, or two have one name.
    """

    def __init__(self, models: Sequence[Served]) -> None:
        self.models = {one.name: one for one in models}
        if not models or len(self.models) != len(models):
            raise ValueError(
                f"a server needs one model or several of different names, got {', '.join(one.name for one in models) or 'none'}"
            )

    def find(self, name: str | None, task: str) -> Served:
        """The model of a request.

        Args:
            name: What the request says; None takes the first model that can do the task.
            task: One of `TASKS`.

        Raises:
            ApiError: If there is no such model, or it cannot do the task.
        """
        able = [one for one in self.models.values() if task in one.tasks]
        names = ", ".join(one.name for one in able) or "no model of this server"
        if name is None:
            if not able:
                raise ApiError(400, f"no model of this server can {task}; GET /v1/models lists what each can do", param="model")
            return able[0]
        found = self.models.get(name)
        if found is None:
            known = ", ".join(self.models)
            raise ApiError(404, f"there is no model {name[:80]!r}; this server has {known}", param="model", code="model_not_found")
        if found not in able:
            raise ApiError(400, f"the model {found.name} cannot {task}; {names} can", param="model", code="model_unfit")
        return found

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return any(one.engine.stats.running or one.engine.stats.waiting for one in self.models.values())

    def close(self, drain_s: float | None = None) -> None:
        """Close every engine, all at once: what runs is finished, the rest refused."""
        threads = [threading.Thread(target=one.engine.close, args=(drain_s,)) for one in self.models.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
