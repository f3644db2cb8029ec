"""`ordito quantize`: a model as GGUF with fewer bits a weight."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import find, say, working
from ordito.cli.convert import refuse_overwriting, with_gguf_suffix
from ordito.cli.parameters import one_model
from ordito.units import size


@click.command()
@one_model()
@click.argument("output", type=click.Path(path_type=Path), metavar="OUT.gguf")
@click.argument(
    "quantization",
    default="q4_k_m",
    metavar="[TYPE]",
    help="q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs, q2_k, ...  [default: q4_k_m]",
)
@click.option(
    "--imatrix",
    "importance",
    type=click.Path(path_type=Path),
    help="An importance matrix of ordito imatrix or llama-imatrix.",
)
@click.option("--force", is_flag=True, help="Overwrite what exists.")
def quantize(model: str, output: Path, quantization: str, importance: Path | None, force: bool) -> None:
    """Write MODEL as GGUF with quantized matrices, in llama.cpp's mixes of encodings.

    \b
    ordito quantize ./my-model my-model-q4.gguf
    ordito imatrix ./my-model -f text.txt -o imatrix.gguf
    ordito quantize ./my-model my-model-q2.gguf q2_k --imatrix imatrix.gguf
    """
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.checkpoint.mixes import encodings, mix_named
    from ordito.checkpoint.rounded import already_rounded
    from ordito.checkpoint.stored import ENCODINGS
    from ordito.errors import OrditoError
    from ordito.saving import convert

    output = with_gguf_suffix(output)
    if output.suffix != ".gguf":
        raise OrditoError(f"{output}: expected a name that ends in .gguf")
    mix = mix_named(quantization)
    refuse_overwriting(output, force)
    local = find(model)
    checkpoint = open_checkpoint(local.path)
    if (was := already_rounded(checkpoint)) is not None:
        say(f"warning: {local.name} is {was.upper()} already: quantizing it again loses more than quantizing the original")
    with working(f"quantizing {local.name}"):
        convert(checkpoint, output, dtype=quantization, importance=importance)
    written = open_checkpoint(output)
    bits = 8 * written.nbytes / max(sum(written.encodings.values()), 1)
    say(
        f"{local.name} is in {output} as {quantization.upper()}: {size(written.nbytes)}, {bits:.2f} bits a weight "
        f"({size(checkpoint.nbytes)} before)"
    )
    block = ENCODINGS[mix.usual].block_size
    stored, shapes = encodings(checkpoint.spec, mix), checkpoint.spec.tensors()
    widths = [shapes[name][-1] for name, encoding in stored.items() if encoding != "f32"]
    if shorter := sum(width % block != 0 for width in widths):
        say(
            f"note: the rows of {shorter} of {len(widths)} matrices are not a multiple of {block}, the block size of "
            f"{mix.usual.upper()}: they are stored in encodings with smaller blocks, which take more bits"
        )
