"""The commands, as processes: what stands on which stream, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import ordito
from ordito.cli.chat import Chat
from ordito.cli.settings import DEFAULTS, Settings
from ordito.errors import OrditoError


@pytest.fixture
def cli(tmp_path):
    """Runs `ordito ...` with a home of its own, away from any network."""

    def run(*arguments, stdin="", **environment):
        variables = {
            **os.environ,
            "ORDITO_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"),
            **environment,
        }
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        command = [sys.executable, "-m", "ordito", *map(str, arguments)]
        done = subprocess.run(command, input=data, capture_output=True, env=variables, check=False, timeout=120)
        return SimpleNamespace(status=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    return run


def test_an_answer_is_all_that_stands_on_standard_output(cli, folder):
    done = cli("run", folder, "the loom", "--temperature", "0", "--max-tokens", "9", "--verbose")
    expected = ordito.load(folder).chat([{"role": "user", "content": "the loom"}], max_tokens=9).text
    assert done.out == expected + ("" if expected.endswith("\n") else "\n")
    assert done.status == 0
    assert "load" in done.err
    assert "tokens/s" in done.err


def test_json_holds_the_answer_and_its_counts(cli, folder):
    answer = json.loads(cli("run", folder, "--json", "--raw", "--max-tokens", "5", "--temperature", "0", stdin="the loom").out)
    expected = ordito.load(folder).generate("the loom", max_tokens=5)
    assert answer["text"] == expected.text
    assert answer["token_ids"] == expected.token_ids
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["finish_reason"] in ("stop", "length")


def test_piped_text_follows_the_prompt(cli, folder):
    one = cli("run", folder, "the", "--raw", "--temperature", "0", "--max-tokens", "5", stdin="loom")
    assert one.out == cli("run", folder, "the\n\nloom", "--raw", "--temperature", "0", "--max-tokens", "5").out


def test_show_says_what_a_model_is(cli, folder):
    shown = json.loads(cli("show", folder, "--json").out)
    assert shown["family"] == "LLaMA"
    assert (
        shown["parameters"] == sum(shown["quantization"].values()) * ordito.account.count(ordito.load(folder).spec).parameters
    )
    assert shown["attention"][0]["kv_heads"] == 2
    assert "<|im_start|>" in shown["chat_template"]
    assert cli("show", folder, "--template").out == shown["chat_template"] + "\n"
    assert "2 layers: 4 heads on 2 key-value heads" in cli("show", folder).out


def test_embed_prints_a_vector_a_line(cli, folder):
    lines = cli("embed", folder, stdin="the warp\nthe weft\n").out.splitlines()
    assert [len(json.loads(line)) for line in lines] == [32, 32]
    whole = json.loads(cli("embed", folder, "the warp", "--json").out)
    assert whole["dimensions"] == 32
    assert whole["embeddings"][0] == pytest.approx(json.loads(lines[0]), abs=1e-5)


def test_nothing_is_listed_in_an_empty_home(cli):
    assert json.loads(cli("ls", "--json").out) == []
    assert "ordito pull smollm2" in cli("ls").err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "smolm2", "hi"], 1, "did you mean smollm2"),
        (["run", "FOLDER", "hi", "--temperature", "-1"], 1, "temperature is -1.0"),
        (["run", "FOLDER", "hi", "--max-tokens", "0"], 1, "max_tokens is 0"),
        (["run", "FOLDER", "hi", "--backend", "toch"], 1, "did you mean torch"),
        (["run", "FOLDER", "q" * 300], 1, "tokens, but the model's context holds 64"),
        (["run", "FOLDER"], 1, "nothing to ask"),
        (["run", "FOLDER", "hi", "--raw", "--system", "x"], 1, "--system needs a conversation"),
        (["run", "./absent.gguf", "hi"], 1, "absent.gguf"),
        (["pull", "nobody/nothing"], 1, "HF_HUB_OFFLINE"),
        (["rm", "smollm2"], 1, "not on this machine"),
        (["show", "weights.bin"], 1, "weights.bin"),
        (["embed", "FOLDER"], 1, "nothing to embed"),
        (["rnu"], 2, "Did you mean 'run'"),
        (["run", "--temprature", "1"], 2, "--temperature"),
        (["run", "--seed", "x"], 2, "--seed"),
    ],
)
def test_mistakes_are_one_sentence_on_standard_error(cli, folder, arguments, status, message):
    done = cli(*(folder if argument == "FOLDER" else argument for argument in arguments))
    assert done.status == status
    assert done.out == ""
    assert message in done.err
    assert "Traceback" not in done.err
    assert status == 2 or done.err.strip().count("\n") == 0


def test_input_that_is_no_text_is_refused(cli, folder):
    done = cli("run", folder, stdin=b"\xff\xfe")
    assert (done.status, done.out) == (1, "")
    assert "not UTF-8 at byte 0" in done.err


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
    assert min(float(run.split()[-1]) for run in runs) < 0.3  # the best of five: the others may have had company


def test_import_is_quick():
    code = "import time; start = time.process_time(); import ordito; print(time.process_time() - start)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(5)
    ]
    assert min(runs) < 0.3


@pytest.fixture(scope="module")
def loaded(folder):
    return ordito.load(folder)


def talk(loaded, *lines, **options):
    """A chat that is given lines and then the end of input."""
    waiting = list(lines)

    def read(prompt):
        if not waiting:
            raise EOFError
        line = waiting.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    settings = Settings({"max_tokens": 6, "temperature": 0.0}, {})
    chat = Chat(loaded, "tiny", settings, read=read, **options)
    chat.loop()
    return chat


def test_a_chat_remembers(loaded, capsys):
    chat = talk(loaded, "warp", "weft")
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    whole = loaded.chat(chat.messages[:3], max_tokens=6).text
    assert chat.messages[3]["content"] == whole
    assert whole in capsys.readouterr().out


def test_triple_quotes_hold_several_lines(loaded):
    assert talk(loaded, '"""one', "two", 'three"""').messages[0]["content"] == "one\ntwo\nthree"
    assert talk(loaded, '"""one line"""').messages[0]["content"] == "one line"
    assert talk(loaded, '/set system """be', 'brief"""').system == "be\nbrief"


def test_commands_of_the_chat(loaded, capsys):
    chat = talk(
        loaded,
        "/set parameter temperature 0.5",
        "/set parameter stop END",
        "/set verbose",
        "/show parameters",
        "/show info",
        "/show template",
        "/show license",
        "/show system",
        "/?",
    )
    assert chat.settings.all()["temperature"] == 0.5
    assert chat.settings.all()["stop"] == ["END"]
    assert chat.verbose
    shown = capsys.readouterr()
    assert "temperature          0.5" in shown.out
    assert "LLaMA" in shown.out
    assert "<|im_start|>" in shown.out
    assert "/bye" in shown.err
    assert talk(loaded, "warp", "/clear").messages == []
    assert talk(loaded, "/bye", "warp").messages == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sett", "did you mean /set"),
        ("/set parameter temprature 1", "did you mean temperature"),
        ("/set parameter temperature hot", "expected a number"),
        ("/set parameter top_p 3", "top_p is 3"),
        ("/set parameter", "/set wants"),
        ("/show nothing", "expected info"),
        ("q" * 300, "context holds 64"),
    ],
)
def test_mistakes_do_not_end_the_chat(loaded, capsys, line, message):
    chat = talk(loaded, "warp", line, "weft")
    assert message in capsys.readouterr().err
    assert len(chat.messages) == 4


def test_ctrl_c_stops_the_answer_and_not_the_program(loaded, monkeypatch, capsys):
    session = type(loaded.runtime.session())
    feed, fed = session.feed, []

    def interrupted(self, ids):
        fed.append(ids)
        if len(fed) == 3:
            raise KeyboardInterrupt
        return feed(self, ids)

    monkeypatch.setattr(session, "feed", interrupted)
    chat = talk(loaded, "warp", KeyboardInterrupt(), "weft")
    assert len(chat.messages) == 4
    assert "/bye" in capsys.readouterr().err
    assert chat.messages[3]["content"] == loaded.chat(chat.messages[:3], max_tokens=6).text


def test_a_model_without_a_template_continues_text(loaded, monkeypatch, capsys):
    chat = talk(loaded, "the loom", chat=False)
    assert chat.messages[1]["content"] == loaded.generate("the loom", max_tokens=6).text
    assert "continues each text" in capsys.readouterr().err


def test_a_model_cannot_drive_the_terminal(monkeypatch, capsys):
    from ordito.cli.console import write

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write("a\x1b[2Jb\x07\r\n\tc")
    assert capsys.readouterr().out == "a�[2Jb��\n\tc"


def test_the_checkpoint_recommends_and_the_user_decides():
    assert Settings({}, {}).all() == DEFAULTS
    assert Settings({}, {"temperature": 0.2, "top_p": None, "odd": 1}).all() == DEFAULTS | {"temperature": 0.2}
    assert Settings({}, {"do_sample": False, "temperature": 1.0}).all()["temperature"] == 0.0
    assert Settings({"temperature": 0.9}, {"temperature": 0.2}).all()["temperature"] == 0.9
    with pytest.raises(OrditoError):
        Settings({}, {}).set("max_tokens", "0")
