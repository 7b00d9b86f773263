"""Random numbers of a row that depend on the row's own seed and on nothing beside it."""

from __future__ import annotations

from keras_attn.data._imports import tf


def uniform(seeds: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Float32 [B, count] in [0, 1), row i drawn from `seeds[i]`; seeds are integers [B, 2].

    A row's numbers do not depend on the batch that it is in, so that a stream of examples can
    be cut into other batches, or entered in the middle, and give the same examples.
    """
    return tf.map_fn(
        # The algorithm is named because the default may differ between devices.
        lambda seed: tf.random.stateless_uniform([count], seed, alg="philox"),
        tf.cast(seeds, tf.int64),
        fn_output_signature=tf.float32,
    )
