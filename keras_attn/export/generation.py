"""Signatures that write text: strings in, strings out, the whole search in the graph.

B batch, P prompt pieces, L cache length, R rows, W beams.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_attn import decoding, models
from keras_attn.export.signature import DEFAULT, Signature

# An option of a request: what the search calls it, its type, its value in the examples.
_SAMPLING = {"temperature": ("temperature", tf.float32, 1.0), "seed": ("seeds", tf.int32, 1)}


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a model that writes shall offer, for `publish(generation=...)`.

    Strings in, strings out. `greedy` takes text and max_new_tokens; `sample` temperature and seed
    besides: the same seed writes the same text, whatever else is in the batch; `beam` takes beams.
    All are `[B]`, a value for each row, bounded by what is given here. Outputs are `text` `[B]`, of
    `beam` `[B, W]`, best first, with `scores`. The searches are those of `decoding`.

    Args:
        tokenizer: with `__call__` from strings to ragged ids, and `detokenize`.
        prompt_length: P, the most pieces of a prompt, which keeps its last, or of a source, which
            keeps its first and stands between start_id and stop_id.
        max_new_tokens: the most pieces to write.
        beams: W, the most beams.
        searches: which to offer, the first as `serving_default`, the others by their names.
        start_id: stands before a prompt or begins the target; the tokenizer's [CLS] unless given.
        stop_id: ends a text; the tokenizer's [SEP] unless given.

    Raises:
        ValueError: a number below 1, an unknown search.
    """

    tokenizer: keras.layers.Layer
    prompt_length: int
    max_new_tokens: int
    beams: int = 4
    searches: Sequence[str] = ("greedy", "sample", "beam")
    start_id: int | None = None
    stop_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_length", "max_new_tokens", "beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        known = {"greedy", "sample", "beam"}
        if not self.searches or not known.issuperset(self.searches):
            raise ValueError(f"`searches` must be among greedy, sample, beam, got {self.searches}")

    def signatures(
        self, model: keras.Model, jit_compile: bool
    ) -> dict[str, Callable[[], Signature]]:
        """Name to a function that makes the signature, for a GPT or an encoder-decoder."""
        most = {"max_new_tokens": ("max_new_tokens", tf.int32, self.max_new_tokens)}
        beams = {"beams": ("active_beams", tf.int32, self.beams)}
        searches = {
            "greedy": (decoding.greedy, most, self._one),
            "sample": (decoding.sample, {**most, **_SAMPLING}, self._one),
            "beam": (
                functools.partial(decoding.beam_search, beams=self.beams),
                {**most, **beams},
                self._several,
            ),
        }
        return {
            name if index else DEFAULT: functools.partial(
                self._signature, model, jit_compile, *searches[name]
            )
            for index, name in enumerate(self.searches)
        }

    def _signature(
        self,
        model: keras.Model,
        jit_compile: bool,
        search: Callable,
        options: dict[str, tuple],
        outputs: Callable,
    ) -> Signature:
        tokenizer = self.tokenizer
        translates = "source_ids" in model.input
        most_before = 1 if translates else self.prompt_length + 1
        start = tokenizer.cls_id if self.start_id is None else self.start_id
        stop = tokenizer.sep_id if self.stop_id is None else self.stop_id
        search = functools.partial(search, stop_token_ids=[stop], padding_id=tokenizer.pad_id)
        generate = models.steps.generator(model, search, most_before + self.max_new_tokens)
        core = tf.function(generate, jit_compile=jit_compile or None, autograph=False)
        bounds = {"max_new_tokens": self.max_new_tokens, "beams": self.beams}

        def function(text: Any, **requested: Any) -> dict[str, Any]:
            arguments = {
                options[name][0]: _bounded(name, value, bounds.get(name))
                for name, value in requested.items()
            }
            pieces = tokenizer(text)
            first = tf.fill([pieces.nrows(), 1], start)
            if translates:
                last = tf.fill([pieces.nrows(), 1], stop)
                source = tf.concat([first, pieces[:, : self.prompt_length], last], axis=1)
                shape = [None, self.prompt_length + 2]
                real = tf.ones_like(source, tf.bool)
                arguments["source_ids"] = source.to_tensor(tokenizer.pad_id, shape=shape)
                arguments["source_padding_mask"] = real.to_tensor(False, shape=shape)
                prompt, lengths = first, tf.ones([tf.shape(text)[0]], tf.int32)
            else:
                rows = tf.concat([first, pieces[:, -self.prompt_length :]], axis=1)
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

    def _one(self, found: dict, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": self._written(found, lengths)}

    def _several(self, found: dict, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = {
            "token_ids": tf.reshape(found["token_ids"], [-1, tf.shape(found["token_ids"])[2]]),
            "lengths": tf.reshape(found["lengths"], [-1]),
        }
        text = self._written(rows, tf.repeat(lengths, self.beams))
        # A beam that was not asked for has no score; JSON knows no infinity.
        scores = tf.maximum(found["scores"], tf.float32.min)
        return {"text": tf.reshape(text, [-1, self.beams]), "scores": scores}

    def _written(self, found: dict, lengths: tf.Tensor) -> tf.Tensor:
        """What stands behind the prompts, of rows [R, L]."""
        place = tf.range(tf.shape(found["token_ids"])[1])[None]
        new = (place >= lengths[:, None]) & (place < found["lengths"][:, None])
        ids = tf.where(new, found["token_ids"], self.tokenizer.pad_id)
        vocabulary = getattr(self.tokenizer, "vocabulary", None)
        if vocabulary is not None:  # rows of the matrix that stand for no token
            ids = tf.where(ids < len(vocabulary), ids, self.tokenizer.unk_id)
        return self.tokenizer.detokenize(ids)


def _bounded(name: str, value: tf.Tensor, most: int | None) -> tf.Tensor:
    """The values; a request that asks for more than was exported is an error that says so."""
    checks = []
    if name != "seed":
        checks.append(tf.debugging.assert_positive(value, f"{name} must be above 0"))
    if most is not None:
        checks.append(tf.debugging.assert_less_equal(value, most, f"{name}: at most {most}"))
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(value)
