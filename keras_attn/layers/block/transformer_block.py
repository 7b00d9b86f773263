"""What the blocks of encoders and decoders share: self-attention, feed-forward, residuals, norms.

Letters: B batch, T length, D model width, F feed-forward width.
"""

from typing import Any

import keras

from keras_attn._checks import check_choice, check_count, check_positive, check_rate
from keras_attn._keras import serialize_shared
from keras_attn._typing import Activation, Config, Initializer, Shape, Tensor
from keras_attn.layers.attention.multi_head_self_attention import MultiHeadSelfAttention
from keras_attn.layers.block.feed_forward import FeedForward
from keras_attn.layers.masking import first_position
from keras_attn.layers.sublayers import CompositeLayer, make_norm, to_position
from keras_attn.ops.masks import Window, check_window
from keras_attn.ops.numerics import get_activation

# The arguments of the sublayers that users may set; the block sets the others itself.
ATTENTION_OPTIONS = (
    *("key_dim", "value_dim", "num_kv_heads", "use_bias", "bias_initializer"),
    *("logits_soft_cap", "query_key_norm", "norm_epsilon", "use_sink"),
)
FEED_FORWARD_OPTIONS = ("gated", "use_bias", "dropout", "seed")


class TransformerBlock(CompositeLayer):
    """The base of `TransformerEncoderBlock` and `TransformerDecoderBlock`."""

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        *,
        causal: bool,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention_output_dropout: float | None = None,
        activation: Activation = "gelu",
        norm: str = "layer",
        layer_norm_epsilon: float = 1e-5,
        normalize_first: bool = False,
        attention_norm: bool = True,
        window: Window = None,
        position: keras.layers.Layer | None = None,
        kernel: str = "auto",
        kernel_initializer: Initializer = "glorot_uniform",
        attention_options: Config | None = None,
        feed_forward_options: Config | None = None,
        remat: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_rate("dropout", dropout)
        check_rate("attention_dropout", attention_dropout)
        self.num_heads = num_heads = check_count("num_heads", num_heads)
        self.intermediate_dim = check_count("intermediate_dim", intermediate_dim)
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.attention_output_dropout = attention_output_dropout
        self.activation = get_activation(activation)
        self.norm = norm
        check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.normalize_first = normalize_first
        self.attention_norm = attention_norm
        self.causal = causal
        self.window = check_window(window)
        self.position = to_position(position, num_heads)
        self.kernel = kernel
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.attention_options = _options("attention_options", attention_options, ATTENTION_OPTIONS)
        self.feed_forward_options = _options(
            "feed_forward_options", feed_forward_options, FEED_FORWARD_OPTIONS
        )
        self.remat = remat
        self.seed = seed
        self.supports_masking = True
        self.self_attention = MultiHeadSelfAttention(
            num_heads,
            dropout=attention_dropout,
            causal=causal,
            window=self.window,
            position=self.position,
            kernel=kernel,
            kernel_initializer=self.kernel_initializer.clone(),
            seed=seed,
            dtype=self.dtype_policy,
            name="self_attention",
            **self.attention_options,
        )
        self.feed_forward = FeedForward(
            intermediate_dim,
            activation=self.activation,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="feed_forward",
            **self.feed_forward_options,
        )
        if attention_norm:
            self.self_attention_norm = self._norm("self_attention_norm")
        else:
            self.self_attention_norm = keras.layers.Identity(
                dtype=self.dtype_policy, name="self_attention_norm"
            )
        self.feed_forward_norm = self._norm("feed_forward_norm")
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )
        self.attention_dropout_layer = self.dropout_layer
        if attention_output_dropout is not None:
            check_rate("attention_output_dropout", attention_output_dropout)
            self.attention_dropout_layer = keras.layers.Dropout(
                attention_output_dropout,
                seed=seed,
                dtype=self.dtype_policy,
                name="attention_output_dropout",
            )

    def get_config(self) -> Config:
        """The constructor arguments that both kinds of blocks have."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "attention_output_dropout": self.attention_output_dropout,
            "activation": keras.activations.serialize(self.activation),
            "norm": self.norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "normalize_first": self.normalize_first,
            "attention_norm": self.attention_norm,
            "window": self.window,
            "position": serialize_shared(self.position),
            "kernel": self.kernel,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "attention_options": _config(self.self_attention, self.attention_options),
            "feed_forward_options": _config(self.feed_forward, self.feed_forward_options),
            "remat": self.remat,
            "seed": self.seed,
        }

    def _norm(self, name: str) -> keras.layers.Layer:
        return make_norm(self.norm, self.layer_norm_epsilon, dtype=self.dtype_policy, name=name)

    def _build_sublayers(self, input_shape: Shape) -> None:
        for layer in (
            self.self_attention,
            self.self_attention_norm,
            self.feed_forward,
            self.feed_forward_norm,
        ):
            layer.build(input_shape)

    def _sublayer(
        self,
        layer: keras.layers.Layer,
        norm: keras.layers.Layer,
        inputs: Tensor,
        training: bool | None,
        **arguments: Any,
    ) -> tuple:
        """The layer's outputs, the first with the residual connection and the norm.

        With `first_only` among the arguments, the first position of the inputs is the residual.
        """
        outputs = layer(
            norm(inputs) if self.normalize_first else inputs, training=training, **arguments
        )
        outputs, *extras = outputs if isinstance(outputs, tuple) else (outputs,)
        dropout = self.dropout_layer if layer is self.feed_forward else self.attention_dropout_layer
        kept = first_position(inputs) if arguments.get("first_only") else inputs
        total = kept + dropout(outputs, training=training)
        return (total if self.normalize_first else norm(total), *extras)


def _options(name: str, options: object, known: tuple[str, ...]) -> Config:
    """A copy of the options; raises for an unknown one."""
    if not isinstance(options, dict | None):
        raise ValueError(f"`{name}` must be a dict or None, got {options!r}")
    for option in options or {}:
        check_choice(name, option, known)
    return dict(options or {})


def _config(part: keras.layers.Layer, options: Config) -> Config:
    """The options as the sublayer serializes them."""
    config = part.get_config()
    return {name: config[name] for name in options}
