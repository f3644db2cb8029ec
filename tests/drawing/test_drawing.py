"""`ordito.draw`: outputs, folded layers, differences, and hostile input."""

from __future__ import annotations

import struct
import time
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace

import pytest
from test_layout import faults

import ordito
from ordito import catalogue
from ordito.drawing import Drawing, draw
from ordito.drawing.page import DOT
from ordito.drawing.plan import MOST_KINDS
from ordito.drawing.scene import Rect, Text
from ordito.drawing.theme import THEMES
from ordito.errors import OrditoError, SpecError
from ordito.families import spec_from_config
from ordito.spec import Chain, Head, Norm, Pooling, Residual, Spec

SVG = "{http://www.w3.org/2000/svg}"


def published(name: str) -> Spec:
    return spec_from_config(catalogue.find(name).config)


def words(drawing: Drawing) -> list[str]:
    return [mark.text for mark in drawing.figure.marks if isinstance(mark, Text)]


def variants(times: int) -> Spec:
    """A Llama whose layers are all different."""
    spec = published("Llama 3 8B")
    embedding, stack, norm = spec.body.parts
    attention, mlp = stack.layers[0].parts
    before, feed_forward = mlp.inner.parts
    layers = tuple(Chain(attention, Residual(Chain(before, replace(feed_forward, d_ff=n + 1)))) for n in range(times))
    return replace(spec, body=Chain(embedding, replace(stack, layers=layers), norm))


def test_the_public_name_is_the_function():
    assert ordito.draw is draw


def test_svg_is_a_document_of_plain_shapes():
    document = draw(published("DeepSeek-V3")).svg()
    root = ElementTree.fromstring(document)
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {"svg", "title", "rect", "path", "text"}
    values = [value for element in root.iter() for value in element.attrib.values()]
    assert not [value for value in values if "nan" in value or "inf" in value]


def test_drawing_is_deterministic_and_notebooks_show_it():
    spec = published("Gemma 3 1B")
    assert draw(spec).svg() == draw(spec).svg() == draw(spec)._repr_svg_()


def test_dark_is_the_same_picture_in_other_colours():
    light, dark = (draw(published("Mixtral 8x7B v0.1")).svg(theme) for theme in ("light", "dark"))
    assert light != dark
    for name, colour in THEMES["light"].items():
        assert name in THEMES["dark"], name
        light = light.replace(f'"{colour}"', '"#"')
    for colour in THEMES["dark"].values():
        dark = dark.replace(f'"{colour}"', '"#"')
    assert light == dark


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_what_is_behind_it(theme):
    """WCAG 2.1: a contrast of 4.5 for text."""
    paint = THEMES[theme]

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(paint[a]), luminance(paint[b])))
        return (high + 0.05) / (low + 0.05)

    behind = [name for name in paint if name.endswith(".fill")] + ["page", "card", "group"]
    faint = {(a, b) for a in ("text", "quiet", "new") for b in behind if contrast(a, b) < 4.5}
    assert not faint
    assert contrast("badge.text", "badge") >= 4.5
    assert contrast("page", "mixture.edge") >= 4.5


def test_the_layers_of_gemma_3_are_folded():
    text = words(draw(published("Gemma 3 27B")))
    assert {"10 ×", "5 × local", "1 × global", "2 × local"} <= set(text)
    assert [t for t in text if "layers, " in t] == ["52 layers, 413M each", "10 layers, 413M each"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("GPT-2 small", ["Multi-head attention", "pre-norm", "1,024 learned", "tied to embedding", "12 layers"]),
        ("GPT-1", ["post-norm"]),
        ("Gemma 2 2B", ["sandwich norms", "soft-cap", "50", "30", "causal, window 4,096"]),
        ("Phi-2", ["pre-norm, parallel branches", "θ 10,000 on 32 of 80"]),
        ("Gemma 2B", ["Multi-query attention", "8 query, 1 KV"]),
        ("Mixtral 8x7B v0.1", ["Mixture of experts", "2 of 8 per token", "46,702,792,704 parameters (12.9B active)"]),
        ("DeepSeek-V3", ["Multi-head latent attention", "8 of 256 per token", "4 of 8, by top-2 sum", "shared", "Multi-token prediction (MTP)", "14,336 → 7,168"]),
        ("gpt-oss-120b", ["sinks", "one learned logit per head", "causal, window 128", "gate ≤ 7, |up| ≤ 7"]),
        ("Llama 4 Scout 17B-16E", ["causal, chunks of 8,192", "1 + 0.1 ln(1 + int((p + 1) / 8,192))", "none", "applied to an expert's input"]),
        ("T5 small", ["Cross-attention", "from the encoder", "Shared embedding", "6 layers", "6 + 6 layers"]),
        ("ModernBERT base", ["bidirectional, window ±64"]),
        ("BERT base uncased", ["bidirectional", "Pooler", "vector of 768"]),
    ],
)  # fmt: skip
def test_special_settings_of_models_are_written(name, shown):
    drawn = words(draw(published(name)))
    missing = set(shown) - {*drawn, *drawn[1].split(DOT)}
    assert not missing


def test_equal_architectures_have_no_marks():
    spec = published("Gemma 3 1B")
    marked = [
        mark
        for mark in draw(spec, spec).figure.marks
        if getattr(mark, "fill", "") == "new" or getattr(mark, "stroke", "") == "new"
    ]
    assert [mark.text for mark in marked] == ["≠ differs from the other model, or is absent there"]


def test_what_differs_is_marked_by_colour_and_by_a_sign():
    drawing = draw(published("Llama 2 7B"), published("Llama 3 8B"))
    marks = [mark for mark in drawing.figure.marks if isinstance(mark, Text)]
    marked = [mark for mark in marks if mark.fill == "new"]
    assert all(mark.bold for mark in marked)
    assert {"θ 10,000", "θ 500,000", "32", "32 query, 8 KV", "11,008", "14,336"} <= {mark.text for mark in marked}
    assert {"pre-norm", "128", "causal"} <= {mark.text for mark in marks if mark.fill in ("text", "quiet")}
    rows = {round(mark.y, 1) for mark in marked if mark.text.startswith("≠")}
    assert {round(mark.y, 1) for mark in marked} == rows, "every marked line has its sign"
    assert any(mark.dash for mark in drawing.figure.marks if isinstance(mark, Rect) and mark.stroke == "new")


def test_embeddings_are_compared_too():
    spec = published("BERT base uncased")
    mean, first = (replace(spec, pooler=None, pooling=Pooling(kind=kind, normalise=True)) for kind in ("mean", "cls"))
    marked = {mark.text for mark in draw(mean, first).figure.marks if isinstance(mark, Text) and mark.fill == "new"}
    assert marked - {"≠", "≠ differs from the other model, or is absent there"} == {
        "method",
        "mean over tokens",
        "first token",
    }


def test_a_block_that_the_other_lacks_is_marked_as_a_whole():
    drawing = draw(published("Llama 3 8B"), published("Gemma 2 2B"), titles=["a", "b"])
    half = drawing.figure.width / 2
    whole = [mark for mark in drawing.figure.marks if isinstance(mark, Text) and mark.text == "≠ RMSNorm"]
    assert len(whole) == 4, "two norms after the blocks, in each of two kinds of layers"
    assert all(mark.x > half for mark in whole)


def test_png_is_as_large_as_the_scale_says_and_the_text_is_in_it():
    drawing = draw(published("GPT-2 small"))
    data = drawing.png(scale=1.5)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    size = struct.unpack(">II", data[16:24])
    assert size == pytest.approx((drawing.figure.width * 1.5, drawing.figure.height * 1.5), abs=1)
    without = replace(drawing, titles=("",)).png(scale=1.5)
    assert _pixels(data) != _pixels(without), "the title leaves a trace, so the font was found"


def _pixels(data: bytes) -> bytes:
    at, parts = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    return zlib.decompress(b"".join(parts))


@pytest.mark.parametrize("ending", ["svg", "png", "SVG"])
def test_save(tmp_path, ending):
    path, drawing = tmp_path / f"picture.{ending}", draw(published("GPT-2 small"))
    path.write_text("before")
    drawing.save(path, theme="dark", scale=1)
    assert path.read_bytes() == (drawing.png(1, "dark") if ending == "png" else drawing.svg("dark").encode())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.pdf", {}, "x.pdf: got the ending '.pdf', expected .svg or .png"),
        ("x", {}, "x: got the ending '(none)', expected .svg or .png"),
        ("no/folder/x.svg", {}, "x.svg: cannot be written (No such file or directory)"),
        ("x.svg", {"theme": "drak"}, "unknown theme 'drak', expected one of light, dark; did you mean dark?"),
        ("x.png", {"scale": 0.0}, "scale: got 0.0, expected 0.1 to 10"),
        ("x.png", {"scale": float("nan")}, "scale: got nan, expected 0.1 to 10"),
        ("x.png", {"scale": 1e9}, "scale: got 1000000000.0, expected 0.1 to 10"),
    ],
)
def test_a_failed_save_raises_and_leaves_no_file(tmp_path, name, options, message):
    with pytest.raises(OrditoError) as error:
        draw(published("GPT-2 small")).save(tmp_path / name, **options)
    assert str(error.value).endswith(message)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_stays(tmp_path):
    (tmp_path / "x.svg").mkdir()
    with pytest.raises(OrditoError, match=r"x\.svg: cannot be written"):
        draw(published("GPT-2 small")).save(tmp_path / "x.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]


@pytest.mark.parametrize(("count", "titles"), [(0, None), (3, None), (1, ["a", "b"]), (2, ["a"])])
def test_numbers_of_architectures_and_titles(count, titles):
    with pytest.raises(OrditoError, match="expected one"):
        draw(*[published("GPT-2 small")] * count, titles=titles)


def test_arguments_that_are_not_specs_are_refused():
    with pytest.raises(OrditoError, match="draw: got str, expected a Spec"):
        draw("gpt2")


def test_names_are_cut_and_cannot_break_out():
    title = "<script>alert(1)</script>&\x00\x1b[31m\n\ud800" + "W" * 100_000
    drawing = draw(published("GPT-2 small"), titles=[title])
    root = ElementTree.fromstring(drawing.svg())
    assert not root.findall(f".//{SVG}script")
    assert "<script>alert(1)</script>& [31m" in root.find(f"{SVG}title").text
    assert len(drawing.titles[0]) <= 80
    assert len(drawing.svg()) < 100_000
    assert drawing.png()[:4] == b"\x89PNG"


def test_ten_thousand_kinds_of_layers_are_counted_not_drawn():
    drawing = draw(variants(10_000))
    shown = words(drawing)
    assert f"… {10_000 - MOST_KINDS:,} more kinds of layers" in shown
    assert "… 9,988 more layers" in shown
    assert len(drawing.svg()) < 200_000
    assert len(drawing.text()) < 10_000
    assert "9,994 more kinds of layers" in drawing.text()


def test_a_layer_of_too_many_blocks_is_refused():
    spec = published("Llama 3 8B")
    embedding, stack, norm = spec.body.parts
    many = Chain(*(Norm(name=f"n{i}", d_model=4096, kind="rms", eps=1e-6) for i in range(1000)))
    with pytest.raises(SpecError, match="got 1,000 blocks in layer A, expected at most 400 to draw"):
        draw(replace(spec, body=Chain(embedding, replace(stack, layers=(many,)), norm))).svg()


def test_blocks_that_are_nested_too_deeply_are_refused():
    spec = published("Llama 3 8B")
    embedding, stack, norm = spec.body.parts
    deep = Norm(name="deep", d_model=4096, kind="rms", eps=1e-6)
    for _ in range(300):
        deep = Residual(Chain(deep))
    with pytest.raises(SpecError, match="nested too deeply"):
        draw(replace(spec, body=Chain(embedding, replace(stack, layers=(deep,)), norm))).svg()


def test_too_many_blocks_outside_the_layers_are_refused():
    spec = published("Llama 3 8B")
    many = (Norm(name=f"n{i}", d_model=4096, kind="rms", eps=1e-6) for i in range(1000))
    with pytest.raises(SpecError, match="got 1,003 blocks outside its layers|got 1,004 blocks outside its layers"):
        draw(replace(spec, body=Chain(*spec.body.parts, *many))).text()


def test_sizes_beyond_all_numbers_are_refused():
    spec = published("Llama 3 8B")
    embedding, stack, norm = spec.body.parts
    attention, mlp = stack.layers[0].parts
    before, feed_forward = mlp.inner.parts
    layer = Chain(attention, Residual(Chain(before, replace(feed_forward, d_ff=10**4000))))
    drawing = draw(replace(spec, body=Chain(embedding, replace(stack, layers=(layer,)), norm)))
    for made in (drawing.svg, drawing.text):
        with pytest.raises(SpecError, match="sizes are too large to draw, expected at most 1e\\+18 parameters"):
            made()


def test_comparing_ten_thousand_kinds_is_fast():
    start = time.perf_counter()
    draw(variants(5_000), variants(4_000)).svg()
    assert time.perf_counter() - start < 20


def test_a_model_without_layers_is_drawn():
    spec = published("GPT-2 small")
    embedding, stack, norm = spec.body.parts
    assert "0 layers" in draw(replace(spec, body=Chain(embedding, replace(stack, layers=()), norm))).svg()


def test_several_outlets_are_drawn_in_parallel():
    bert = published("BERT base uncased")
    head = Head(d_model=768, vocab_size=30522, tied=True, bias=True)
    drawing = draw(replace(bert, head=head, pooling=Pooling(kind="mean")))
    ends = {mark.text: mark.x for mark in drawing.figure.marks if isinstance(mark, Text) and mark.anchor == "middle"}
    places = [ends[text] for text in ("logits over 30,522 tokens", "vector of 768", "embedding of the text")]
    assert places == sorted(set(places))
    assert not faults(drawing.figure)
