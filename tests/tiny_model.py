"""Tiny random models on disk."""

from __future__ import annotations

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_folder(path, context, *, seed=0, text="the warp and the weft of a loom", control=(), template=TEMPLATE):
    """A tiny random LLaMA with a tokenizer and a ChatML template, as transformers saves it."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", *control]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text] * 10, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>", chat_template=template
    )
    fast.save_pretrained(path)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        eos_token_id=1,
        bos_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path


def random_checkpoint(spec, folder, spread):
    """A checkpoint of random weights, N(0, spread^2), in its family's published layout; vectors are N(0.5, spread^2)."""
    import numpy as np

    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.checkpoint.export import write_folder

    generator = np.random.default_rng(5)
    weights = {
        name: generator.normal(0.5 * (len(shape) == 1), spread, shape).astype(np.float32)
        for name, shape in spec.tensors().items()
    }
    write_folder(folder, spec, weights)
    return open_checkpoint(folder)
