"""Clients of a server in a process of their own, so that they do not take the server's interpreter: standard library alone.

python clients.py FILE PORT CLIENTS SECONDS REQUESTS
"""

import hashlib
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

LONGEST_WAIT_S = 2.0


def asked(port: int, path: str, body: dict[str, Any]) -> tuple[int, str, float]:
    """Status, digest of what of an answer does not depend on the time, and when to come back."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
    try:
        connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status == 200 and path != "/v1/audio/speech":
        found = json.loads(content)
        content = json.dumps(found.get("data") or found.get("outputs"), sort_keys=True).encode()
    return answer.status, hashlib.sha256(content).hexdigest(), float(answer.headers.get("Retry-After", 0.0))


def hammered(port: int, requests: list[Any], clients: int, seconds: float, count: int) -> Counter[str]:
    """What some clients saw within some seconds or until `count` answers were asked for: good, busy (429), wrong, lost, and why.

    Args:
        port: Of the server.
        requests: Path, body and digest of the right answer of each request.
        clients: Number of threads, each of which asks one random request after another.
        seconds: After which nothing more is asked.
        count: Number of requests; 0 sets no limit.
    """
    seen: Counter[str] = Counter()
    lock, end = threading.Lock(), time.monotonic() + seconds

    def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            with lock:
                if count and seen["asked"] >= count:
                    return
                seen["asked"] += 1
            path, body, right = requests[chance.randrange(len(requests))]
            wait_s = 0.0
            try:
                status, digest, wait_s = asked(port, path, body)
                kinds = ["good" if (status, digest) == (200, right) else "busy" if status == 429 else "wrong"]
                kinds += [f"status {status}"] if kinds == ["wrong"] else []
            except (OSError, http.client.HTTPException, ValueError) as error:
                kinds = ["lost", repr(error)]
            with lock:
                seen.update(kinds)
            time.sleep(min(wait_s, LONGEST_WAIT_S) * chance.uniform(0.5, 1.0))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


if __name__ == "__main__":
    file, port, clients, seconds, count = sys.argv[1:]
    print(json.dumps(hammered(int(port), json.loads(Path(file).read_text()), int(clients), float(seconds), int(count))))
