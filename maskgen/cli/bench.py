"""`maskgen bench serve`."""

import argparse
import json
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"


def add_bench(verbs: Any) -> None:
    """Add `bench serve`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("bench", help="measure a running server")
    what = parser.add_subparsers(required=True, metavar="WHAT")
    serve = what.add_parser("serve", help="latency, throughput, real-time factor and time to first audio at several numbers of clients")
    serve.add_argument("--url", default=DEFAULT_URL, help="of a server that maskgen serve runs (default: %(default)s)")
    serve.add_argument("--api-key", help="key of the server, if it wants one")
    serve.add_argument(
        "--kinds", default="images,speech", metavar="KIND[,KIND...]", help="some of images, speech, transcriptions, captions"
    )
    serve.add_argument("--concurrency", default="1,2,4,8", metavar="N[,N...]", help="numbers of clients at once (default: %(default)s)")
    serve.add_argument("--requests", type=int, default=32, help="requests of all clients at each number of clients (default: %(default)s)")
    serve.add_argument("--timeout-s", type=float, default=120.0, help="for each request (default: %(default)s)")
    serve.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of bench.json and bench.svg (default: %(default)s)")
    serve.set_defaults(verb=_bench_serve)


def _bench_serve(args: argparse.Namespace) -> None:
    """Measure a server; write `bench.json` and `bench.svg`."""
    from maskgen.io.files import write_atomic
    from maskgen.serving.load import LoadClient, run_load
    from maskgen.serving.load_plot import load_plot

    clients = _counts(args.concurrency)
    if args.requests < 1:
        raise ValueError(f"--requests must be at least 1, got {args.requests}")
    client = LoadClient(args.url, args.api_key, args.timeout_s)
    models = client.models()
    kinds = _kinds(args.kinds, models)
    client.prepare(kinds, models)
    for kind in kinds:
        client.ask(kind, models[kind], 0)
    levels = []
    for count in clients:
        levels.append(run_load(client, models, kinds, count, args.requests))
        _print(levels[-1])
    found = {"url": args.url, "kinds": kinds, "models": {kind: models[kind] for kind in kinds}, "levels": levels}
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out / "bench.json", f"{json.dumps(found, indent=1)}\n".encode())
    write_atomic(args.out / "bench.svg", load_plot(levels, f"{', '.join(kinds)}: {args.requests} requests a number of clients").encode())
    print(f"wrote {args.out / 'bench.json'} and bench.svg")


def _counts(text: str) -> list[int]:
    """Numbers of clients, rising.

    Raises:
        ValueError: If one is none.
    """
    parts = text.split(",")
    if not all(part.isdigit() and 0 < int(part) <= 1000 for part in parts):
        raise ValueError(f"--concurrency must be numbers from 1 to 1000, such as 1,2,4, got {text!r}")
    return sorted({int(part) for part in parts})


def _kinds(text: str, models: dict[str, str]) -> list[str]:
    """What is asked for.

    Raises:
        ValueError: If there is no such kind, or no model for it.
    """
    from maskgen.serving.load import KINDS

    kinds = text.split(",")
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"--kinds names {', '.join(wrong)}; choose some of {', '.join(KINDS)}")
    if missing := [kind for kind in kinds if kind not in models]:
        raise ValueError(f"the server has no model for {', '.join(missing)}; choose some of {', '.join(models)}")
    return kinds


def _print(level: dict[str, Any]) -> None:
    """One line for a number of clients."""
    latency, first = level["latency_s"], level["first_audio_s"]
    line = f"{level['concurrency']:>4} clients: {level['requests_per_s']:.2f} answers a second"
    if latency:
        line += f", latency {latency['p50']:.2f} s (p90 {latency['p90']:.2f}, p99 {latency['p99']:.2f})"
    if first:
        line += f", first audio {first['p50']:.2f} s, real-time factor {level['real_time_factor']['p50']:.2f}"
    bad = {status: count for status, count in level["statuses"].items() if status != "200"}
    print(line + (f", not answered: {bad}" if bad else ""))
