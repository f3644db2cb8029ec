"""What a model in training writes by now: the most probable tokens after a prompt."""

from __future__ import annotations

from ordito.train.rollout import write
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
    found = write(subject.module, [ids], [()], max_tokens=most, end_ids=ends, vocab_size=tokenizer.vocab_size, temperature=0)
    return tokenizer.decode(found[0])
