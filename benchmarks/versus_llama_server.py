"""Throughput with many clients: our server beside llama.cpp's, in turn, in tokens per second of all clients together.

    python benchmarks/versus_llama_server.py --peer PATH/llama-server [--clients 8,32] [--json]

Each client streams an answer of 128 tokens to its own prompt of about 100 through OpenAI's API, three times. Both servers serve
the same file, with two threads and a slot per client; greedy decoding, end tokens ignored.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers import Figure, arguments, faster, report, smaller

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import open_checkpoint

TOKENS, TIMES = 128, 3
OURS, PEER = 8765, 8766


def prompt(client: int, turn: int) -> str:
    return f"Story {client}.{turn}: " + " ".join(f"word{(client * 37 + turn * 11 + i * 7) % 997}" for i in range(28))


def ask(port: int, client: int, turn: int, found: list[tuple[int, float]]) -> None:
    """Stream one answer, and append its tokens and the seconds to the first one to `found`."""
    body = {
        "model": "m",
        "prompt": prompt(client, turn),
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), headers)
    start, first, made = time.perf_counter(), 0.0, 0
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if chunk.get("choices") and not first:
                    first = time.perf_counter() - start
                made = (chunk.get("usage") or {}).get("completion_tokens", made)
    found.append((made, first))


def load(port: int, clients: int, turn: int) -> tuple[float, float]:
    """Tokens per second of all clients, and the median of their seconds to the first token."""
    found: list[tuple[int, float]] = []
    threads = [threading.Thread(target=ask, args=(port, client, turn, found)) for client in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if len(found) != clients or any(made != TOKENS for made, _ in found):
        raise SystemExit(f"port {port}: {len(found)} of {clients} clients were answered, with {sorted(found)[:3]}")
    return sum(made for made, _ in found) / seconds, statistics.median(first for _, first in found)


@contextmanager
def serving(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None:
                        raise SystemExit(f"{command[0]} ended with {process.returncode}") from None
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()


def figures(name: str, peer: str, clients: int) -> Iterator[Figure]:
    (file,) = open_checkpoint(store.locate(name).path).files
    slots, room = str(clients), str(clients * 512)
    ours = [sys.executable, "-m", "ordito", "serve", name, "--port", str(OURS), "--load"]
    theirs = [peer, "-m", str(file), "--port", str(PEER), "-t", "2", "-tb", "2", "-np", slots, "-c", room, "--no-webui"]
    with serving(ours, OURS), serving(theirs, PEER):
        for port in (OURS, PEER):
            load(port, 2, 99)
        pairs = [(load(OURS, clients, turn), load(PEER, clients, turn)) for turn in range(TIMES)]
    rate, first = ([statistics.median(pair[side][kind] for pair in pairs) for side in (0, 1)] for kind in (0, 1))
    yield faster(f"{name}: {clients} clients, {TOKENS} tokens each", *rate)
    yield smaller(f"{name}: {clients} clients, seconds to the first token", *first, "s")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--peer", required=True, help="llama-server, built for this machine")
    parser.add_argument("--models", default="smollm2")
    parser.add_argument("--clients", default="8,32")
    chosen = parser.parse_args()
    if not Path(chosen.peer).is_file():
        raise SystemExit(f"{chosen.peer}: no such file; give the path of llama-server")
    names, numbers = chosen.models.split(","), [int(number) for number in chosen.clients.split(",")]
    report((figure for name in names for number in numbers for figure in figures(name, chosen.peer, number)), chosen.json)


if __name__ == "__main__":
    main()
