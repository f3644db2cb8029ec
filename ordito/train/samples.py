"""What a model in training writes by now: the most probable tokens after a prompt."""

from __future__ import annotations

from ordito.nn.runtime import TorchSession
from ordito.train.subject import Subject


def sample(subject: Subject, prompt: str, most: int) -> str:
    """The answer to a prompt, at most so many tokens; in a conversation where the model has a chat template.

    Nothing of the run is changed: no random number is drawn.
    """
    tokenizer, ends = subject.tokenizer, subject.tokenizer.end_ids
    if subject.template is not None and subject.talks:
        message = {"role": "user", "content": prompt}
        ids = tokenizer.encode_chat(subject.template.render([message], guarded=tokenizer.guarded))
    else:
        ids = [id for id in tokenizer.encode(prompt) if id != tokenizer.eos_id]
    subject.train(False)
    session = TorchSession(subject.module)
    written: list[int] = []
    while len(written) < most:
        logits_V = session.feed(ids if not written else written[-1:])
        if (following := int(logits_V[: tokenizer.vocab_size].argmax())) in ends:
            break
        written.append(following)
    return tokenizer.decode(written)
