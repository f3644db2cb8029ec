"""`ordito tokenizer`: train a tokenizer on text, and measure the fertility of tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ordito.cli.console import find, say, working, write_json, write_table
from ordito.cli.parameters import json_output

if TYPE_CHECKING:
    from ordito.text.tokenizer import Tokenizer


@click.group()
def tokenizer() -> None:
    """Train a tokenizer on text, or measure how many tokens a word takes (fertility)."""


@tokenizer.command()
@click.option("--data", "-d", multiple=True, required=True, help="Files (.txt, .jsonl, .json, .parquet), folders, hf:DATASET.")
@click.option("--vocab-size", "-n", default=32_000, help="Size of the vocabulary, including control tokens and the 256 bytes.")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--special", "-s", multiple=True, help="A further control token; may be repeated.")
@click.option("--field", default="text", help="The field of a record that holds its text.")
@click.option("--force", is_flag=True, help="Overwrite what exists.")
def train(data: tuple[str, ...], vocab_size: int, output: Path, special: tuple[str, ...], field: str, force: bool) -> None:
    """Train a byte-level BPE tokenizer on text, with the ChatML format for conversations.

    \b
    ordito tokenizer train -d book.txt -d poems.txt -n 8000 -o my-tokenizer
    """
    from ordito.cli.convert import refuse_overwriting
    from ordito.train.learn_tokenizer import fertility, learn, texts_of

    refuse_overwriting(output, force)
    with working("learning"):
        made = learn(texts_of(data, field), vocab_size, special)
    made.to_folder(output)
    with working("measuring"):
        fit = fertility(texts_of(data, field), {"": made})[""]
    say(
        f"{output} has {made.vocab_size} tokens; the text takes {fit.per_word:.2f} of them a word, "
        f"{fit.bytes_per_token:.2f} bytes each"
    )
    if made.vocab_size < vocab_size:
        say(
            f"warning: the vocabulary has {made.vocab_size} tokens instead of {vocab_size}: the text has no more pairs to merge"
        )


@tokenizer.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", help="Models, or folders and files that hold a tokenizer.")
@click.option("--data", "-d", multiple=True, required=True, help="Files (.txt, .jsonl, .json, .parquet), folders, hf:DATASET.")
@click.option("--field", default="text", help="The field of a record that holds its text.")
@json_output
def fertility(names: tuple[str, ...], data: tuple[str, ...], field: str, json: bool) -> None:
    """Measure tokens per word and bytes per token of tokenizers, side by side, for each file.

    \b
    ordito tokenizer fertility smollm2 my-tokenizer -d english.txt -d italian.txt
    """
    from ordito.accounting import Table
    from ordito.train.learn_tokenizer import fertility as measure
    from ordito.train.learn_tokenizer import texts_of

    read = {name: _read(name) for name in names}
    with working("reading the text"):
        found = {source: measure(texts_of([source], field), read) for source in data}
    if json:
        shown = [
            {"data": source, "tokenizer": name, "tokens": fit.tokens, "words": fit.words, "bytes": fit.bytes}
            | {"tokens_per_word": fit.per_word, "bytes_per_token": fit.bytes_per_token}
            for source, fits in found.items()
            for name, fit in fits.items()
        ]
        write_json(shown)
        return
    rows = tuple(
        (
            source if number == 0 else "",
            name,
            f"{read[name].vocab_size:,}",
            f"{fit.tokens:,}",
            f"{fit.per_word:.3f}",
            f"{fit.bytes_per_token:.3f}",
        )
        for source, fits in found.items()
        for number, (name, fit) in enumerate(fits.items())
    )
    write_table(Table("", ("data", "tokenizer", ">vocabulary", ">tokens", ">tokens/word", ">bytes/token"), rows))


def _read(name: str) -> Tokenizer:
    """The tokenizer of a folder, which need not hold a model, or of a model by name."""
    from ordito.checkpoint.gguf import read_gguf
    from ordito.text.tokenizer import Tokenizer

    path = Path(name) if Path(name).is_dir() else find(name).path
    if path.suffix == ".gguf":
        return Tokenizer.from_gguf(read_gguf(path).metadata)
    return Tokenizer.from_folder(path if path.is_dir() else path.parent)
