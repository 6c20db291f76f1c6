"""`POST /v1/audio/speech` and `/v1/audio/transcriptions`."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from maskgen.io.audio import Waveform
from maskgen.serving.calls import both, callbacks, decode_options, speak_text, speech_request, transcribe
from maskgen.serving.errors import ApiError, client_faults
from maskgen.serving.events import SentenceEvent, StepWatch, sse
from maskgen.serving.jobs import JobStream, Running, run_job, sse_chunks
from maskgen.serving.media import AUDIO_TYPES, audio_bytes, base64_text, pcm_bytes, recording_from, wav_header
from maskgen.serving.schemas import SpeechCreation, TranscriptionFields
from maskgen.serving.served import Served
from maskgen.serving.service import ERRORS, EVENTS, Service, fields_of, file_of, form_body, read_form
from maskgen.serving.subtitles import segments_of, srt, vtt, words_of
from maskgen.tokenizers.transcript import Transcript

STREAMED = ("wav", "pcm")
"""Formats that are sent sentence by sentence; files of the others are only whole at their end."""
AUDIO_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The speech, or with `stream_format` events of it.",
        "content": {**{kind: {"schema": {"type": "string"}} for kind in AUDIO_TYPES.values()}, **EVENTS},
    }
}
TEXT_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript in the format asked for.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/plain": {"schema": {"type": "string"}}, **EVENTS},
    }
}


class AudioRoutes:
    """Routes of speech.

    Args:
        service: What all routes share.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.router = service, APIRouter(tags=["audio"], responses=ERRORS)
        self.router.add_api_route(
            "/v1/audio/speech", self.speech, methods=["POST"], summary="Speech of a text", response_class=Response, responses=AUDIO_ANSWER
        )
        self.router.add_api_route(
            "/v1/audio/transcriptions",
            self.transcriptions,
            methods=["POST"],
            summary="The words of a recording, and when each begins",
            response_class=Response,
            responses=TEXT_ANSWER,
            openapi_extra=form_body(TranscriptionFields, {"file": "the recording"}, ("file",)),
        )

    async def speech(self, request: Request, body: SpeechCreation) -> Response:
        """Speech of a text as a file; with `stream_format` sentence by sentence (wav and pcm), as bytes or as events."""
        started, model, limits = time.perf_counter(), self.service.catalogue.find(body.model, "speak"), self.service.limits
        with client_faults():
            asked, options = speech_request(body, limits), decode_options(body, limits)
        kind = body.response_format

        def work(pipeline: Any, step: Any, emit: Any = None) -> tuple[Waveform, bytes]:
            sentences = emit if kind in STREAMED else None
            wave = speak_text(pipeline, asked, options, both(step, None if emit is None else StepWatch(emit)), sentences)
            return wave, b"" if sentences else audio_bytes(wave, kind)

        headers = {"X-Seed": str(options["seed"])}
        if body.stream_format is None:
            wave, content = await run_job(request, model, work)
            self.service.metrics.audio_s.labels(model.name).inc(wave.seconds)
            return Response(content, 200, {**headers, "X-Audio-Seconds": f"{wave.seconds:.3f}"}, AUDIO_TYPES[kind])
        running = Running(model, work)
        stream = _SpeechStream(self.service, model, kind, options["seed"], started)
        if body.stream_format == "sse":
            await running.started(request.receive)
            return JobStream(running, sse_chunks(running, stream.told, stream.ended), headers=headers)
        first = await stream.first(running, request)
        headers["X-Time-To-First-Audio-Ms"] = f"{1000 * stream.first_audio_s:.1f}"
        return JobStream(running, stream.rest(first, running), AUDIO_TYPES[kind], headers)

    async def transcriptions(self, request: Request) -> Response:
        """The words of a recording of at most 30 s, as JSON, text or subtitles."""
        limits = self.service.limits
        async with read_form(request, limits) as form:
            body = fields_of(form, TranscriptionFields)
            model = self.service.catalogue.find(body.model, "transcribe")
            content = await file_of(form, "file")
        if content is None:
            raise ApiError(400, "file is missing; upload the recording in the field file", param="file")
        with client_faults():
            limits.check_number("candidates", body.candidates, limits.max_candidates)
            options = decode_options(body, limits)
        wave = await self.service.uploads.decoded(lambda: recording_from(content, limits.media, "file"))

        def work(pipeline: Any, step: Any, emit: Any = None) -> Transcript:
            watch = None if emit is None else StepWatch(emit)
            return transcribe(pipeline, wave, body.candidates, {**options, **callbacks(step, watch)})

        if not body.stream:
            transcript = await run_job(request, model, work)
            self.service.metrics.heard_s.labels(model.name).inc(wave.seconds)
            return transcript_response(transcript, body, options["seed"])
        running = Running(model, work)
        await running.started(request.receive)
        return JobStream(running, sse_chunks(running, lambda event: b"", _transcribed))


class _SpeechStream:
    """The parts of one streamed answer of speech."""

    def __init__(self, service: Service, model: Served, kind: str, seed: int, started: float) -> None:
        self.service, self.model, self.kind, self.seed, self.started = service, model, kind, seed, started
        self.first_audio_s, self.sent = 0.0, False

    def bytes_of(self, event: Any) -> bytes:
        """The bytes of a sentence; before the first, a header where the format has one."""
        if not isinstance(event, SentenceEvent):
            return b""
        header = b""
        if not self.sent:
            self._arrived()
            header = wav_header(event.wave.sample_rate_hz, len(event.wave.samples)) if self.kind == "wav" else b""
        return header + pcm_bytes(event.wave)

    def told(self, event: Any) -> bytes:
        """An event of a decode as OpenAI's API sends it."""
        content = self.bytes_of(event)
        if not isinstance(event, SentenceEvent):
            return b""
        return sse({"type": "speech.audio.delta", "audio": base64_text(content), "sentence": event.sentence}, "speech.audio.delta")

    def ended(self, found: tuple[Waveform, bytes]) -> bytes:
        """The last events: a file of a format that is not sent in parts, and what the stream was."""
        wave, content = self.counted(found)
        whole = sse({"type": "speech.audio.delta", "audio": base64_text(content)}, "speech.audio.delta") if content else b""
        done = {"type": "speech.audio.done", "seconds": round(wave.seconds, 6), "sample_rate_hz": wave.sample_rate_hz, "seed": self.seed}
        return whole + sse({**done, "time_to_first_audio_s": round(self.first_audio_s, 6)}, "speech.audio.done")

    def counted(self, found: tuple[Waveform, bytes]) -> tuple[Waveform, bytes]:
        """The result, added to the metrics."""
        if not self.sent:
            self._arrived()
        self.service.metrics.audio_s.labels(self.model.name).inc(found[0].seconds)
        return found

    async def first(self, running: Running[Any], request: Request) -> bytes:
        """The first bytes of audio.

        Raises:
            ApiError: If the job failed before it, or the client went away.
        """
        while True:
            await running.started(request.receive)
            event = running.queue.get_nowait()
            if event is None:
                return self.counted(running.result())[1]
            if content := self.bytes_of(event):
                return content

    async def rest(self, first: bytes, running: Running[Any]) -> AsyncIterator[bytes]:
        """All bytes of audio, from the first on."""
        yield first
        if self.kind in STREAMED:
            async for event in running.events():
                if content := self.bytes_of(event):
                    yield content
            self.counted(running.result())

    def _arrived(self) -> None:
        self.first_audio_s, self.sent = time.perf_counter() - self.started, True
        self.service.metrics.first_audio.observe(self.first_audio_s)


def transcript_response(transcript: Transcript, body: TranscriptionFields, seed: int) -> Response:
    """A transcript in the format that a request asks for."""
    if body.response_format == "text":
        return PlainTextResponse(f"{transcript.text}\n")
    if body.response_format in ("srt", "vtt"):
        return PlainTextResponse(srt(transcript) if body.response_format == "srt" else vtt(transcript))
    if body.response_format == "json":
        return JSONResponse({"text": transcript.text})
    whole: dict[str, Any] = {
        "task": "transcribe",
        "language": body.language or "unknown",
        "duration": transcript.seconds,
        "text": transcript.text,
        "seed": seed,
    }
    if "word" in body.timestamp_granularities:
        whole["words"] = words_of(transcript)
    if "segment" in body.timestamp_granularities:
        whole["segments"] = segments_of(transcript)
    return JSONResponse(whole)


def _transcribed(transcript: Transcript) -> bytes:
    """The events of a transcript as OpenAI's API sends them."""
    delta = sse({"type": "transcript.text.delta", "delta": transcript.text}, "transcript.text.delta")
    return delta + sse({"type": "transcript.text.done", "text": transcript.text}, "transcript.text.done")
