"""How a call is cut into blocks of rows that the reference kernel can run, on JAX and torch.

Letters: B batch, T query length, S key length, N query heads.
"""

from typing import Any

from keras_attn.ops.biases import PositionBias

# Logits in one block. Small enough for the memory to stay linear in length, large enough for the
# products to run at full speed; fewer rows than these lose more than they save.
LOGITS = 2**23
FEWEST, MOST = 64, 512


def rows_of_block(query: Any, keys: int, window: int | None, block_size: int | None) -> int:
    """How many query rows a block has: `block_size` if given, else what fits the shapes."""
    batch, length, heads, _ = query.shape
    seen = keys if window is None else min(keys, 3 * window)
    rows = block_size or min(max(LOGITS // (batch * heads * seen), FEWEST), MOST)
    return min(length, rows)


def shifted(bias: PositionBias, row: Any, key: Any) -> PositionBias:
    """The bias of a block whose first positions are `row` and `key`, as positions from zero."""

    def function(query_positions: Any, key_positions: Any, *parameters: Any) -> Any:
        return bias.function(query_positions + row, key_positions + key, *parameters)

    return PositionBias(function, bias.parameters)
