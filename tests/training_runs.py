"""Small runs for tests."""

from __future__ import annotations

import json

from ordito.train import config_from

WORDS = "warp weft loom thread shuttle heddle reed cloth weave yarn spool bobbin".split()


def chats(path, n=40):
    """Conversations of one question and one answer, of unequal lengths."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(n):
            question = " ".join(WORDS[(i + k) % len(WORDS)] for k in range(1 + i % 4))
            answer = " ".join(WORDS[(3 * i + k) % len(WORDS)] for k in range(1 + i % 5))
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def texts(path, n=40):
    """Plain texts."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(n):
            file.write(json.dumps({"text": " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 3 + i % 9))}) + "\n")
    return path


def configured(folder, data, output, objective="sft", **settings):
    """The settings of a short run of a tiny model in fp32."""
    values = {"length": 128, "batch_size": 4, "micro_batch": 2, "steps": 6, "lr": 1e-3, "precision": "float32", "threads": 1}
    return config_from(
        {"objective": objective, "model": str(folder), "data": [str(data)], "output": str(output)} | values | settings
    )


def metrics(output, *names):
    """The numbers of each step that are functions of the run alone."""
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if "second" not in key and (not names or key in names)}
        for record in records
    ]
