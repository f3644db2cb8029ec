"""Samples of a model in training: greedy answers to prompts."""

from __future__ import annotations

from ordito.errors import ContextError
from ordito.train.rollout import generate
from ordito.train.subject import Subject


def sample(subject: Subject, prompt: str, most: int) -> str:
    """The greedy answer to a prompt, at most `most` tokens, through the chat template if the model is trained on conversations.

    The state of the run does not change: no random number is drawn. Raises `ContextError` for a prompt that fills all positions
    of the model.
    """
    tokenizer, ends = subject.tokenizer, subject.tokenizer.end_ids
    if subject.template is not None and subject.talks:
        message = {"role": "user", "content": prompt}
        ids = tokenizer.encode_chat(subject.template.render([message], guarded=tokenizer.guarded))
    else:
        ids = [id for id in tokenizer.encode(prompt) if id != tokenizer.eos_id]
    room = subject.module.fitting(len(ids) + most) - len(ids)
    if room < 1:
        raise ContextError(f"it has {len(ids)} tokens, which leaves no position for an answer")
    found = generate(subject.module, [ids], [()], max_tokens=room, end_ids=ends, vocab_size=tokenizer.vocab_size, temperature=0)
    return tokenizer.decode(found[0])
