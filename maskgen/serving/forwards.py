"""The model thread: gathers the calls that requests wait for, and runs those that can go together in one forward pass."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maskgen.networks.joined import ForwardCall
from maskgen.serving.joining import Joining, called_alone

GATHER_S = 0.005
"""How long the model thread waits for a request that took its last hidden states and is likely to ask again."""
_CPU = threading.Lock()
"""Passes on the CPU take turns: those of several engines at once would share the same cores."""


@dataclass
class EngineStats:
    """What an engine did so far, and what it does now.

    Args:
        running: Requests that decode now.
        waiting: Requests that wait for a place.
        forwards: Forward passes.
        rows: Rows in all forward passes.
        busy_s: Seconds in forward passes.
        refused: Requests refused because too many were waiting.
        cancelled: Requests that were cancelled or ran out of time.
    """

    running: int = 0
    waiting: int = 0
    forwards: int = 0
    rows: int = 0
    busy_s: float = 0.0
    refused: int = 0
    cancelled: int = 0


@dataclass(eq=False)
class _Ticket:
    """A call that a request waits for: of a model, or any function that nothing else may share."""

    owner: Any
    model: Any
    call: ForwardCall | Callable[[], Any]
    rows: int
    hidden: Future[Any] = field(default_factory=Future)


class Forwards:
    """Runs model calls in one thread. Calls that wait at the same time share a pass where `Joining` allows it.

    The oldest call is always in the next pass, so none starves.

    Args:
        max_rows: Rows of one pass.
        stats: Where passes are counted.
        threads: PyTorch threads of a pass.
    """

    def __init__(self, max_rows: int, stats: EngineStats, threads: int) -> None:
        self.max_rows, self.stats, self.threads = max_rows, stats, threads
        self._changed = threading.Condition()
        self._queue: deque[_Ticket] = deque()
        self._expected: dict[Any, float] = {}
        """Until when the thread waits for the next call of a request."""
        self._joinings: dict[int, Joining] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="maskgen-model", daemon=True)
        self._thread.start()

    def hidden(self, owner: Any, model: Any, call: ForwardCall) -> Future[Tensor]:
        """Hidden states of a call that may share a pass.

        Args:
            owner: The request.
            model: The network.
            call: What it is called with.
        """
        return self._queued(_Ticket(owner, model, call, len(call.batch)))

    def apart(self, owner: Any, rows: int, call: Callable[[], Any]) -> Future[Any]:
        """Result of a function that runs with no other pass at the same time."""
        return self._queued(_Ticket(owner, None, call, rows))

    def forget(self, owner: Any) -> None:
        """A request ended: nobody waits for its next call."""
        with self._changed:
            self._expected.pop(owner, None)
            self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> None:
        """End the thread once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _queued(self, ticket: _Ticket) -> Future[Any]:
        with self._changed:
            if self._closed:
                raise RuntimeError("the model thread has ended; make a new engine")
            self._queue.append(ticket)
            self._expected.pop(ticket.owner, None)
            self._changed.notify_all()
        return ticket.hidden

    def _run(self) -> None:
        torch.set_num_threads(self.threads)  # a new thread may have another number, and another number other bits
        with torch.no_grad():
            while tickets := self._next():
                self._serve(tickets)
                del tickets  # or the thread would hold the last batch while it waits

    def _next(self) -> list[_Ticket]:
        """The calls of the next pass; none when the thread is to end."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            while (left_s := max(self._expected.values(), default=0.0) - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._expected.clear()
            waiting = list(self._queue)
        chosen = self._joined(waiting)  # without the lock: it may measure
        with self._changed:
            for one in chosen:
                self._queue.remove(one)
        return chosen

    def _joined(self, waiting: Sequence[_Ticket]) -> list[_Ticket]:
        """The oldest call with those that can join it."""
        first = waiting[0]
        same = [one for one in waiting if one.model is first.model and not one.hidden.cancelled()]
        if first.model is None or first not in same or len(same) == 1:
            return [first]
        if id(first.model) not in self._joinings:
            self._joinings[id(first.model)] = Joining(first.model, self.max_rows)
        calls = [one.call for one in same if isinstance(one.call, ForwardCall)]
        return [same[place] for place in self._joinings[id(first.model)].chosen(calls)]

    def _serve(self, tickets: Sequence[_Ticket]) -> None:
        """Run the calls and hand out their hidden states, or their errors."""
        tickets = [one for one in tickets if one.hidden.set_running_or_notify_cancel()]
        if not tickets:
            return
        started_s = time.perf_counter()
        answers = _answers(tickets, self._joinings.get(id(tickets[0].model)))
        self.stats.busy_s += time.perf_counter() - started_s
        self.stats.forwards += 1
        self.stats.rows += sum(one.rows for one in tickets)
        with self._changed:
            until_s = time.monotonic() + GATHER_S
            self._expected.update({one.owner: until_s for one in tickets})
        for one, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, BaseException):
                one.hidden.set_exception(answer)
            else:
                one.hidden.set_result(answer)


def _answers(tickets: Sequence[_Ticket], joining: Joining | None) -> list[Any]:
    """Hidden states of each call. If a joint pass fails, each call gets a pass of its own, so that it gets its own error alone."""
    with _turn(tickets[0].call):
        if len(tickets) > 1 and joining is not None:
            try:
                return list(joining.run([one.call for one in tickets if isinstance(one.call, ForwardCall)]))
            except Exception:  # whatever one of the calls did wrong, it is told below
                return [_answer(one) for one in tickets]
        return [_answer(one) for one in tickets]


def _answer(ticket: _Ticket) -> Any:
    """Hidden states of one call, or what it raised, which belongs to the request that waits for them."""
    try:
        return called_alone(ticket.model, ticket.call) if isinstance(ticket.call, ForwardCall) else ticket.call()
    except BaseException as error:
        return error


def _turn(call: ForwardCall | Callable[[], Any]) -> Any:
    """What is held during a pass: the CPU's lock, also where the device is unknown."""
    return nullcontext() if isinstance(call, ForwardCall) and call.batch.ids.device.type != "cpu" else _CPU
