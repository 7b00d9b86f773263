"""Signatures that write text: strings in, strings out, the whole search in the graph.

B batch, P prompt pieces, L cache length, W beams.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_attn import decoding, models
from keras_attn.export.signature import DEFAULT, Signature


def generation_signatures(
    model: keras.Model,
    tokenizer: keras.layers.Layer,
    *,
    prompt_length: int,
    max_new_tokens: int,
    beams: int = 4,
    start_id: int | None = None,
    stop_id: int | None = None,
    jit_compile: bool = False,
) -> dict[str, Signature]:
    """Greedy search, sampling and beam search from strings, for `publish(signatures=...)`.

    `serving_default` takes text and max_new_tokens; `sample` temperature and seed besides: the same
    seed writes the same text, whatever else is in the batch; `beam` takes beams. All are `[B]`, a
    value for each row, bounded by what is given here. The searches are those of `decoding`.

    Args:
        model: from `models.gpt.decoder` or `models.transformer.encoder_decoder`.
        tokenizer: with `__call__` from strings to ragged ids, and `detokenize`.
        prompt_length: P, the most pieces of a prompt or source; a decoder goes on from the last P.
        max_new_tokens: the most pieces to write.
        beams: W, the most beams.
        start_id: stands before a prompt or begins the target; the tokenizer's [CLS] unless given.
        stop_id: ends a text; the tokenizer's [SEP] unless given.
        jit_compile: compile the loop with XLA, once for each size of a batch.

    Returns:
        Name to `Signature`: outputs are `text` `[B]`, of `beam` `[B, W]` with `scores`.

    Raises:
        ValueError: a length below 1.
    """
    for name, value in (("prompt_length", prompt_length), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    start = tokenizer.cls_id if start_id is None else start_id
    stop = tokenizer.sep_id if stop_id is None else stop_id
    translates = "source_ids" in model.input
    most_before = 1 if translates else prompt_length + 1
    bounds = {"max_new_tokens": max_new_tokens, "beams": beams}

    def made(search: Callable, options: dict[str, tuple], outputs: Callable) -> Signature:
        search = functools.partial(search, stop_token_ids=[stop], padding_id=tokenizer.pad_id)
        generate = models.steps.generator(model, search, most_before + max_new_tokens)
        core = tf.function(generate, jit_compile=jit_compile or None, autograph=False)

        def function(text: Any, **requested: Any) -> dict[str, Any]:
            arguments = {
                options[name][0]: _bounded(name, value, bounds.get(name))
                for name, value in requested.items()
            }
            pieces = tokenizer(text)[:, -prompt_length:]
            first = tf.fill([pieces.nrows(), 1], start)
            if translates:
                arguments["source_ids"] = pieces.to_tensor(
                    tokenizer.pad_id, shape=[None, prompt_length]
                )
                real = tf.ones_like(pieces, tf.bool)
                arguments["source_padding_mask"] = real.to_tensor(
                    False, shape=[None, prompt_length]
                )
                prompt, lengths = first, tf.ones([tf.shape(text)[0]], tf.int32)
            else:
                rows = tf.concat([first, pieces], axis=1)
                prompt = rows.to_tensor(tokenizer.pad_id, shape=[None, most_before])
                lengths = tf.cast(rows.row_lengths(), tf.int32)
            found = core(prompt_ids=prompt, prompt_lengths=lengths, **arguments)
            return outputs(found, lengths)

        specs = {name: tf.TensorSpec([None], dtype) for name, (_, dtype, _) in options.items()}
        example = {name: [value] * 2 for name, (_, _, value) in options.items()}
        return Signature(
            function=function,
            inputs={"text": tf.TensorSpec([None], tf.string), **specs},
            examples=[{"text": ["a", "the"], **example}],
            resources=[tokenizer],
        )

    def written(found: dict, lengths: tf.Tensor) -> tf.Tensor:
        """What stands behind the prompts, of rows [B, R]."""
        place = tf.range(tf.shape(found["token_ids"])[1])[None]
        new = (place >= lengths[:, None]) & (place < found["lengths"][:, None])
        return tokenizer.detokenize(tf.where(new, found["token_ids"], tokenizer.pad_id))

    def one(found: dict, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": written(found, lengths)}

    def several(found: dict, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = {
            "token_ids": tf.reshape(found["token_ids"], [-1, tf.shape(found["token_ids"])[2]]),
            "lengths": tf.reshape(found["lengths"], [-1]),
        }
        text = tf.reshape(written(rows, tf.repeat(lengths, beams)), [-1, beams])
        return {"text": text, "scores": tf.maximum(found["scores"], tf.float32.min)}

    most = {"max_new_tokens": ("max_new_tokens", tf.int32, max_new_tokens)}
    sampling = {"temperature": ("temperature", tf.float32, 1.0), "seed": ("seeds", tf.int32, 1)}
    return {
        DEFAULT: made(decoding.greedy, most, one),
        "sample": made(decoding.sample, {**most, **sampling}, one),
        "beam": made(
            functools.partial(decoding.beam_search, beams=beams),
            {**most, "beams": ("active_beams", tf.int32, beams)},
            several,
        ),
    }


def _bounded(name: str, value: tf.Tensor, most: int | None) -> tf.Tensor:
    """The values; a request that asks for more than was exported is an error that says so."""
    checks = []
    if name != "seed":
        checks.append(tf.debugging.assert_positive(value, f"{name} must be above 0"))
    if most is not None:
        checks.append(tf.debugging.assert_less_equal(value, most, f"{name}: at most {most}"))
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(value)
