"""`ordito serve`, `ordito ps`, `ordito stop`: serve models over HTTP, list those that are loaded, unload one."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import click

from ordito.cli.console import find, say, write, write_json
from ordito.cli.parameters import arithmetic, backend_name, json_output
from ordito.errors import OrditoError
from ordito.units import size

URL = "http://127.0.0.1:8000"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", help="The models to serve; without any, all models on this machine.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; any but loopback needs an API key.")
@click.option("--port", default=8000, type=click.IntRange(1, 65535), help="Port to listen on; Ollama's clients expect 11434.")
@click.option(
    "--api-key", "keys", multiple=True, envvar="ORDITO_API_KEY", help="An API key that clients must send; may be repeated."
)
@click.option("--api-key-file", "key_file", type=click.Path(), help="A file of API keys, one a line.")
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    help="A web site whose scripts may call this server (CORS): https://example.org.",
)
@click.option("--allow-host", "hosts", multiple=True, help="A further host name of this server.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME=MODEL", help="A further name of a model.")
@click.option(
    "--context", type=click.IntRange(2), help="Tokens of prompt and answer together, at most. [default: the model's context]"
)
@click.option(
    "--cache-type",
    type=click.Choice(["f32", "f16", "q8", "int16"]),
    help="The type of the KV cache. [default: int16 or, without VNNI, f16; f32 with float32]",
)
@click.option("--cache-memory", help="Memory for the KV cache: 512M, 4G. [default: a quarter of what is free]")
@click.option("--draft", metavar="MODEL", help="A smaller model of the same vocabulary, for speculative decoding.")
@click.option("--memory", help="Memory for all models together: unused ones are unloaded when another needs it.")
@click.option("--keep-alive", default="5m", help="How long an unused model stays loaded: 30s, 5m, 1h; -1 for ever.")
@click.option("--together", default=64, type=click.IntRange(1, 1024), help="Answers in one batch, at most.")
@click.option("--max-waiting", default=512, type=click.IntRange(1), help="Requests in the queue, at most.")
@click.option("--max-seconds", default=1800.0, type=click.FloatRange(1), help="Time limit of an answer, in seconds.")
@backend_name
@arithmetic
@click.option("--strict-names", is_flag=True, help="Refuse unknown model names, even if there is only one model.")
@click.option("--load", is_flag=True, help="Load the models at startup instead of at their first request.")
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    keys: tuple[str, ...],
    key_file: str | None,
    origins: tuple[str, ...],
    hosts: tuple[str, ...],
    aliases: tuple[str, ...],
    context: int | None,
    cache_type: str | None,
    cache_memory: str | None,
    draft: str | None,
    memory: str | None,
    keep_alive: str,
    together: int,
    max_waiting: int,
    max_seconds: float,
    backend: str | None,
    dtype: str | None,
    strict_names: bool,
    load: bool,
) -> None:
    """Serve models over HTTP, with the APIs of OpenAI, Anthropic and Ollama.

    \b
    ordito serve smollm2
    ordito serve smollm2 minilm --port 11434
    ordito serve --host 0.0.0.0 --api-key-file keys.txt
    """
    from ordito.serve.fields import keep_alive_seconds
    from ordito.serve.settings import ServerSettings

    named = dict(_alias(text) for text in aliases)
    settings = ServerSettings(
        host=host,
        port=port,
        keys=[*keys, *_keys_in(key_file)],
        origins=origins,
        hosts=hosts,
        aliases=named,
        context=context,
        cache=cache_type,
        cache_limit=_bytes(cache_memory, "--cache-memory"),
        draft=draft,
        memory=_bytes(memory, "--memory"),
        keep_alive=keep_alive_seconds(keep_alive),
        most_together=together,
        max_waiting=max_waiting,
        request_seconds=max_seconds,
        backend=backend,
        dtype=dtype,
        strict_names=strict_names,
    )
    for name in (*models, *([draft] if draft else ())):
        find(name)
    _run(models, settings, load)


def _run(models: tuple[str, ...], settings: Any, load: bool) -> None:
    from ordito.serve.app import make_app
    from ordito.serve.listening import Listener

    app = make_app(models, settings, load=load)
    listening = _listening(settings.host, settings.port)
    where = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    say(f"serving {', '.join(app.names) or 'no model yet'} at {where}")
    say(f"  OpenAI     {where}/v1")
    say(f"  Anthropic  {where}")
    say(f"  Ollama     {where}")
    say("Ctrl-C stops")
    Listener(app).run(sockets=[listening])


@click.command()
@click.option("--url", default=URL, envvar="ORDITO_URL", help="The server's address.")
@click.option("--api-key", "key", envvar="ORDITO_API_KEY", help="An API key of the server.")
@json_output
def ps(url: str, key: str | None, json: bool) -> None:
    """List the loaded models of a running server."""
    listed = _asked(url, key, "/api/ps")["models"]
    if json:
        write_json(listed)
        return
    rows = [
        ("NAME", "SIZE", "CONTEXT", "UNTIL"),
        *((m["name"], size(m["size"]), f"{m['context_length']:,}", _until(m)) for m in listed),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        write("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n")


@click.command()
@click.argument("model", metavar="MODEL", help="Its name on the server.")
@click.option("--url", default=URL, envvar="ORDITO_URL", help="The server's address.")
@click.option("--api-key", "key", envvar="ORDITO_API_KEY", help="An API key of the server.")
def stop(model: str, url: str, key: str | None) -> None:
    """Unload a model of a running server."""
    _asked(url, key, "/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    write(f"{model} is no longer loaded\n")


def _listening(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OrditoError` if the address cannot be bound."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        why = error.strerror or str(error)
        raise OrditoError(f"cannot listen on {host}:{port} ({why}): choose another --port or --host") from None


def _asked(url: str, key: str | None, path: str, body: Any = None) -> Any:
    """The answer of a server, as JSON values. Raises `OrditoError` if there is no server, or it answers with an error."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    if not url.startswith(("http://", "https://")):
        raise OrditoError(f"--url is {url!r}, expected http://HOST:PORT")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url.rstrip("/") + path, data, headers), timeout=60) as answer:
            return json.load(answer)
    except HTTPError as error:
        try:
            told = json.load(error)["error"]
        except (ValueError, KeyError, TypeError):
            told = error.reason
        raise OrditoError(f"{url}: {told if isinstance(told, str) else told.get('message', error.reason)}") from None
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OrditoError(f"no server answers at {url} ({reason}): start one with `ordito serve`, or give --url") from None


def _until(model: dict[str, Any]) -> str:
    from datetime import datetime

    until = datetime.fromisoformat(model["expires_at"])
    left = (until - datetime.now(until.tzinfo)).total_seconds()
    if left > 10 * 365 * 86400:
        return "in use, or for ever"
    return f"{left / 60:.0f} minutes from now" if left > 90 else f"{max(0.0, left):.0f} seconds from now"


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise OrditoError(f"--alias is {text!r}, expected NAME=MODEL")
    return name, model


def _keys_in(path: str | None) -> list[str]:
    """The API keys of a file. Raises `OrditoError` if it has none: a server must not start without the keys that were meant."""
    if path is None:
        return []
    try:
        keys = [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise OrditoError(f"{path} is not a text file, expected one key a line") from None
    if not keys:
        raise OrditoError(f"{path} has no key, expected one a line")
    return keys


def _bytes(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise OrditoError(f"{option} is {text!r}, expected a size such as 512M or 4G")
    return int(float(found[1]) * _UNITS[found[2]])
