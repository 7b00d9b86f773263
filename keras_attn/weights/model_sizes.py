"""Finds the size that would build the layers of a model, for its configuration."""

from typing import Any

import keras

from keras_attn._typing import Config
from keras_attn.models import modern_bert, parts
from keras_attn.models.sizes import BertSize, GptSize, ModernBertSize, global_every

# The arguments that the blocks of a family must have for the classes of transformers.
PLAIN = {
    "window": None,
    "position": None,
    "norm": "layer",
    "attention_norm": True,
    "attention_options": {},
    "feed_forward_options": {},
}
BLOCKS = {
    "bert": {**PLAIN, "causal": False, "normalize_first": False},
    "gpt": {**PLAIN, "causal": True, "normalize_first": True, "attention_output_dropout": None},
}
# The arguments of a block that may have any value: they change no output of a trained model.
FREE = {"name", "trainable", "dtype", "kernel", "kernel_initializer", "remat", "seed"}


def size_of(found: parts.Parts) -> BertSize | GptSize | ModernBertSize:
    """The size that would build these layers; None for values that no layer has.

    Raises:
        ValueError: a layer has what the class of transformers does not have.
    """
    return _modern_bert(found) if found.family == "modern_bert" else _bert_or_gpt(found)


def _modern_bert(found: parts.Parts) -> ModernBertSize:
    stack = found.stack
    block, embedding = stack.blocks[0], stack.embedding
    local: Any = next((each for each in stack.blocks if each.window is not None), None)
    if not isinstance(getattr(local, "window", 1), int):
        raise ValueError(
            "`model` must have equal windows before and after a position for transformers to load "
            f"it, got {local.window!r}"
        )
    size = ModernBertSize(
        num_layers=len(stack.blocks),
        hidden_dim=embedding.dim,
        num_heads=block.num_heads,
        intermediate_dim=block.intermediate_dim,
        vocabulary_size=embedding.vocabulary_size,
        window=local and local.window,
        global_every=global_every([each.window is None for each in stack.blocks]) or 1,
        global_wavelength=getattr(block.position, "max_wavelength", 1.0),
        local_wavelength=local and getattr(local.position, "max_wavelength", 1.0),
        global_scaling=getattr(block.position, "scaling", 1.0),
        local_scaling=local and getattr(local.position, "scaling", 1.0),
        embedding_dropout=embedding.dropout,
        attention_dropout=block.attention_dropout,
        feed_forward_dropout=block.feed_forward.dropout,
        layer_norm_epsilon=block.layer_norm_epsilon,
        activation=block.activation.__name__,
        initializer_range=getattr(block.kernel_initializer, "stddev", 0.02),
    )
    for index, each in enumerate(stack.blocks):
        expected, config = _numbers(modern_bert.block(size, index)), _numbers(each)
        for field, value in expected.items():
            expect(field, value, config[field])
    expect("layer_norm_epsilon", size.layer_norm_epsilon, embedding.layer_norm_epsilon)
    expect("layer_norm_epsilon", size.layer_norm_epsilon, getattr(stack.norm, "epsilon", None))
    return size


def _numbers(block: keras.layers.Layer) -> Config:
    """The configuration of a block and its position, without the arguments in `FREE`."""
    config = {name: value for name, value in block.get_config().items() if name not in FREE}
    position = block.position and block.position.get_config()
    config["position"] = {n: v for n, v in (position or {}).items() if n not in FREE}
    return config


def _bert_or_gpt(found: parts.Parts) -> BertSize | GptSize:
    stack, family = found.stack, found.family
    block, embedding = stack.blocks[0], stack.embedding
    common: Config = {
        "num_heads": block.num_heads,
        "intermediate_dim": block.intermediate_dim,
        "dropout": block.dropout,
        "attention_dropout": block.attention_dropout,
        "activation": block.activation,
        "layer_norm_epsilon": block.layer_norm_epsilon,
    }
    if family == "bert":
        common["attention_output_dropout"] = block.attention_output_dropout
    for each in stack.blocks:
        for field, value in (BLOCKS[family] | common).items():
            expect(field, value, getattr(each, field))
    common |= {
        "num_layers": len(stack.blocks),
        "activation": block.activation.__name__,
        "initializer_range": getattr(block.kernel_initializer, "stddev", 0.02),
    }
    if family == "gpt":
        norm = stack.norm or getattr(found.head, "norm_layer", None)
        if norm is not None:  # it is inside `LinearCrossEntropy` in a model that computes its loss
            expect("layer_norm_epsilon", block.layer_norm_epsilon, norm.epsilon)
        return GptSize(
            **common,
            hidden_dim=embedding.output_dim,
            vocabulary_size=embedding.input_dim,
            max_length=getattr(stack.position, "max_length", 0),
            embedding_dropout=stack.dropout.rate,
        )
    expect("dropout", block.dropout, embedding.dropout)
    expect("layer_norm_epsilon", block.layer_norm_epsilon, embedding.layer_norm_epsilon)
    return BertSize(
        **common,
        hidden_dim=embedding.dim,
        vocabulary_size=embedding.vocabulary_size,
        max_length=embedding.max_length,
        num_segments=embedding.num_segments,
        padding_id=embedding.padding_id,
        pooler_activation=found.pooler.activation.__name__ if found.pooler else None,
        pooler_dropout=found.pooler_dropout.rate if found.pooler_dropout else 0.0,
    )


def expect(field: str, expected: object, value: object) -> None:
    """Raise unless a value of the model is one that transformers can load."""
    choices = expected if isinstance(expected, tuple) else (expected,)
    if value not in choices:
        raise ValueError(
            f"`model` must have {field}={' or '.join(map(repr, choices))} for transformers to load "
            f"it, got {value!r}"
        )
