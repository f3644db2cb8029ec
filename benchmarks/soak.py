"""A soak test: a server with polite, disconnecting, slow and hostile clients for some minutes; nothing may leak or starve.

    python benchmarks/soak.py [--minutes 10] [--clients 32] [--json]

Clients send requests to `ordito serve smollm2` at once: most stream an answer, some disconnect before or during it, one reads
slowly, one sends bodies that are too long or not JSON. Exits with status 1 unless afterwards no request runs or waits, the KV
cache is empty once the model is unloaded, all client threads have ended without an error, memory apart from the KV cache did
not grow in the second half, no error was the server's, and the first token of every complete answer came within 30 seconds.
"""

from __future__ import annotations

import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from peers import arguments

with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    PORT = unused.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}"


def post(path: str, body: bytes, timeout: float = 120) -> bytes:
    request = urllib.request.Request(URL + path, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read()


def chat(rng: random.Random, stream: bool) -> bytes:
    words = " ".join(rng.choice(("warp", "weft", "loom", "thread", "cloth", "why")) for _ in range(rng.randint(1, 300)))
    messages = [{"role": "user", "content": words}]
    body = {"messages": messages, "max_tokens": rng.randint(1, 96), "temperature": rng.choice((0, 0.8)), "stream": stream}
    return json.dumps(body).encode()


def raw(body: bytes) -> bytes:
    head = ("POST /v1/chat/completions HTTP/1.1", "host: localhost", "connection: close", "content-type: application/json")
    return "\r\n".join((*head, f"content-length: {len(body)}", "", "")).encode() + body


class Soak:
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.done: Counter[str] = Counter()
        self.first_tokens: list[float] = []
        self.lock = threading.Lock()

    def count(self, what: str) -> None:
        with self.lock:
            self.done[what] += 1

    def run(self, kind: Callable[[Soak, int], None], number: int) -> None:
        """Be a client of a kind until the end."""
        try:
            kind(self, number)
        except Exception:
            self.count("FAILURES OF CLIENTS")
            raise

    def polite(self, number: int) -> None:
        """Streams answers to their end, and records the time to the first token of each."""
        rng = random.Random(number)
        while time.monotonic() < self.end:
            start = time.monotonic()
            request = urllib.request.Request(
                f"{URL}/v1/chat/completions", chat(rng, True), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.readline()
                for _ in range(3):
                    answer.readline()
                first = time.monotonic() - start
                rest = answer.read()
            assert rest.rstrip().endswith(b"[DONE]"), rest[-200:]
            with self.lock:
                self.first_tokens.append(first)
            self.count("answered")

    def leaving(self, number: int) -> None:
        """Disconnects before or during the answer."""
        rng = random.Random(number)
        while time.monotonic() < self.end:
            body = chat(rng, rng.random() < 0.7)
            with socket.create_connection(("127.0.0.1", PORT)) as left:
                left.sendall(raw(body))
                left.settimeout(rng.random() * 2)
                try:
                    while left.recv(rng.randint(1, 400)) and rng.random() < 0.9:
                        pass
                except (TimeoutError, ConnectionResetError):
                    pass
            self.count("left")

    def slow(self, number: int) -> None:
        """Reads the answer 64 bytes at a time, with pauses."""
        rng = random.Random(number)
        while time.monotonic() < self.end:
            body = chat(rng, True)
            with socket.create_connection(("127.0.0.1", PORT)) as slow:
                slow.sendall(raw(body))
                while slow.recv(64) and time.monotonic() < self.end:
                    time.sleep(0.02)
            self.count("read slowly")

    def hostile(self, number: int) -> None:
        """Sends malformed and oversized bodies."""
        rng = random.Random(number)
        while time.monotonic() < self.end:
            body = rng.choice((b"{", b"[" * 50_000, b'{"messages": 1}', b"x" * (9 << 20), rng.randbytes(1000)))
            try:
                post(rng.choice(("/v1/chat/completions", "/v1/messages", "/api/chat", "/tokenize")), body)
                self.count("hostile bodies that were answered")
            except urllib.error.HTTPError as error:
                self.count("hostile bodies that were refused" if error.code < 500 else "FAILURES OF THE SERVER")
            except OSError:
                self.count("hostile bodies that were refused")
            time.sleep(0.05)


def resident(process: int) -> int:
    return 1024 * int(Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0])


def metric(name: str) -> float:
    with urllib.request.urlopen(f"{URL}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32)
    chosen = parser.parse_args()
    command = [sys.executable, "-m", "ordito", "serve", "smollm2", "--port", str(PORT), "--load", "--cache-memory", "512M"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            return soak(chosen, server)
        finally:
            server.terminate()


def soak(chosen, server: subprocess.Popen) -> int:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{URL}/health", timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    run = Soak(60 * chosen.minutes)
    kinds = [Soak.polite, Soak.hostile, Soak.slow, *[Soak.leaving] * max(1, chosen.clients // 4)]
    kinds += [Soak.polite] * (chosen.clients - len(kinds))
    threads = [threading.Thread(target=run.run, args=(kind, number)) for number, kind in enumerate(kinds)]
    for thread in threads:
        thread.start()
    memory = []
    while time.monotonic() < run.end:
        time.sleep(1)
        memory.append(resident(server.pid) - metric("ordito_cache_bytes"))
    for thread in threads:
        thread.join(180)
    half = len(memory) // 2
    early, late = statistics.median(memory[half : half + half // 4 + 1]), statistics.median(memory[-(half // 4 + 1) :])
    for _ in range(100):
        running, waiting = metric("ordito_requests_running"), metric("ordito_requests_waiting")
        if not running + waiting:
            break
        time.sleep(0.1)
    cancelled = metric("ordito_cancelled_total")
    post("/api/generate", b'{"model": "smollm2", "keep_alive": 0, "stream": false}')
    found = {
        **run.done,
        "seconds to the first token, median": round(statistics.median(run.first_tokens), 3),
        "seconds to the first token, longest": round(max(run.first_tokens), 3),
        "answers that were cancelled": cancelled,
        "requests still running or waiting": running + waiting,
        "bytes of cache still held": metric("ordito_cache_bytes"),
        "memory without KV cache in the middle (MB)": round(early / 1e6, 1),
        "memory without KV cache at the end (MB)": round(late / 1e6, 1),
        "threads that hang": sum(thread.is_alive() for thread in threads),
    }
    print(json.dumps(found) if chosen.json else "\n".join(f"{what:<42} {value}" for what, value in found.items()))
    bad = [
        found["requests still running or waiting"],
        found["bytes of cache still held"],
        found["threads that hang"],
        found.get("FAILURES OF THE SERVER", 0),
        found.get("FAILURES OF CLIENTS", 0),
        late > 1.03 * early + 8e6,
        max(run.first_tokens) > 30,
    ]
    return int(any(bad))


if __name__ == "__main__":
    sys.exit(main())
