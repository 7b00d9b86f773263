"""How kernels divide a call: the sizes of blocks and tiles, and the keys that a block may see.

Numbers are Python integers if shapes are static, and otherwise scalar tensors (a length that is
known at run time, a position in a loop).
"""

from typing import NamedTuple

from keras import ops

from keras_attn._typing import Size, Tensor
from keras_attn.ops.masks import AttentionMask


class TileLimits(NamedTuple):
    """The logits of a tile of TensorFlow's kernel at most, and its rows over all heads of a group.

    The products are slow with fewer rows than the first number.
    """

    logits: int
    rows: tuple[int, int]


# What depends on the device, and on the backend that uses it:
#
# | number       | CPU, measured     | GPU                         | TPU                    |
# |--------------|-------------------|-----------------------------|------------------------|
# | LONG         | by backend        | the CPU's: for what no      | splash: calculated;    |
# |              |                   | fused kernel can do         | for the rest the CPU's |
# | BLOCK_LOGITS | JAX and torch     | the CPU's                   | the CPU's              |
# | TILES        | TensorFlow: fit   | TensorFlow: work enough for | the CPU's              |
# |              | in the cache      | the chip, not measured      |                        |
# | SPLASH_TILES |                   |                             | JAX, not measured      |
#
# On a GPU the fused kernels of JAX and torch are taken wherever they can do what is asked. On an
# H200 (JAX, 32 rows of 512 tokens, dropout) blocks take 2.3 times as long as all logits at once.

# From how many logits a head on the chunked kernel is taken, from the rows "crossover_..." of
# benchmarks/attention_kernels.py on two cores. JAX and torch: it wins or ties from 1024 tokens on.
# TensorFlow, no mask: it is still 7 % behind at 3072 tokens, and ahead of Keras' plain attention at
# 4096; it is taken from 2048 on (9 to 21 % behind there), where all logits of 8 heads take 400 MB.
# On a TPU this is calculated, not measured: at 512 tokens it takes longer to write and read the
# logits, which the fused kernel does not, than to compute them.
LONG = {
    "tensorflow": 2048 * 2048,
    "jax": 1024 * 1024,
    "torch": 1024 * 1024,
    "tpu": 512 * 512,
}

# Logits in a block of all heads, and its rows, on JAX and torch. Small enough for the memory to
# stay linear in length, large enough for the products to run at full speed; fewer rows than these
# lose more than they save.
BLOCK_LOGITS = 2**23
BLOCK_ROWS = 64, 512

# CPU: a tile's temporaries stay in the cache and below the size from which the allocator asks the
# system for fresh pages each time; twice as many cost 1.5 times more. GPU: it starts a dozen
# operations for each tile, so that a tile must be work enough for the whole chip, and may take what
# 128 MB of float32 hold.
TILES = {"cpu": TileLimits(2**21, (128, 512)), "gpu": TileLimits(2**25, (512, 4096))}

# Rows and columns of a tile of splash attention. The largest that divides a length is taken, for
# fewer programs. The TPU's compiler accepts 512 at head width 64 (tools/compile_for_tpu.py).
SPLASH_TILES = 512, 256, 128

# Where shapes in a loop are fixed, a causal call runs in this many loops, each of which cuts the
# keys at its own end, so that they compute 1/2 + 1/(2 STAGES) of the logits.
STAGES = 4


def rows_of_block(mask: AttentionMask, query: Tensor, keys: int, block_size: int | None) -> int:
    """How many query rows a block of all heads has: `block_size` if given, else what fits."""
    batch, length, heads, _ = query.shape
    # A block whose rows are half as many as a window is wide sees 3/2 of the window.
    seen = keys if mask.sides is None else min(keys, 3 * sum(mask.sides) // 2)
    fewest, most = BLOCK_ROWS
    # A batch that is JAX's symbol may be large.
    fit = BLOCK_LOGITS // (batch * heads * seen) if isinstance(batch, int) else fewest
    return min(length, block_size or _clip(fit, fewest, most))


def rows_of_tile(
    mask: AttentionMask,
    length: Size,
    keys: Size,
    group: int,
    block_size: int | None,
    limits: TileLimits,
) -> Size:
    """How many query rows a tile of `group` query heads has: `block_size` if given, else what fits.

    All tiles have equally many, up to one: the last, moved up to end with the query, then computes
    little again.
    """
    if block_size:
        return least(length, block_size)
    fewest, most = limits.rows
    most = most // 2 if mask.causal else most  # less beyond the diagonal
    if mask.sides is not None:
        # A fifth of the tile is outside of the band, a third where attention is causal.
        rows = _clip(sum(mask.sides) // 4, fewest, most)
    else:
        rows = _clip(limits.logits // _greatest(keys, 1), fewest, most)
    blocks = -(-length * group // rows)
    return least(length, -(-length // blocks))


def heads_of_tile(heads: int, logits: Size, limits: TileLimits) -> int:
    """How many of the key/value heads share a tile, where each has so many logits."""
    if not isinstance(logits, int):
        return 1
    fit = [n for n in range(1, heads + 1) if heads % n == 0 and n * logits <= limits.logits]
    return max(fit, default=1)


def stages(mask: AttentionMask, length: int, keys: int, rows: int) -> list[tuple[int, int, int]]:
    """Runs of blocks `(start, stop, keys)`, each with the number of keys that it may see."""
    blocks = -(-length // rows)
    known = isinstance(mask.query_offset, int)
    if not mask.causal or mask.window is not None or not known or blocks == 1:
        return [(0, blocks, keys)]
    stops = [blocks * (stage + 1) // STAGES for stage in range(STAGES)]
    return [
        (start, stop, min(keys, min(stop * rows, length) + mask.query_offset))
        for start, stop in zip([0, *stops], stops, strict=False)
        if start < stop
    ]


def key_range(mask: AttentionMask, row: Size, rows: Size, keys: Size) -> tuple[Size, Size]:
    """From which key on and up to which the rows from `row` may see: `(start, stop)`."""
    first = row + mask.query_offset
    start, stop = 0, keys
    if mask.reach is not None:
        before, after = mask.reach
        start, stop = _greatest(start, first - before), least(stop, first + rows + after)
    elif mask.causal:
        stop = least(stop, first + rows)
    return start, stop


def band(mask: AttentionMask, rows: Size, keys: Size) -> Size:
    """How many keys the window leaves to a block of rows at most; all without a window."""
    return keys if mask.reach is None else least(keys, rows + sum(mask.reach))


def band_start(mask: AttentionMask, row: Size, keys: Size, size: Size) -> Size:
    """The first key of the band of `size` keys that holds all that the rows from `row` may see."""
    if mask.reach is None or size is keys:
        return 0
    before, _ = mask.reach
    return _clip(row + mask.query_offset - before, 0, keys - size)


def least(first: Size, second: Size) -> Size:
    """The smaller one."""
    known = isinstance(first, int) and isinstance(second, int)
    return min(first, second) if known else ops.minimum(first, second)


def _greatest(first: Size, second: Size) -> Size:
    known = isinstance(first, int) and isinstance(second, int)
    return max(first, second) if known else ops.maximum(first, second)


def _clip(number: Size, low: Size, high: Size) -> Size:
    return least(_greatest(number, low), high)
