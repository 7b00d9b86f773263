"""Block and tile sizes; every unmasked key is in the key range of its block."""

import itertools

import numpy as np
import pytest

from keras_attn.ops import AttentionMask
from keras_attn.ops.kernels import schedule

MASKS = [
    AttentionMask(causal=causal, window=window, query_offset=offset)
    for causal, window, offset in itertools.product(
        (False, True), (None, 1, 4, (3, 6), (5, 1)), (0, 5)
    )
]


def allowed(mask, length, keys):
    rows, columns = np.arange(length)[:, None] + mask.query_offset, np.arange(keys)
    visible = np.ones((length, keys), bool)
    if mask.causal:
        visible &= columns <= rows
    if mask.window:
        before, after = (mask.window,) * 2 if isinstance(mask.window, int) else mask.window
        visible &= (rows - columns < before) & (columns - rows < after)
    return visible


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_the_key_range_of_a_block_spans_its_unmasked_keys(mask):
    length, keys = 23, 31
    visible = allowed(mask, length, keys)
    for rows in (1, 3, 23):
        size = schedule.band(mask, rows, keys)
        for row in range(length - rows + 1):
            seen = np.flatnonzero(visible[row : row + rows].any(0))
            start, stop = schedule.key_range(mask, row, rows, keys)
            assert (max(start, 0), min(stop, keys)) == (seen[0], seen[-1] + 1)
            first = schedule.band_start(mask, row, keys, size)
            if mask.window:
                assert 0 <= first <= seen[0]
                assert seen[-1] < first + size <= keys
            else:
                assert (first, size) == (0, keys)


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_stages_cover_all_blocks_and_their_unmasked_keys(mask):
    length, keys = 23, 31
    visible = allowed(mask, length, keys)
    for rows in (1, 3, 23):
        stages = schedule.stages(mask, length, keys, rows)
        blocks = [block for start, stop, _ in stages for block in range(start, stop)]
        assert blocks == list(range(-(-length // rows)))
        for _, stop, columns in stages:
            assert not visible[: stop * rows, columns:].any()


@pytest.mark.parametrize("device", schedule.TILES)
def test_tiles_stay_within_the_number_of_logits(device):
    tile = schedule.TILES[device]
    for length in (1, 7, 700, 5000, 90_000):
        for mask in MASKS:
            rows = schedule.rows_of_tile(mask, length, length, 2, None, tile)
            assert 1 <= rows <= length
            assert rows * 2 <= tile.rows[1]
            logits = rows * 2 * schedule.band(mask, rows, length)
            heads = schedule.heads_of_tile(12, logits, tile)
            assert heads in (1, 2, 3, 4, 6, 12)
            # Within the limit, except for the fewest rows of very long sequences.
            assert heads * logits <= max(tile.logits, tile.rows[0] * length)


def test_tile_sizes_of_some_calls():
    plain, causal = AttentionMask(), AttentionMask(causal=True)
    cpu, gpu = schedule.TILES["cpu"], schedule.TILES["gpu"]
    assert schedule.rows_of_tile(plain, 4096, 4096, 1, None, cpu) == 512
    assert schedule.rows_of_tile(causal, 4096, 4096, 1, None, cpu) == 256
    assert schedule.rows_of_tile(plain, 2048, 2048, 1, None, gpu) == 2048
    assert schedule.heads_of_tile(12, 2**19, cpu) == 4
    assert schedule.heads_of_tile(8, 2**22, gpu) == 8  # all heads, with 2048 positions
    assert schedule.rows_of_block(plain, np.empty((2, 4096, 8, 1)), 4096, None) == 128
    assert schedule.rows_of_block(plain, np.empty((2, 100, 8, 1)), 100, None) == 100
    assert schedule.rows_of_block(plain, np.empty((2, 100, 8, 1)), 100, 33) == 33
