"""The chat that `ordito run` opens, with the commands of Ollama's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ordito.cli.answers import report, talks
from ordito.cli.console import say, write, write_answer
from ordito.cli.settings import Settings
from ordito.cli.show import describe, lines
from ordito.errors import ContextError, OrditoError, did_you_mean
from ordito.units import plural

if TYPE_CHECKING:
    from ordito.model import Model

HELP = """\
/set parameter NAME VALUE   one of temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, stop
/set system TEXT            the system message
/set verbose | quiet        print tokens per second after each answer, or not
/show info | parameters | system | template | license
/clear                      forget the conversation
/bye                        leave (so does Ctrl-D)
/?                          this help
\"\"\"                         starts and ends a text of several lines
Ctrl-C                      stops the answer"""


class Chat:
    """A conversation on a terminal. `read` prompts for a line, as `input` does."""

    def __init__(
        self,
        model: Model,
        name: str,
        settings: Settings,
        *,
        system: str | None = None,
        chat: bool | None = None,
        verbose: bool = False,
        licence: str | None = None,
        think: bool | None = None,
        read: Callable[[str], str] = input,
    ) -> None:
        self.model, self.name, self.settings, self.licence = model, name, settings, licence
        self.system, self.verbose, self.think, self.read = system, verbose, think, read
        self.talks = talks(model, chat)
        self.messages: list[dict[str, Any]] = []
        self.fresh()

    def loop(self) -> None:
        """Answer lines until the user leaves."""
        with suppress(ImportError):
            import readline  # noqa: F401 - gives `input` line editing and history
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="strict")  # in the C locale, invalid bytes would pass and fail much later
        self.model.tokenizer.encode("")  # so that a broken tokenizer fails now, not after the first question
        if not self.talks:
            say("this model has no chat template, so it continues each text that you give it (--chat uses its family's format)")
        say(f"{self.name} is ready; /? lists the commands, /bye leaves")
        while True:
            try:
                text, quoted = self._ask()
            except KeyboardInterrupt:
                say("\nUse Ctrl-D or /bye to leave.")
                continue
            except UnicodeDecodeError as error:
                say(f"error: that line is not {error.encoding.upper()} at byte {error.start}, expected text")
                continue
            except EOFError:
                say("")
                return
            if not quoted and text.split()[:1] in (["/bye"], ["/exit"], ["/quit"]):
                return
            try:
                self.turn(text, quoted)
            except ContextError as error:
                say(f"error: {error}" + ("; /clear forgets the conversation" if self.messages else ""))
            except OrditoError as error:
                say(f"error: {error}")
            except KeyboardInterrupt:
                say("\n(stopped)")
                self.fresh()

    def _ask(self) -> tuple[str, bool]:
        """One line, or several from triple quotes to those at the end of a line; and whether quotes keep it from being a
        command."""
        text = self.read(">>> ")
        head, quotes, rest = text.partition('"""')
        if not quotes or not (head.strip() == "" or head.startswith("/set system")):
            return text, False
        lines = [rest]
        while not lines[-1].rstrip().endswith('"""'):
            lines.append(self.read("... "))
        lines[-1] = lines[-1].rstrip().removesuffix('"""')
        return head + "\n".join(lines).strip("\n"), not head.strip()

    def turn(self, text: str, quoted: bool = False) -> None:
        """One input: a command, or something to answer."""
        if text.startswith("/") and not quoted:
            self.command(text)
        elif text.strip():
            self.answer(text)

    def answer(self, text: str) -> None:
        """Answer, and add question and answer to the conversation; an interrupted answer is kept as far as it got."""
        question = {"role": "user", "content": text}
        system = [{"role": "system", "content": self.system}] if self.system else []
        prompt: Any = [*system, *self.messages, question] if self.talks else text
        stream = self.model.stream(prompt, conversation=self.conversation, thinking=self.think, **self.settings.all())
        interrupted = False
        try:
            write_answer(stream.parts())
        except KeyboardInterrupt:
            interrupted = True
            self.fresh()
        result = stream.result
        write("\n\n" if not result.text.endswith("\n") else "\n")
        if result.text or not interrupted:
            thought = {"reasoning_content": result.thinking} if result.thinking else {}
            self.messages += [question, {"role": "assistant", "content": result.text, **thought}]
        if interrupted:
            say("(stopped)" if result.text else "(stopped before the answer began; the question is forgotten)")
        elif result.finish_reason == "length":
            full = len(result.token_ids) < self.settings.all()["max_tokens"]
            more = "the context is full: /clear forgets the conversation" if full else "/set parameter max_tokens N allows more"
            say(f"(stopped after {plural(len(result.token_ids), 'token')}; {more})")
        if self.verbose:
            report(result, interrupted=interrupted)

    def fresh(self) -> None:
        """Drop the KV cache: an interrupted step may have left part of it unwritten."""
        from ordito.model import Conversation

        self.conversation = Conversation(self.model)

    def command(self, text: str) -> None:
        """Run a line that begins with a slash. Raises `OrditoError` for an unknown command."""
        words = text.split(maxsplit=1)
        name, rest = words[0], words[1] if len(words) > 1 else ""
        commands: dict[str, Callable[[str], None]] = {
            "/set": self.set,
            "/show": self.show,
            "/clear": self.clear,
            "/?": lambda _: say(HELP),
            "/help": lambda _: say(HELP),
        }
        if name not in commands:
            raise OrditoError(f"unknown command {name!r}{did_you_mean(name, [*commands, '/bye'])}; /? lists the commands")
        commands[name](rest)

    def clear(self, rest: str) -> None:
        """Forget the conversation."""
        self.messages.clear()
        say("the conversation is forgotten")

    def set(self, rest: str) -> None:
        """`/set ...`."""
        what, _, value = rest.partition(" ")
        if what == "parameter" and value.strip():
            name, _, text = value.strip().partition(" ")
            name = self.settings.set(name, text.strip())
            say(f"{name} is {self.settings.all()[name]}")
        elif what == "system":
            if not self.talks:
                raise OrditoError("this model has no chat format, so there is no system message")
            self.system = value.strip() or None
            say("the system message is set" if self.system else "there is no system message")
        elif what in ("verbose", "quiet"):
            self.verbose = what == "verbose"
        else:
            raise OrditoError("/set wants parameter NAME VALUE, system TEXT, verbose or quiet")

    def show(self, rest: str) -> None:
        """`/show ...`."""
        described = describe(self.model.checkpoint, self.name, self.licence, self.model.tokenizer)
        match rest.strip():
            case "" | "info":
                write("\n".join(lines(described)) + "\n")
            case "parameters":
                write("".join(f"{name:20} {value}\n" for name, value in self.settings.all().items()))
            case "system":
                write((self.system or "(none)") + "\n")
            case "template":
                write((self.model.template.source if self.talks else "(none)") + "\n")
            case "license" | "licence":
                write((described["licence"] or "(not known)") + "\n")
            case other:
                topics = ("info", "parameters", "system", "template", "license")
                raise OrditoError(f"/show {other}: expected {', '.join(topics)}{did_you_mean(other, topics)}")
