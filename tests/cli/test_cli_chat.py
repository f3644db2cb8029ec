"""The chat: lines in, answers and messages out."""

from __future__ import annotations

import pytest

import ordito
from ordito.cli.chat import Chat
from ordito.cli.settings import Settings


@pytest.fixture(scope="module")
def loaded(folder):
    return ordito.load(folder, backend="torch")


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


def test_what_triple_quotes_hold_is_no_command_and_none_of_it_is_dropped(loaded, capsys):
    assert talk(loaded, '"""/bye', 'leaves"""', "/bye now").messages[0]["content"] == "/bye\nleaves"
    assert talk(loaded, '"""', "/set verbose", '"""').messages[0]["content"] == "/set verbose"
    assert talk(loaded, '"""a(""" b """)', 'c"""  ').messages[0]["content"] == 'a(""" b """)\nc'
    assert "error" not in capsys.readouterr().err


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
    assert talk(loaded, "/set parameter num_predict 3").settings.all()["max_tokens"] == 3
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
        ("/show licens", "did you mean license"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "not UTF-8 at byte 0"),
        ("q" * 300, "context holds 64"),
    ],
)
def test_mistakes_do_not_end_the_chat(loaded, capsys, line, message):
    chat = talk(loaded, "warp", line, "weft")
    assert message in capsys.readouterr().err
    assert len(chat.messages) == 4


def test_ctrl_c_stops_the_answer_and_not_the_program(loaded, monkeypatch, capsys):
    session = type(loaded.runtime.session())
    read, given = session.read, []

    def interrupted(self, ids, wanted):
        given.append(ids)
        if len(given) == 3:
            raise KeyboardInterrupt
        return read(self, ids, wanted)

    monkeypatch.setattr(session, "read", interrupted)
    chat = talk(loaded, "warp", KeyboardInterrupt(), "weft")
    assert len(chat.messages) == 4
    assert "/bye" in capsys.readouterr().err
    assert chat.messages[3]["content"] == loaded.chat(chat.messages[:3], max_tokens=6).text


@pytest.mark.parametrize("passes", [1, 3])
def test_an_interrupt_drops_the_half_computed_cache(loaded, capsys, passes):
    """After Ctrl-C between two layers, the cache has room for tokens whose keys were never stored."""
    left = [passes]

    def interrupt(*_):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    hook = loaded.runtime.module.layers[1].register_forward_pre_hook(interrupt)
    chat = talk(loaded, "the warp", "the warp")
    hook.remove()
    assert len(chat.messages) == (2 if passes == 1 else 4)  # a question without any answer is forgotten
    assert chat.messages[-1]["content"] == loaded.chat(chat.messages[:-1], max_tokens=6).text
    assert "stopped" in capsys.readouterr().err


def test_an_answer_cut_short_says_why(loaded, capsys):
    talk(loaded, "warp")
    assert "stopped after 6 tokens; /set parameter max_tokens" in capsys.readouterr().err
    talk(loaded, "/set parameter max_tokens 99", "q" * 30)
    assert "the context is full: /clear" in capsys.readouterr().err


def test_a_model_without_a_template_continues_text(loaded, monkeypatch, capsys):
    chat = talk(loaded, "the loom", chat=False)
    assert chat.messages[1]["content"] == loaded.generate("the loom", max_tokens=6).text
    assert "continues each text" in capsys.readouterr().err
