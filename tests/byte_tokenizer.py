"""A tokenizer of bytes for any chat template: every control token that the template writes is one."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"<[|｜][^<>\n{}']{1,40}[|｜]>|\[/?[A-Z_]{3,20}\]|</?s>|<(?:start|end)_of_\w+>|<turn\|>|<\|turn>|\[e~\[|\]~b\]"
    r"|<SPECIAL_\d+>|<sep>|<seed:eos>|</?assistant>"
)
_ENDS = (
    "<|return|> <|eot|> <|end_of_text|> <|END_OF_TURN_TOKEN|> <seed:eos> <|message_sep|> <|end_of_msg|> [e~[ <SPECIAL_12> "
    "<sep> <turn|> <|role_end|> </assistant> <｜hy_eos:opensource｜> <end_of_sentence> <|im_end|> <|eot_id|> <end_of_turn> <|end|> <｜end▁of▁sentence｜>"
).split()


def byte_tokenizer(template="", *, merges=(), eos=None, **roles):
    """Bytes, `merges` of them, and the control tokens of a template. Its end token is the one that the template writes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from ordito.text.library import with_library
    from ordito.text.tokenizer import Special
    from ordito.text.vocabulary import Vocabulary

    eos = eos or next((end for end in _ENDS if end in template), "</s>")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    library = Tokenizer(models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=list(merges)))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    all_tokens = list(dict.fromkeys([*tokens, "<s>", eos, *_CONTROL.findall(template)]))
    control = frozenset(range(len(tokens), len(all_tokens)))
    vocabulary = Vocabulary("byte-level", all_tokens, control, control)
    special = Special(**({"bos": vocabulary.ids["<s>"], "eos": vocabulary.ids[eos]} | roles))
    return with_library(vocabulary, library, special, chat_template=template)


def said(text, tokenizer):
    """What is learned of a text, stretch by stretch, control tokens written out."""
    stretches, before = [], False
    for id, learn in zip(text.ids.tolist(), text.learn.tolist(), strict=True):
        if learn and not before:
            stretches.append([])
        if learn:
            stretches[-1].append(id)
        before = learn
    return [tokenizer.decode(stretch, skip_special_tokens=False) for stretch in stretches]
