"""How much arithmetic a token takes: the multiplications and additions of matrix products, two for each pair of numbers.

What is done number by number (norms, rotations, activations, softmax) is left out, as papers leave it out: it is below a
hundredth of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ordito.accounting.parameters import working
from ordito.spec import Attention, Block, BlockSparse, Embedding, LatentAttention, Spec, leaves_of


@dataclass(frozen=True)
class Work:
    """Floating-point operations: with the `weights`, and between the tokens of `attention`."""

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
    """The arithmetic of one model, as a function of how many tokens there are."""

    spec: Spec

    def forward(self, tokens: int, past: int = 0, *, logits: int | None = None, source: int = 0) -> Work:
        """`tokens` new tokens read after `past` cached ones, with logits after the last `logits` of them (None: after all).

        A query is counted with the tokens that it sees: a causal layer with those before it, a window with those in it.
        Cross-attention is counted over a `source` of so many tokens, whose keys and values were made by `encode`.
        """
        work = sum((self._leaf(leaf, tokens, past, source) for leaf in self._leaves("body")), Work())
        head = [dense(leaf) for leaf in self._leaves("head")]
        return work + Work(sum(head) * (tokens if logits is None else logits))

    def decode(self, context: int = 1, *, source: int = 0) -> Work:
        """One token, the last of a `context` of so many; DeepSeek's latents in the cheaper of their two forms."""
        return self.forward(1, context - 1, source=source)

    def prefill(self, tokens: int) -> Work:
        """A text read at once, with logits after its last token only, as an engine needs them."""
        return self.forward(tokens, logits=1)

    def encode(self, source: int) -> Work:
        """A source text read by the encoder, and its keys and values for the decoder's cross-attention."""
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
    """FLOPs of a leaf's matrices for one token: two for each weight that works; a tied head's matrix is its own."""
    if isinstance(leaf, Embedding):
        return 0
    from_weights = 2 * sum(
        active
        for name, shape, active in working(leaf)
        if len(shape) > 1 and not name.endswith((".relative_bias.weight", ".bias"))
    )
    tied = getattr(leaf, "tied", False)
    return 2 * leaf.d_model * leaf.vocab_size if tied else from_weights  # type: ignore[attr-defined]


def latent(leaf: LatentAttention, tokens: int, past: int) -> Work:
    """Multi-head latent attention (arXiv:2405.04434, section 2.1): the cheaper of its two forms.

    Plain: keys and values of all heads are made from every latent that is there, and compared as in any attention.
    Absorbed: the query is taken into the space of the latents, which then serve as keys and values themselves.
    """
    up = 2 * leaf.n_heads * (leaf.nope_dim + leaf.v_dim) * leaf.kv_rank
    rest = dense(leaf) - up
    pairs = leaf.n_heads * (band(past + tokens, None) - band(past, None))
    plain = Work(rest * tokens + up * (past + tokens), 2 * (leaf.q_dim + leaf.v_dim) * pairs)
    absorbed = Work((rest + up) * tokens, 2 * (2 * leaf.kv_rank + leaf.rope.dim) * pairs)
    return min(plain, absorbed, key=lambda work: work.total)


def visible(leaf: Attention, tokens: int, past: int) -> int:
    """How many pairs of a query and a key that it sees there are, over all heads, for `tokens` queries after `past`."""
    whole = past + tokens
    if leaf.causal:
        return seen(leaf, whole) - seen(leaf, past)
    # Each query with the keys up to itself, and with those from itself on; itself is in both.
    before = band(whole, leaf.window) - band(past, leaf.window)
    return leaf.n_heads * (before + band(tokens, leaf.window) - tokens)


@lru_cache(maxsize=256)  # layers are alike, and block-sparse patterns are counted block by block
def seen(leaf: Attention, length: int) -> int:
    """Pairs of all queries of a text of `length` and the keys up to each that it sees, over all heads."""
    if leaf.block_sparse is not None:
        return sum(in_blocks(leaf.block_sparse, head, length) for head in range(leaf.n_heads))
    if leaf.chunk:
        chunks, rest = divmod(length, leaf.chunk)
        return leaf.n_heads * (chunks * band(leaf.chunk, leaf.window) + band(rest, leaf.window))
    return leaf.n_heads * band(length, leaf.window)


def band(length: int, window: int | None) -> int:
    """Pairs of `length` queries and the keys up to each: a triangle, less the one that is out of the window's reach."""
    out = max(0, length - window) if window is not None else 0
    return (length * (length + 1) - out * (out + 1)) // 2


def in_blocks(sparse: BlockSparse, head: int, length: int) -> int:
    """Pairs that one head sees of a text of `length` under a block-sparse pattern (see `BlockSparse`)."""
    pairs = 0
    for block in range(-(-length // sparse.block)):
        queries = min(sparse.block, length - block * sparse.block)
        near = min(block, sparse.local - 1)
        # Blocks s before the near ones with (s + head + 1) divisible by the stride.
        strided = (block - near + head) // sparse.stride - head // sparse.stride
        pairs += queries * (near + strided) * sparse.block + queries * (queries + 1) // 2
    return pairs
