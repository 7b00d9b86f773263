"""Masks tokens for the training of a masked language model.

Letters: B batch, L row length, P maximum number of predictions in a row, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from keras_attn.data._tensorflow import tf
from keras_attn.data.text.tokenizer import BertTokenizer
from keras_attn.data.text.vocabulary import is_continuation


class TokenMasker:
    """Masking of some tokens of each row, in the graph: a pure function of the row and its seed.

    A row has n candidates: every token but [PAD], [CLS], [SEP], [MASK]. Of these,
    max(1, floor(rate * n + 1/2)), at most P, are chosen uniformly. On average 80 % of the chosen
    tokens become [MASK], 10 % become a random token that is not a special token, and 10 % stay as
    they are. With `whole_word`, whole words are chosen in random order; a word that would exceed
    the number is skipped, so that fewer tokens may be chosen.

    Args:
        tokenizer: the tokenizer that made the rows.
        max_predictions: P.
        rate: the fraction of candidates to choose.
        whole_word: whether tokens with "##" are chosen together with the word before them.

    Call arguments:
        token_ids: int32 `[B, L]`.
        seeds: integers `[B, 2]`, a seed for each row, such as `tf.random.split(seed, B)`.

    Returns:
        A dict: `token_ids` int32 `[B, L]`, with the masks applied; `masked_positions` int32
        `[B, P]`, ascending, then 0; `masked_ids` int32 `[B, P]`, the original tokens at these
        positions, then [PAD]; `masked_weights` float32 `[B, P]`, 1 at a prediction, then 0.

    Raises:
        ValueError: `rate` or `max_predictions` is out of range.

    Example:
    >>> from keras_attn.data import BertTokenizer
    >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    >>> masker = TokenMasker(BertTokenizer([*specials, "a", "b"]), max_predictions=2)
    >>> masked = masker([[2, 5, 6, 3, 0]], seeds=[[1, 2]])
    >>> masked["masked_weights"].numpy().tolist()
    [[1.0, 0.0]]

    Source: Devlin et al. 2019, section 3.1 and appendix A.1.
    """

    def __init__(
        self,
        tokenizer: BertTokenizer,
        max_predictions: int,
        rate: float = 0.15,
        whole_word: bool = False,
    ):
        if not 0 < rate <= 1:
            raise ValueError(f"`rate` must be in (0, 1], got {rate}")
        if max_predictions < 1:
            raise ValueError(f"`max_predictions` must be at least 1, got {max_predictions}")
        self.max_predictions = max_predictions
        self.rate = rate
        self.whole_word = whole_word
        vocabulary = tokenizer.vocabulary
        never = [tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]
        self._pad_id, self._mask_id = tokenizer.pad_id, tokenizer.mask_id
        self._is_candidate = np.full(len(vocabulary), True)
        self._is_candidate[never] = False
        self._continues = np.array(is_continuation(vocabulary))
        self._ordinary_ids = np.setdiff1d(
            np.arange(len(vocabulary), dtype="int32"), [*never, tokenizer.unk_id]
        )

    def __call__(self, token_ids: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        token_ids = tf.convert_to_tensor(token_ids, tf.int32)
        length, most = tf.shape(token_ids)[1], self.max_predictions
        draws = uniform(seeds, length + 2 * most)
        order, action, replacement = tf.split(draws, [length, most, most], axis=1)
        action = tf.ensure_shape(action, [None, most])
        replacement = tf.ensure_shape(replacement, [None, most])

        chosen = self._choose(token_ids, order)  # [B, L]
        positions, weights = _first_true(chosen, most)  # [B, P]
        masked_ids = tf.gather(token_ids, positions, batch_dims=1)
        pick = tf.cast(replacement * len(self._ordinary_ids), tf.int32)
        hidden = tf.where(action < 0.9, tf.gather(self._ordinary_ids, pick), masked_ids)
        hidden = tf.where(action < 0.8, self._mask_id, hidden)
        rows = tf.where(weights)[:, 0]
        where = tf.stack([tf.cast(rows, tf.int32), tf.boolean_mask(positions, weights)], axis=1)
        return {
            "token_ids": tf.tensor_scatter_nd_update(
                token_ids, where, tf.boolean_mask(hidden, weights)
            ),
            "masked_positions": positions,
            "masked_ids": tf.where(weights, masked_ids, self._pad_id),
            "masked_weights": tf.cast(weights, tf.float32),
        }

    def _choose(self, token_ids: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """Which tokens to mask; without `whole_word` each token is a word of its own."""
        candidate = tf.gather(self._is_candidate, token_ids)  # [B, L]
        count = tf.reduce_sum(tf.cast(candidate, tf.int32), axis=1)
        wanted = tf.cast(tf.floor(self.rate * tf.cast(count, tf.float32) + 0.5), tf.int32)
        wanted = tf.minimum(tf.maximum(wanted, 1), self.max_predictions)
        starts = candidate
        if self.whole_word:
            after_word = tf.pad(candidate[:, :-1], [[0, 0], [1, 0]])
            starts &= ~(tf.gather(self._continues, token_ids) & after_word)
        word = tf.maximum(tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1, 0)  # [B, L]
        sizes = _count_per_row(word, candidate)  # [B, words = L]
        chosen = _choose_words(sizes, order, wanted)
        return tf.gather(chosen, word, batch_dims=1) & candidate


def _count_per_row(word: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    shape = tf.shape(word)
    flat = word + tf.range(shape[0])[:, None] * shape[1]
    sums = tf.math.unsorted_segment_sum(
        tf.reshape(tf.cast(counted, tf.int32), [-1]), tf.reshape(flat, [-1]), shape[0] * shape[1]
    )
    return tf.reshape(sums, shape)


def _choose_words(sizes: tf.Tensor, order: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Take words in the order of `order` while the sum of their sizes is at most `wanted`.

    Each iteration takes all words up to the first that does not fit. That one is too large for the
    space left, so that the next iteration continues after it. The result is the same as taking or
    skipping one word at a time.
    """
    in_order = tf.argsort(order, axis=1, stable=True)
    sizes = tf.gather(sizes, in_order, batch_dims=1)

    def fits(taken: tf.Tensor) -> tf.Tensor:
        space = wanted - tf.reduce_sum(tf.where(taken, sizes, 0), axis=1)
        return ~taken & (sizes > 0) & (sizes <= space[:, None])

    def step(taken: tf.Tensor) -> tuple[tf.Tensor]:
        open_words = fits(taken)
        used = tf.reduce_sum(tf.where(taken, sizes, 0), axis=1, keepdims=True)
        used += tf.cumsum(tf.where(open_words, sizes, 0), axis=1)
        return (taken | (open_words & (used <= wanted[:, None])),)

    (taken,) = tf.while_loop(
        lambda taken: tf.reduce_any(fits(taken)), step, [tf.zeros_like(sizes, tf.bool)]
    )
    return tf.gather(taken, tf.argsort(in_order, axis=1), batch_dims=1)


def _first_true(chosen: tf.Tensor, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The first `most` positions that are True in each row, ascending, and which of them exist."""
    length = tf.shape(chosen)[1]
    keys = tf.where(chosen, tf.range(length)[None], length)
    keys = tf.pad(keys, [[0, 0], [0, most]], constant_values=0)
    beyond = tf.range(tf.shape(keys)[1])[None] >= length
    keys = tf.sort(tf.where(beyond, length, keys), axis=1)[:, :most]
    real = keys < length
    return tf.where(real, keys, 0), real


def uniform(seeds: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Uniform float32 [B, count] in [0, 1); row i is drawn with `seeds[i]`, two integers.

    The numbers of a row do not depend on its batch: a stream of examples gives the same examples
    with another batch size, or when it starts in the middle.
    """
    return tf.map_fn(
        # The algorithm is named because the default may differ between devices.
        lambda seed: tf.random.stateless_uniform([count], seed, alg="philox"),
        tf.cast(seeds, tf.int64),
        fn_output_signature=tf.float32,
    )
