"""The commands: what they write to which stream, and their exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import ordito
import ordito.loading
from ordito.checkpoint import store
from ordito.cli import main, message_of
from ordito.cli.settings import DEFAULTS, Settings
from ordito.errors import OrditoError, OrditoWarning


@pytest.fixture
def process(tmp_path):
    """Runs `ordito ...` as a process with a home of its own, away from any network."""

    def run(*arguments, **options):
        homes = {"ORDITO_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-m", "ordito", *map(str, arguments)]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | options
        return subprocess.run(
            command, stderr=subprocess.PIPE, encoding="utf-8", env=os.environ | homes, check=False, timeout=120, **options
        )

    return run


def greedy(*arguments):
    return (*arguments, "--temperature", "0", "--max-tokens", "5")


@pytest.mark.parametrize(("options", "thinking"), [((), None), (("--think",), True), (("--no-think",), False)])
def test_whether_to_think_reaches_the_model(cli, folder, monkeypatch, options, thinking):
    asked, stream = [], ordito.Model.stream

    def asking(self, prompt, **settings):
        asked.append(settings["thinking"])
        return stream(self, prompt, **settings)

    monkeypatch.setattr(ordito.Model, "stream", asking)
    cli(*greedy("run", folder, "weft?"), *options)
    assert asked == [thinking]


def test_arithmetic_and_quantization_reach_the_runtime(cli, folder, monkeypatch):
    asked, load = [], ordito.loading.load

    def loading(name, **settings):
        asked.append((settings["dtype"], settings["quantize"]))
        return load(name, **settings)

    monkeypatch.setattr(ordito.loading, "load", loading)
    options = ("--dtype", "int8", "--quantize", "q8_0")
    cli(*greedy("run", folder, "weft?"), *options)
    cli("embed", folder, "the warp", *options)
    assert asked == [("int8", "q8_0")] * 2
    assert "expected one of" in cli("run", folder, "weft?", "--dtype", "int4", status=1).err


def test_standard_output_holds_the_answer_only(cli, folder):
    done = cli("run", folder, "the loom", "--temperature", "0", "--max-tokens", "9", "--verbose")
    expected = ordito.load(folder).chat([{"role": "user", "content": "the loom"}], max_tokens=9).text
    assert done.out == expected + ("" if expected.endswith("\n") else "\n")
    assert "first token" in done.err
    assert "tokens/s" in done.err


def test_json_holds_the_answer_and_its_counts(cli, folder):
    answer = json.loads(cli("run", folder, "--json", "--raw", "--max-tokens", "5", "--temperature", "0", stdin="the loom").out)
    expected = ordito.load(folder).generate("the loom", max_tokens=5)
    assert answer["text"] == expected.text
    assert answer["token_ids"] == expected.token_ids
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["finish_reason"] in ("stop", "length")


def test_piped_text_follows_the_prompt(cli, folder):
    one = cli(*greedy("run", folder, "the", "--raw"), stdin="loom")
    assert one.out == cli(*greedy("run", folder, "the\n\nloom", "--raw")).out


def test_the_final_newline_of_piped_text_is_dropped(cli, folder):
    asked = [json.loads(cli(*greedy("run", folder, "--json"), stdin=f"the loom{end}").out) for end in ("", "\n", "\r\n")]
    assert len({answer["usage"]["prompt_tokens"] for answer in asked}) == 1


def test_verbose_says_why_a_text_is_continued(cli, folder, tmp_path):
    base = shutil.copytree(folder, tmp_path / "base")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (base / name).unlink(missing_ok=True)
    done = cli(*greedy("run", base, "the loom", "--verbose"))
    assert "no chat template" in done.err
    assert "this model has no chat template" in cli("run", base, "the loom", "--system", "x", status=1).err
    assert done.out == cli(*greedy("run", folder, "the loom", "--raw")).out


def test_show_says_what_a_model_is(cli, folder):
    shown = json.loads(cli("show", folder, "--json").out)
    assert shown["family"] == "LLaMA"
    assert (
        shown["parameters"] == sum(shown["quantization"].values()) * ordito.account(ordito.load(folder).spec).parameters.total
    )
    assert shown["attention"][0]["kv_heads"] == 2
    assert "<|im_start|>" in shown["chat_template"]
    assert cli("show", folder, "--template").out == shown["chat_template"] + "\n"
    assert "2 layers: 4 heads on 2 key-value heads" in cli("show", folder).out


def test_show_needs_only_a_configuration(cli, folder, tmp_path):
    whole = json.loads(cli("show", folder, "--json").out)
    shutil.copy(folder / "config.json", tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        shown = json.loads(cli("show", path, "--json").out)
        assert shown["quantization"] == {}
        assert shown["bytes"] is None
        for key in ("family", "parameters", "attention", "context", "kv_bytes_per_token"):
            assert shown[key] == whole[key]
    assert "no weights here" in cli("show", tmp_path).out


def test_show_needs_no_pytorch(folder):
    code = (
        f"import sys; sys.argv = ['ordito', 'show', {str(folder)!r}]\n"
        "from ordito.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_embed_prints_a_vector_a_line(cli, folder):
    lines = cli("embed", folder, stdin="the warp\nthe weft\n").out.splitlines()
    assert [len(json.loads(line)) for line in lines] == [32, 32]
    whole = json.loads(cli("embed", folder, "the warp", "--json").out)
    assert whole["dimensions"] == 32
    assert whole["embeddings"][0] == pytest.approx(json.loads(lines[0]), abs=1e-5)


def test_only_newlines_separate_the_texts_to_embed(cli, folder):
    assert len(cli("embed", folder, stdin="the\u2028warp\x0cx\r\nthe weft").out.splitlines()) == 2
    assert cli("embed", folder, stdin="a\r\nb\n").out == cli("embed", folder, "a", "b").out


def test_an_encoder_is_sent_to_embed(cli, tmp_path):
    import transformers

    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(vocab_size=300, max_position_embeddings=32, **sizes)).save_pretrained(
        tmp_path
    )
    assert "ordito embed" in cli("run", tmp_path, "hi", status=1).err
    assert "BERT" in cli("show", tmp_path).out


def test_ls_of_an_empty_home(process):
    assert json.loads(process("ls", "--json").stdout) == []
    assert "ordito pull smollm2" in process("ls").stderr


def test_nothing_is_fetched_while_the_hub_is_off(process):
    done = process("pull", "nobody/nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HF_HUB_OFFLINE" in done.stderr


def test_models_are_listed_pulled_and_deleted(cli, monkeypatch):
    models = [
        store.LocalModel(name=name, path=Path("/models") / name, source="package", size=size, licence_notice=notice)
        for name, size, notice in (("weft", 98_362_432, None), ("warp", 1_200, "Read the terms."))
    ]
    monkeypatch.setattr(store, "installed", lambda: models)
    monkeypatch.setattr(store, "pull", lambda name, **_: models[1])
    monkeypatch.setattr(store, "remove", lambda name: 1_200)
    assert cli("ls").out.split() == [
        "warp",
        "1.2",
        "kB",
        "package",
        "/models/warp",
        "weft",
        "98.4",
        "MB",
        "package",
        "/models/weft",
    ]
    assert [model["name"] for model in json.loads(cli("ls", "--json").out)] == ["warp", "weft"]
    pulled = cli("pull", "warp", "--json")
    assert json.loads(pulled.out)["path"] == "/models/warp"
    assert pulled.err == "Read the terms.\n"
    assert cli("rm", "warp", "--yes").out == "warp is deleted: 1.2 kB freed\n"


@pytest.mark.parametrize(
    ("answer", "status", "deleted", "message"),
    [
        ("y\n", 0, True, ""),
        ("Yes", 0, True, ""),
        ("n\n", 0, False, "smollm2 is not deleted\n"),
        ("\n", 0, False, "smollm2 is not deleted\n"),
        (b"\xff\n", 0, False, "smollm2 is not deleted\n"),
        ("", 1, False, "error: smollm2 is not deleted: there was no answer on standard input; -y deletes without asking\n"),
    ],
)
def test_nothing_is_deleted_without_a_yes(cli, monkeypatch, answer, status, deleted, message):
    removed = []
    monkeypatch.setattr("ordito.checkpoint.store.packages.present", lambda model: True)
    monkeypatch.setattr(store, "remove", lambda name: removed.append(name) or 1)
    done = cli("rm", "smollm2", stdin=answer, status=status)
    assert removed == ["smollm2"] * deleted
    assert done.err == "delete smollm2? [y/N]\n" + message


def test_a_damaged_model_gives_no_numbers(cli, folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    damaged = shutil.copytree(folder, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][:] = float("nan")
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    text = tmp_path / "text.txt"
    text.write_text("the warp and the weft " * 40)
    for command in (
        ("embed", damaged, "the warp"),
        ("perplexity", damaged, "-f", text, "--json"),
        ("perplexity", folder, "-f", text, "--reference", damaged),
        ("imatrix", damaged, "-f", text, "-o", tmp_path / "im.gguf"),
    ):
        done = cli(*command, status=1)
        assert done.out == ""
        assert done.err.startswith(f"error: {damaged} gives NaN or infinity")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "smolm2", "hi"], 1, "did you mean smollm2"),
        (["run", "FOLDER", "hi", "--temperature", "-1"], 1, "temperature is -1.0"),
        (["run", "FOLDER", "hi", "--max-tokens", "0"], 1, "max_tokens is 0"),
        (["run", "FOLDER", "hi", "--backend", "toch"], 1, "did you mean torch"),
        (["run", "FOLDER", "q" * 300], 1, "tokens, but the model's context holds 64"),
        (["run", "FOLDER"], 1, "nothing to ask"),
        (["run", "FOLDER", "hi", "--adapter", "FOLDER"], 1, "is no adapter, expected a folder with adapter_config.json"),
        (["run", "FOLDER", "hi", "--raw", "--system", "x"], 1, "--system does not go with --raw"),
        (["run", "FOLDER", "hi", "--raw", "--no-think"], 1, "--no-think does not go with --raw"),
        (["run", "FOLDER", "hi", "--raw", "--format", "alpaca"], 1, "--format does not go with --raw"),
        (["run", "FOLDER", "hi", "--stop", ""], 1, "--stop is empty"),
        (["run", "./absent.gguf", "hi"], 1, "absent.gguf"),
        (["run", "Why is it blue?"], 1, "ordito run smollm2 'Why is it blue?'"),
        (["rm", "./absent.gguf"], 1, "delete the file yourself"),
        (["rm", "nosuch"], 1, "no model is called 'nosuch'"),
        (["rm", "org/nosuch"], 1, "org/nosuch is not on this machine"),
        (["show", "weights.bin"], 1, "weights.bin"),
        (["embed", "FOLDER"], 1, "nothing to embed"),
        (["rnu"], 2, "did you mean"),
        (["run", "--temprature", "1"], 2, "--temperature"),
        (["run", "--seed", "x"], 2, "--seed"),
    ],
)
def test_mistakes_are_one_sentence_on_standard_error(cli, folder, arguments, status, message):
    done = cli(*(folder if argument == "FOLDER" else argument for argument in arguments), status=status)
    assert done.out == ""
    assert message in done.err
    assert "Traceback" not in done.err
    assert status == 2 or done.err.strip().count("\n") == 0


def test_input_that_is_not_utf8_is_refused(cli, folder):
    done = cli("run", folder, stdin=b"\xff\xfe", status=1)
    assert done.out == ""
    assert "not UTF-8 at byte 0" in done.err


def test_without_any_input_there_is_nothing_to_ask(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ordito", "run", str(folder)])
    monkeypatch.setattr(sys, "stdin", None)  # what `<&-` gives
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "nothing to ask" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OrditoError("plain"), "plain"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "x.json"), "x.json: Permission denied"),
        (MemoryError(), "not enough memory"),
        (KeyError("k"), "a bug in ordito (KeyError: 'k'); ORDITO_DEBUG=1"),
    ],
)
def test_every_error_is_told_in_one_line(cli, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(store, "installed", fail)
    said = cli("ls", status=1).err
    assert said == f"error: {message_of(error)}\n"
    assert message in said
    monkeypatch.setenv("ORDITO_DEBUG", "1")
    with pytest.raises(type(error)):
        main()


def test_ctrl_c_ends_a_command_with_130(cli, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ordito.model.Model.stream", interrupt)
    assert cli("run", folder, "the", status=130).err.strip() == ""


def test_a_closed_pipe_is_no_error(folder, process):
    reader, writer = os.pipe()
    os.close(reader)
    done = process("show", folder, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_warnings_are_one_line_each(cli, monkeypatch):
    def warn():
        warnings.warn("two\x1b[2J tensors are ignored", OrditoWarning, stacklevel=1)
        warnings.warn("what libraries say", UserWarning, stacklevel=1)
        return []

    monkeypatch.setattr(store, "installed", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = cli("ls", "--json")
    assert done.out == "[]\n"
    assert done.err == "warning: two�[2J tensors are ignored\n"


def test_help_is_quick_and_needs_nothing_heavy():
    code = (
        "import sys, time; start = time.process_time(); sys.argv = ['ordito', '--help']\n"
        "from ordito.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = [m for m in ('torch', 'numpy', 'tokenizers', 'huggingface_hub', 'transformers') if m in sys.modules]\n"
        "print(heavy, time.process_time() - start, file=sys.stderr)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr for _ in range(5)]
    assert all(run.startswith("[]") for run in runs)
    assert min(float(run.split()[-1]) for run in runs) < 0.3  # the best of five: other processes may have slowed the rest


def test_import_is_quick():
    code = "import time; start = time.process_time(); import ordito; print(time.process_time() - start)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(5)
    ]
    assert min(runs) < 0.3


def test_a_model_cannot_drive_the_terminal(monkeypatch, capsys):
    from ordito.cli.console import write, write_json

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write("a\x1b[2Jb\x07\r\n\tc")
    write_json("\x9b2J\x1b")  # JSON escapes the one and not the other
    assert capsys.readouterr().out == 'a�[2Jb��\n\tc"�2J\\u001b"\n'


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({}, "\x1b[2mhm\x1b[0m\n"), ({"NO_COLOR": "1"}, "hm\n"), ({"TERM": "dumb"}, "hm\n")],
)
def test_a_thought_that_is_interrupted_leaves_the_terminal_as_it_was(monkeypatch, capsys, environment, shown):
    from ordito.cli.console import write_answer
    from ordito.text.answers import Thought

    def parts():
        yield Thought("hm")
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name, value in ({"NO_COLOR": "", "TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyboardInterrupt):
        write_answer(parts())
    assert capsys.readouterr().err == shown


def test_the_checkpoint_recommends_and_the_user_decides():
    assert Settings({}, {}).all() == DEFAULTS
    assert Settings({}, {"temperature": 0.2, "top_p": None, "odd": 1}).all() == DEFAULTS | {"temperature": 0.2}
    cautious = Settings({}, {"do_sample": False, "temperature": 1.0, "repetition_penalty": 1.1}).all()
    assert (cautious["temperature"], cautious["repetition_penalty"]) == (0.0, 1.1)
    assert Settings({"temperature": 0.9}, {"temperature": 0.2}).all()["temperature"] == 0.9
    with pytest.raises(OrditoError):
        Settings({}, {}).set("max_tokens", "0")
