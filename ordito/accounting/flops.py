"""FLOPs: the multiplications and additions of matrix products, two for each pair of numbers.

Elementwise operations (norms, RoPE, activations, softmax) are left out, as in papers: they are below a hundredth of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ordito.accounting.parameters import tensors_of
from ordito.spec import Attention, Block, BlockSparse, Embedding, LatentAttention, Spec, leaves_of


@dataclass(frozen=True)
class Work:
    """FLOPs: those of products with `weights`, and those of `attention` between tokens (scores and weighted values)."""

    weights: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.attention

    def __add__(self, other: Work) -> Work:
        return Work(self.weights + other.weights, self.attention + other.attention)


@dataclass(frozen=True)
class Flops:
    """The FLOPs of one model, as a function of the numbers of tokens."""

    spec: Spec

    def forward(self, tokens: int, past: int = 0, *, logits: int | None = None, source: int = 0) -> Work:
        """A forward pass of `tokens` new tokens after `past` cached ones, with the last `logits` logits (None: all).

        A query is counted with the keys that its mask lets through: up to itself in a causal layer, and within the window.
        Cross-attention is counted over a `source` of so many tokens, whose keys and values `encode` counts.
        """
        work = sum((self._leaf(leaf, tokens, past, source) for leaf in self._leaves("body")), Work())
        head = [dense(leaf) for leaf in self._leaves("head")]
        return work + Work(sum(head) * (tokens if logits is None else logits))

    def decode(self, context: int = 1, *, source: int = 0) -> Work:
        """Decoding the last token of a `context`; multi-head latent attention in the cheaper of its two forms."""
        return self.forward(1, context - 1, source=source)

    def prefill(self, tokens: int) -> Work:
        """The prefill of a text, with logits after its last token only; of an encoder-decoder, its encoder reads the text."""
        return self.encode(tokens) if self.spec.encoder else self.forward(tokens, logits=1)

    def encode(self, source: int) -> Work:
        """The encoder on a source of so many tokens, and its keys and values for the decoder's cross-attention."""
        work = sum((self._leaf(leaf, source, 0, source) for leaf in self._leaves("encoder")), Work())
        crossing = [leaf for leaf in self._leaves("body") if isinstance(leaf, Attention) and leaf.cross]
        return work + Work(sum(4 * leaf.n_kv_heads * leaf.head_dim * leaf.d_model for leaf in crossing) * source)

    def _leaves(self, part: str) -> Iterator[Block]:
        block = getattr(self.spec, part)
        return iter(()) if block is None else (leaf for _, leaf in leaves_of(block))

    def _leaf(self, leaf: Block, tokens: int, past: int, source: int) -> Work:
        match leaf:
            case Attention(cross=True):
                across = Work(attention=4 * leaf.n_heads * leaf.head_dim * tokens * source)
                return Work(4 * leaf.n_heads * leaf.head_dim * leaf.d_model * tokens) + across
            case Attention():
                pairs = visible(leaf, tokens, past)
                return Work(dense(leaf) * tokens, 4 * leaf.head_dim * pairs)
            case LatentAttention():
                return latent(leaf, tokens, past)
        return Work(dense(leaf) * tokens)


def dense(leaf: Block) -> int:
    """FLOPs of a leaf's matrices for one token: two for each active weight; a tied head counts the matrix that it shares."""
    if isinstance(leaf, Embedding):
        return 0
    from_weights = 2 * sum(
        active
        for name, shape, active in tensors_of(leaf)
        if len(shape) > 1 and not name.endswith((".relative_bias.weight", ".bias"))
    )
    tied = getattr(leaf, "tied", False)
    return 2 * leaf.d_model * leaf.vocab_size if tied else from_weights  # type: ignore[attr-defined]


def latent(leaf: LatentAttention, tokens: int, past: int) -> Work:
    """Multi-head latent attention (arXiv:2405.04434, section 2.1): the cheaper of its two forms.

    Plain: keys and values of all heads are computed from every cached latent, followed by ordinary attention.
    Absorbed: queries are projected into the latent space, where the latents themselves serve as keys and values.
    """
    up = 2 * leaf.n_heads * (leaf.nope_dim + leaf.v_dim) * leaf.kv_rank
    rest = dense(leaf) - up
    pairs = leaf.n_heads * (band(past + tokens, None) - band(past, None))
    plain = Work(rest * tokens + up * (past + tokens), 2 * (leaf.q_dim + leaf.v_dim) * pairs)
    absorbed = Work((rest + up) * tokens, 2 * (2 * leaf.kv_rank + leaf.rope.dim) * pairs)
    return min(plain, absorbed, key=lambda work: work.total)


def visible(leaf: Attention, tokens: int, past: int) -> int:
    """Pairs of query and key that the mask lets through, over all heads, for `tokens` queries after `past` cached tokens."""
    whole = past + tokens
    if leaf.causal:
        return seen(leaf, whole) - seen(leaf, past)
    # For each query the keys up to its own and those from its own on; its own is in both.
    before = band(whole, leaf.window) - band(past, leaf.window)
    return leaf.n_heads * (before + band(tokens, leaf.window) - tokens)


@lru_cache(maxsize=256)  # layers are alike, and block-sparse patterns are counted block by block
def seen(leaf: Attention, length: int) -> int:
    """Pairs of query and key, over all heads, of a causal text of `length` tokens."""
    if leaf.block_sparse is not None:
        return sum(in_blocks(leaf.block_sparse, head, length) for head in range(leaf.n_heads))
    if leaf.chunk:
        chunks, rest = divmod(length, leaf.chunk)
        return leaf.n_heads * (chunks * band(leaf.chunk, leaf.window) + band(rest, leaf.window))
    return leaf.n_heads * band(length, leaf.window)


def band(length: int, window: int | None) -> int:
    """Pairs of `length` queries and the keys up to each: a triangle, less the triangle of those beyond the window."""
    out = max(0, length - window) if window is not None else 0
    return (length * (length + 1) - out * (out + 1)) // 2


def in_blocks(sparse: BlockSparse, head: int, length: int) -> int:
    """Pairs of query and key of one head in a text of `length` tokens, under a block-sparse pattern (see `BlockSparse`)."""
    pairs = 0
    for block in range(-(-length // sparse.block)):
        queries = min(sparse.block, length - block * sparse.block)
        near = min(block, sparse.local - 1)
        # Blocks s before the near ones with (s + head + 1) divisible by the stride.
        strided = (block - near + head) // sparse.stride - head // sparse.stride
        pairs += queries * (near + strided) * sparse.block + queries * (queries + 1) // 2
    return pairs
