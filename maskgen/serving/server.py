"""Running the application with uvicorn: sockets, slow clients, and a shutdown that finishes what runs."""

import asyncio
import logging
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from maskgen.serving.guard import LARGEST_HEAD_BYTES, Guard
from maskgen.serving.served import Catalogue

logger = logging.getLogger(__name__)
KEEP_ALIVE_S = 15
CONNECTIONS_PER_REQUEST = 4
"""Connections per open request that the guard allows; more are refused at once."""


class DrainingServer(uvicorn.Server):
    """uvicorn's server; at SIGTERM or SIGINT what runs is finished and the rest refused, a second SIGINT ends at once.

    Args:
        config: Of uvicorn.
        guard: Application that refuses new requests while it drains.
        catalogue: Models whose engines are closed.
        drain_s: Time in which running requests may end.
    """

    def __init__(self, config: uvicorn.Config, guard: Guard, catalogue: Catalogue, drain_s: float) -> None:
        super().__init__(config)
        self.guard, self.catalogue, self.drain_s, self._closing = guard, catalogue, drain_s, threading.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; uvicorn closes its sockets and waits for open answers."""
        self.drain()
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # a shutdown that was asked for is a success: exit code 0

    def drain(self) -> None:
        """Refuse new requests, and close the engines in a thread of their own."""
        self.guard.draining = True
        if not self._closing.is_set():
            self._closing.set()
            threading.Thread(target=self.catalogue.close, args=(self.drain_s,), name="maskgen-drain", daemon=True).start()


def make_server(guard: Guard, catalogue: Catalogue, host: str, port: int, drain_s: float = 30.0) -> DrainingServer:
    """A server that is ready to run.

    Args:
        guard: The application.
        catalogue: Its models.
        host: Address to listen at.
        port: 0 takes a free one.
        drain_s: Time that running requests get at shutdown.
    """
    config = uvicorn.Config(
        guard,
        host=host,
        port=port,
        http=patient_protocol(guard.limits.header_timeout_s),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(drain_s) + 1,
        h11_max_incomplete_event_size=LARGEST_HEAD_BYTES,
        limit_concurrency=CONNECTIONS_PER_REQUEST * guard.limits.max_requests,
        lifespan="on",
    )
    return DrainingServer(config, guard, catalogue, drain_s)


def patient_protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP protocol, closing connections on which the head of a request does not arrive in time.

    Args:
        seconds: From the connection, or from the end of the answer before.
    """

    class PatientProtocol(H11Protocol):
        """Closes connections that send their head slowly; uvicorn itself limits idle connections alone."""

        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait(seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            begins = self.conn.their_state is h11.IDLE and self.timer is None
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop()
            elif begins and not self.transport.is_closing():
                self._wait(seconds)

        def _wait(self, delay_s: float) -> None:
            self._stop()
            self.timer = self.loop.call_later(delay_s, self._close)

        def _stop(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def _close(self) -> None:
            self.timer = None
            if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
                self.transport.close()

    return PatientProtocol


def run_server(server: DrainingServer, started: Callable[[int], None]) -> None:
    """Run until a signal ends it.

    Args:
        server: Of `make_server`.
        started: Called with the port as soon as the server listens.

    Raises:
        OSError: If the address cannot be used.
    """

    async def serve() -> None:
        running = asyncio.create_task(server.serve())
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        if server.started:
            started(server.servers[0].sockets[0].getsockname()[1])
        await running

    try:
        asyncio.run(serve())
    except SystemExit as stop:  # uvicorn's answer to a port that is taken
        raise OSError(f"{server.config.host}:{server.config.port} cannot be listened at; give another --host or --port") from stop
