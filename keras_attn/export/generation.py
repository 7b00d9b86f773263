"""Signatures that generate text: strings in, strings out, with the whole search in the graph.

Letters: B batch, P prompt tokens, L cache length, R rows, W beams.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_attn import decoding, models
from keras_attn._checks import check_count, is_integer, optional_count
from keras_attn.export.signature import DEFAULT, Signature
from keras_attn.models import parts


@dataclasses.dataclass(frozen=True)
class _Option:
    """An input with one value for each row: its name in the search, and the allowed values."""

    argument: str
    dtype: tf.DType
    example: Any
    above: float | None = None
    least: float | None = None
    most: float | None = None


@dataclasses.dataclass(frozen=True)
class Generation:
    """How a model generates text, for `publish(generation=...)`.

    A signature takes strings and returns strings. `greedy` takes text and max_new_tokens. `sample`
    also takes temperature, top_k, top_p and seed: the same seed gives the same text, whatever the
    other rows are. `beam` takes text, max_new_tokens, beams and length_penalty (0 for none). Each
    input is `[B]`, one value for each row; where a maximum is given here, a request may not exceed
    it. If its maximum is given, `sample` also takes min_p, and each search repetition_penalty and
    no_repeat_ngram_size. The output `text` is `[B]`; for `beam` it is `[B, W]`, the best first,
    with `scores`. The searches are those of `decoding`.

    Args:
        tokenizer: a layer from strings to ragged ids, with `detokenize`.
        prompt_length: P, the maximum number of tokens of a prompt or of a source. A longer prompt
            keeps its last P tokens; a longer source keeps its first P, between start_id and
            stop_id.
        max_new_tokens: the maximum number of tokens to generate.
        beams: W, the maximum number of beams.
        searches: the searches to export: the first is `serving_default`, the others have their
            own names.
        start_id: the token before a prompt, or the first token of the target; defaults to the
            tokenizer's `cls_id`. If `tokenizer.adds_cls` is False, as for GPT-2, this default is
            put only before an empty prompt.
        stop_id: the token that ends a text; defaults to the tokenizer's `sep_id`.
        top_k: the maximum of a request's top_k, the number of most probable tokens that `sample`
            draws from; defaults to the whole vocabulary. A small one makes each step cheaper.
        min_p: the maximum of a request's min_p, in [0, 1]; 0 in a request has no effect.
            None: requests have no such input. The same holds for the next two.
        repetition_penalty: the maximum of a request's repetition_penalty; 1 has no effect.
        no_repeat_ngram_size: the maximum of a request's no_repeat_ngram_size; 0 has no effect.

    Raises:
        ValueError: a length or the number of beams is not a positive integer, a search is unknown,
            or a maximum is out of range.
    """

    tokenizer: keras.layers.Layer
    prompt_length: int
    max_new_tokens: int
    beams: int = 4
    searches: Sequence[str] = ("greedy", "sample", "beam")
    start_id: int | None = None
    stop_id: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_length", "max_new_tokens", "beams"):
            check_count(name, getattr(self, name))
        for name in ("top_k", "no_repeat_ngram_size"):
            optional_count(name, getattr(self, name))
        _check_most("min_p", self.min_p, "in [0, 1]", lambda p: 0 <= p <= 1)
        _check_most(
            "repetition_penalty",
            self.repetition_penalty,
            "positive and finite",
            lambda penalty: 0 < penalty < float("inf"),
        )
        known = {"greedy", "sample", "beam"}
        if isinstance(self.searches, str):
            object.__setattr__(self, "searches", (self.searches,))
        if not self.searches or not known.issuperset(self.searches):
            raise ValueError(f"`searches` must be among greedy, sample, beam, got {self.searches}")

    def signatures(
        self, model: keras.Model, jit_compile: bool
    ) -> dict[str, Callable[[], Signature]]:
        """A dict from a name to a function that makes the signature."""
        self._check(model)

        def up_to(name: str, dtype: tf.DType, argument: str = "", **least: int) -> dict:
            most = getattr(self, name)
            if most is None:
                return {}
            return {name: _Option(argument or name, dtype, most, most=most, **least)}

        every = {
            **up_to("max_new_tokens", tf.int32, above=0),
            **up_to("repetition_penalty", tf.float32, above=0),
            **up_to("no_repeat_ngram_size", tf.int32, "active_no_repeat_ngram_size", least=0),
        }
        sampling = {
            "temperature": _Option("temperature", tf.float32, 1.0, above=0),
            "top_k": _Option("active_top_k", tf.int32, self.top_k or 50, above=0, most=self.top_k),
            "top_p": _Option("top_p", tf.float32, 0.9, above=0, most=1),
            **up_to("min_p", tf.float32, least=0),
            "seed": _Option("seeds", tf.int32, 1),
        }
        beams = {
            **up_to("beams", tf.int32, "active_beams", above=0),
            "length_penalty": _Option("length_penalty", tf.float32, 0.0),
        }
        size = self.no_repeat_ngram_size
        greedy = functools.partial(decoding.greedy, no_repeat_ngram_size=size)
        sample = functools.partial(decoding.sample, top_k=self.top_k, no_repeat_ngram_size=size)
        beam = functools.partial(decoding.beam_search, beams=self.beams, no_repeat_ngram_size=size)
        searches = {
            "greedy": (greedy, every, self._single),
            "sample": (sample, {**every, **sampling}, self._single),
            "beam": (beam, {**every, **beams}, self._beams),
        }
        return {
            name if index else DEFAULT: functools.partial(
                self._signature, model, jit_compile, *searches[name]
            )
            for index, name in enumerate(self.searches)
        }

    def _check(self, model: keras.Model) -> None:
        """Raise a ValueError unless the model generates text and has enough positions."""
        found = parts.find(model)
        decoder, encoder = (found.decoder, found.encoder) if found else (None, None)
        if decoder is None:
            raise ValueError(
                "`generation` needs a model of models.gpt.decoder, models.transformer or "
                f"models.rnn_attention, got {model.name!r}"
            )
        size = decoder.embedding.input_dim
        for name in ("start_id", "stop_id"):
            token = getattr(self, name)
            if token is not None and not (is_integer(token) and 0 <= token < size):
                raise ValueError(f"`{name}` must be an integer in [0, {size}), got {token!r}")
        written = self.max_new_tokens + 1 + (0 if encoder else self.prompt_length)
        longest = getattr(decoder.position, "max_length", written)
        if written > longest:
            what = "`max_new_tokens`" + ("" if encoder else " and `prompt_length` together")
            raise ValueError(
                f"{what} must be at most {longest - 1} for the model's {longest} positions, "
                f"got {written - 1}"
            )
        read = self.prompt_length + 2
        longest = getattr(encoder.position, "max_length", read) if encoder else read
        if read > longest:
            raise ValueError(
                f"`prompt_length` must be at most {longest - 2} for the model's {longest} "
                f"positions, got {self.prompt_length}"
            )

    def _signature(
        self,
        model: keras.Model,
        jit_compile: bool,
        search: Callable,
        options: dict[str, _Option],
        outputs: Callable,
    ) -> Signature:
        tokenizer = self.tokenizer
        has_encoder = parts.of(model).encoder is not None
        most_before = 1 if has_encoder else self.prompt_length + 1
        start = tokenizer.cls_id if self.start_id is None else self.start_id
        only_if_empty = self.start_id is None and not getattr(tokenizer, "adds_cls", True)
        stop = tokenizer.sep_id if self.stop_id is None else self.stop_id
        search = functools.partial(search, stop_token_ids=[stop], padding_id=tokenizer.pad_id)
        generate = models.steps.generator(model, search, most_before + self.max_new_tokens)
        core = tf.function(generate, jit_compile=jit_compile or None, autograph=False)

        def function(text: tf.Tensor, **requested: tf.Tensor) -> dict[str, tf.Tensor]:
            arguments = {
                options[name].argument: _bounded(name, value, options[name], tf.shape(text)[0])
                for name, value in requested.items()
            }
            tokens = tokenizer(text)
            first = tf.fill([tokens.nrows(), 1], start)
            if only_if_empty and not has_encoder:
                empty = tokens.row_lengths() == 0
                first = tf.ragged.boolean_mask(first, empty[:, None])
            if has_encoder:
                last = tf.fill([tokens.nrows(), 1], stop)
                source = tf.concat([first, tokens[:, : self.prompt_length], last], axis=1)
                shape = [None, self.prompt_length + 2]
                real = tf.ones_like(source, tf.bool)
                arguments["source_ids"] = source.to_tensor(tokenizer.pad_id, shape=shape)
                arguments["source_padding_mask"] = real.to_tensor(False, shape=shape)
                prompt, lengths = first, tf.ones([tf.shape(text)[0]], tf.int32)
            else:
                rows = tf.concat([first, tokens[:, -self.prompt_length :]], axis=1)
                prompt = rows.to_tensor(tokenizer.pad_id, shape=[None, most_before])
                lengths = tf.cast(rows.row_lengths(), tf.int32)
            found = core(prompt_ids=prompt, prompt_lengths=lengths, **arguments)
            return outputs(found, lengths)

        specs = {name: tf.TensorSpec([None], option.dtype) for name, option in options.items()}
        example = {name: [option.example] * 2 for name, option in options.items()}
        return Signature(
            function=function,
            inputs={"text": tf.TensorSpec([None], tf.string), **specs},
            examples=[{"text": ["a", "the"], **example}],
            resources=[tokenizer],
        )

    def _single(self, found: dict, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": self._new_text(found, lengths)}

    def _beams(self, found: dict, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = {
            "token_ids": tf.reshape(found["token_ids"], [-1, tf.shape(found["token_ids"])[2]]),
            "lengths": tf.reshape(found["lengths"], [-1]),
        }
        text = self._new_text(rows, tf.repeat(lengths, self.beams))
        # Beams that were not requested have the score -infinity, which JSON cannot hold.
        scores = tf.maximum(found["scores"], tf.float32.min)
        return {"text": tf.reshape(text, [-1, self.beams]), "scores": scores}

    def _new_text(self, found: dict, lengths: tf.Tensor) -> tf.Tensor:
        """The text after the prompts, for rows [R, L]."""
        place = tf.range(tf.shape(found["token_ids"])[1])[None]
        new = (place >= lengths[:, None]) & (place < found["lengths"][:, None])
        ids = tf.where(new, found["token_ids"], self.tokenizer.pad_id)
        vocabulary = getattr(self.tokenizer, "vocabulary", None)
        if vocabulary is not None:  # rows of the embedding beyond the vocabulary
            ids = tf.where(ids < len(vocabulary), ids, self.tokenizer.unk_id)
        return self.tokenizer.detokenize(ids)


def _check_most(name: str, value: Any, rule: str, allowed: Callable[[float], bool]) -> None:
    if value is not None and not (isinstance(value, numbers.Real) and allowed(float(value))):
        raise ValueError(f"`{name}` must be {rule}, got {value!r}")


def _bounded(name: str, value: tf.Tensor, option: _Option, rows: tf.Tensor) -> tf.Tensor:
    """The values, with checks: running the graph fails if one is out of bounds."""
    given = tf.shape(value)[0]
    checks = [tf.debugging.assert_equal(given, rows, f"{name}: one value for each text")]
    if option.above is not None:
        least = tf.constant(option.above, option.dtype)
        checks.append(tf.debugging.assert_greater(value, least, f"{name} must be above 0"))
    elif option.least is not None:
        least = tf.constant(option.least, option.dtype)
        message = f"{name}: at least {option.least}"
        checks.append(tf.debugging.assert_greater_equal(value, least, message))
    elif option.dtype.is_floating:
        checks.append(tf.debugging.assert_all_finite(value, f"{name} must be finite"))
    if option.most is not None:
        most = tf.constant(option.most, option.dtype)
        checks.append(tf.debugging.assert_less_equal(value, most, f"{name}: at most {option.most}"))
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(value)
