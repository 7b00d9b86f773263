"""Attention that selects one position of the memory instead of a weighted mean.

Letters: B batch, T query length, S memory length, Dq query width, Dm memory width.
"""

from typing import Any

import keras

from keras_attn._checks import check_choice, check_positive, optional_count
from keras_attn._keras import register
from keras_attn._typing import Config, Initializer, Nested, Shape, Size, Tensor
from keras_attn.layers.attention.memory_attention import MemoryAttention, weigh
from keras_attn.ops import scores, selection
from keras_attn.ops.numerics import wide
from keras_attn.ops.random import SeedGenerator

_ESTIMATORS = ("straight_through", "gumbel", "reinforce")


@register()
class HardAttention(MemoryAttention):
    """Sample one position of the memory for each query; at inference select the most probable one.

    `s ~ softmax(score(q, m))`, output `m_s`. The estimator decides how gradients pass the sample:
    "straight_through" is hard forward and soft backward; "gumbel" relaxes the sample to
    `softmax((logits + g) / temperature)`; "reinforce" passes no gradient, and returns the
    log-probability of the sample for a loss `-(reward - baseline) * log_probability`.

    Args:
        estimator: "straight_through", "gumbel" or "reinforce".
        score: "dot", "scaled_dot", "cosine", "general", "additive", "concat" or "location".
        units: width of the scores "additive" and "concat"; defaults to the query's width.
        temperature: temperature of "gumbel", a positive number.
        max_length: the longest memory; only needed by the score "location".
        kernel_initializer: initializer of the score's weights.
        seed: seed of the samples; defaults to a random one.

    Call arguments:
        query: float `[B, T, Dq]`.
        memory: float `[B, S, Dm]`.
        keys: float `[B, S, Dm]`, the memory as the score reads it; defaults to `memory`.
        query_mask: bool `[B, T]`; a query where it is False attends to nothing.
        memory_mask: bool `[B, S]`; no query attends to a position where it is False.
        query_offset: ignored here; every attention over a memory accepts it.
        seed: integer tensor `[2]` to sample with instead of the layer's own generator;
            `AttentionDecoder` passes one from its generator.
        return_attention_scores: whether to return the attention weights too.
        training: whether to sample; otherwise the most probable position is selected.
        return_log_probability: by keyword, whether to return the log-probability of the choice too.

    Masking: both masks apply, and Keras fills them in from its own. A query that may attend to
    nothing gets zero weights, zero context and log-probability 0. The query's mask is propagated to
    the output.

    Returns:
        Context `[B, T, Dm]`; then, if asked for, the attention weights, float32 `[B, T, S]`; then,
        if asked for, the log-probability, float32 `[B, T]`.

    Raises:
        ValueError: an unknown estimator or score, a temperature that is not positive, "location"
            without `max_length`, inputs that are not of rank 3.

    Source: Xu et al. 2015, section 4.1; Bengio et al. 2013; Jang et al. 2017.

    Example:
    >>> import keras
    >>> layer = HardAttention(score="dot")
    >>> memory = keras.ops.convert_to_tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> layer(keras.ops.convert_to_tensor([[[0.0, 1.0]]]), memory).numpy().tolist()
    [[[0.0, 2.0]]]
    """

    def __init__(
        self,
        estimator: str = "straight_through",
        score: str = "general",
        units: int | None = None,
        temperature: float = 1.0,
        max_length: int | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        scores.get(score)
        check_choice("estimator", estimator, _ESTIMATORS)
        check_positive("temperature", temperature)
        self.estimator = estimator
        self.score = score
        self.units = optional_count("units", units)
        self.temperature = temperature
        self.max_length = optional_count("max_length", max_length)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)

    def build(self, query_shape: Shape, memory_shape: Shape) -> None:
        """Create the weights of the score."""
        super().build(query_shape, memory_shape)
        self._build_score(query_shape, memory_shape, units=self.units, max_length=self.max_length)

    def call(
        self,
        query: Tensor,
        memory: Tensor,
        keys: Tensor | None = None,
        query_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        query_offset: Size = 0,
        seed: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        *,
        return_log_probability: bool = False,
    ) -> Nested:
        """Select one position of `memory` for each query."""
        query, memory, keys, mask = self._visible(query, memory, keys, query_mask, memory_mask)
        logits = self.logits(query, keys)
        weights = self._weights(logits, mask, seed, training)  # [B, T, S]
        outputs = [weigh(weights, memory)]
        if return_attention_scores:
            outputs.append(weights)
        if return_log_probability:
            choice = selection.greedy(weights, mask)
            outputs.append(selection.log_probability(logits, choice, mask))
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def _weights(
        self, logits: Tensor, mask: Tensor | None, seed: Tensor | None, training: bool | None
    ) -> Tensor:
        if not training:
            return selection.greedy(logits, mask)
        seed = self.seed_generator.next() if seed is None else seed
        if self.estimator == "gumbel":
            return selection.gumbel(logits, seed, mask, self.temperature)
        if self.estimator == "straight_through":
            return selection.straight_through(logits, seed, mask)
        weights, _ = selection.hard(logits, seed, mask)
        return weights

    def compute_output_spec(
        self,
        query: Tensor,
        memory: Tensor,
        *args: Any,
        return_log_probability: bool = False,
        **options: Any,
    ) -> Nested:
        """Symbolic output, then weights and log-probability if they are asked for."""
        outputs = super().compute_output_spec(query, memory, *args, **options)
        if not return_log_probability:
            return outputs
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        dtype = wide(self.compute_dtype)
        return (*outputs, keras.KerasTensor(query.shape[:2], dtype=dtype))

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "estimator": self.estimator,
            "score": self.score,
            "units": self.units,
            "temperature": self.temperature,
            "max_length": self.max_length,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }
