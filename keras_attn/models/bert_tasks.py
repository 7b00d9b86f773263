"""Task models: an encoder and a head, as functional Keras models.

Each builder takes an encoder of `keras_attn.models.bert`, `modern_bert` or `gpt`, new or loaded,
shares its layers, and returns a model with the encoder's inputs (multiple choice: one more axis).
The head is the layer that carries the builder's name (a regressor's is "classifier"); ModernBERT's
heads begin with a dense layer and a norm, and a GPT's classifier has no bias. Outputs are logits:
compile with `from_logits=True`. An `embedder` and a `siamese` have no head and give vectors.

Letters: B batch, T length, C choices or texts, P masked positions, V vocabulary, D model width.
"""

import keras
from keras import ops

from keras_attn import layers
from keras_attn._checks import check_count
from keras_attn._typing import Activation
from keras_attn.models import parts
from keras_attn.models.task_parts import (
    dtype_of,
    head_options,
    output_of,
    pool,
    several,
    together,
    transform,
)


def classifier(
    encoder: keras.Model,
    num_classes: int,
    *,
    pooling: str | None = None,
    dropout: float = 0.1,
    name: str = "bert_classifier",
) -> keras.Model:
    """Classes of a sentence or a pair: logits `[B, num_classes]`.

    Args:
        encoder: with outputs sequence_output and, for the pooler, pooled_output.
        num_classes: how many logits.
        pooling: "pooler" takes pooled_output; "first", "last", "mean" and "max" pool
            sequence_output; defaults to "pooler", for ModernBERT to "first", for GPT to "last".
        dropout: fraction of the pooled vector that is zeroed in training.
        name: name of the model.

    Raises:
        ValueError: an encoder without the output that is needed, an unknown pooling.

    Source: Devlin et al. 2019, section 4.1.

    Example:
    >>> from keras_attn.models import bert
    >>> classifier(bert.encoder("bert_tiny", vocabulary_size=100), num_classes=3).output.shape
    (None, 3)
    """
    use_bias = parts.of(encoder).family != "gpt"
    options = head_options(encoder, "classifier")
    head = layers.ClassificationHead(num_classes, dropout=dropout, use_bias=use_bias, **options)
    pooled = pool(encoder, pooling, encoder.output, encoder.input["padding_mask"])
    return keras.Model(encoder.input, head(transform(encoder, pooled)), name=name)


def regressor(
    encoder: keras.Model,
    *,
    pooling: str | None = None,
    dropout: float = 0.1,
    name: str = "bert_regressor",
) -> keras.Model:
    """A number for a sentence or a pair, such as their similarity: `[B, 1]`.

    Args:
        encoder: as in `classifier`.
        pooling: as in `classifier`.
        dropout: as in `classifier`.
        name: name of the model.

    Raises:
        ValueError: as `classifier`.

    Source: Devlin et al. 2019, section 4.1 (STS-B).
    """
    return classifier(encoder, 1, pooling=pooling, dropout=dropout, name=name)


def tagger(
    encoder: keras.Model, num_classes: int, *, dropout: float = 0.1, name: str = "bert_tagger"
) -> keras.Model:
    """A tag for every token: logits `[B, T, num_classes]`.

    Args:
        encoder: with output sequence_output.
        num_classes: how many tags.
        dropout: fraction of the sequence output that is zeroed in training.
        name: name of the model.

    Raises:
        ValueError: an encoder without the output that is needed, no positive `num_classes`.

    Source: Devlin et al. 2019, section 5.3.

    Example:
    >>> from keras_attn.models import bert
    >>> tagger(bert.encoder("bert_tiny", vocabulary_size=100), num_classes=3).output.shape
    (None, None, 3)
    """
    head = layers.TokenTaggingHead(num_classes, dropout=dropout, **head_options(encoder, "tagger"))
    vectors = transform(encoder, output_of(encoder, "sequence_output"))
    return keras.Model(encoder.input, head(vectors), name=name)


def span(encoder: keras.Model, *, dropout: float = 0.0, name: str = "bert_span") -> keras.Model:
    """The start and the end of the answer: a dict of logits, "start" and "end", each `[B, T]`.

    The question is segment 0, the context segment 1. Padding and the question get no probability;
    the first position, [CLS], means that there is no answer. An encoder with one segment or none
    also takes rows whose ids mark no context: any position except padding may be the answer.

    Args:
        encoder: with output sequence_output.
        dropout: fraction of the sequence output that is zeroed in training.
        name: name of the model.

    Raises:
        ValueError: an encoder without the output that is needed.

    Source: Devlin et al. 2019, sections 4.2 and 4.3.

    Example:
    >>> from keras_attn.models import bert
    >>> sorted(span(bert.encoder("bert_tiny", vocabulary_size=100)).output)
    ['end', 'start']
    """
    context = ops.equal(encoder.input["segment_ids"], 1)
    if getattr(parts.encoder(encoder).embedding, "num_segments", 0) < 2:
        unmarked = ops.logical_not(ops.any(context, axis=1, keepdims=True))
        context = ops.logical_or(context, unmarked)
    context = ops.logical_and(encoder.input["padding_mask"], context)
    first = ops.equal(ops.cumsum(ops.ones_like(encoder.input["token_ids"]), axis=1), 1)
    head = layers.SpanHead(dropout=dropout, **head_options(encoder, "span"))
    vectors = transform(encoder, output_of(encoder, "sequence_output"))
    outputs = head(vectors, mask=ops.logical_or(first, context))
    return keras.Model(encoder.input, outputs, name=name)


def multiple_choice(
    encoder: keras.Model,
    num_choices: int = 4,
    *,
    pooling: str | None = None,
    dropout: float = 0.1,
    name: str = "bert_multiple_choice",
) -> keras.Model:
    """Which choice is right: logits `[B, C]`, from inputs `[B, C, T]` of question and choice.

    Args:
        encoder: with outputs sequence_output and, for the pooler, pooled_output.
        num_choices: C.
        pooling: as in `classifier`.
        dropout: fraction of the pooled vectors that is zeroed in training.
        name: name of the model.

    Raises:
        ValueError: as `classifier`; `num_choices` is not a positive integer.

    Source: Devlin et al. 2019, section 4.4.

    Example:
    >>> from keras_attn.models import bert
    >>> encoder = bert.encoder("bert_tiny", vocabulary_size=100)
    >>> multiple_choice(encoder, num_choices=3).input["token_ids"].shape
    (None, 3, None)
    """
    num_choices = check_count("num_choices", num_choices)
    inputs, rows = several(encoder, num_choices)
    pooled = pool(encoder, pooling, encoder(rows), rows["padding_mask"])
    head = layers.MultipleChoiceHead(dropout=dropout, **head_options(encoder, "multiple_choice"))
    pooled = transform(encoder, together(pooled, num_choices))  # [B, C, D]
    return keras.Model(inputs, head(pooled), name=name)


def embedder(
    encoder: keras.Model,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    name: str = "bert_embedder",
) -> keras.Model:
    """A vector of a text, to compare it with others by their dot product: `[B, D]`.

    Published with a preprocessor, its signature `embed` gives the vectors of strings. To train it,
    see `siamese`.

    Args:
        encoder: with output sequence_output.
        pooling: the mode of `keras_attn.layers.SequencePooling`: "mean", "first", "last" or "max".
        normalize: whether vectors have norm 1, so that the dot product of two is their cosine.
        name: name of the model.

    Raises:
        ValueError: an encoder without the output that is needed, an unknown pooling.

    Source: Reimers and Gurevych 2019, section 3.

    Example:
    >>> from keras_attn.models import bert
    >>> embedder(bert.encoder("bert_tiny", vocabulary_size=100)).output.shape
    (None, 128)
    """
    layer = layers.SequencePooling(pooling, normalize, dtype=dtype_of(encoder), name="pooling")
    vectors = layer(output_of(encoder, "sequence_output"), mask=encoder.input["padding_mask"])
    return keras.Model(encoder.input, vectors, name=name)


def siamese(
    embedder: keras.Model, num_texts: int = 2, *, name: str = "bert_siamese"
) -> keras.Model:
    """Vectors of the texts that belong together: `[B, C, D]`, from inputs `[B, C, T]`.

    Fit it with the loss `keras_attn.training.InfoNCE`: a row holds a query, the text to find, and
    hard negatives if there are more than two. `embedder` is trained with it.

    Args:
        embedder: the model of all texts, with one output `[B, D]`.
        num_texts: C.
        name: name of the model.

    Raises:
        ValueError: a model with other outputs.

    Source: Reimers and Gurevych 2019, section 3 (siamese networks).

    Example:
    >>> from keras_attn.models import bert
    >>> model = siamese(embedder(bert.encoder("bert_tiny", vocabulary_size=100)))
    >>> model.input["token_ids"].shape, model.output.shape
    ((None, 2, None), (None, 2, 128))
    """
    num_texts = check_count("num_texts", num_texts)
    if not isinstance(embedder.output, keras.KerasTensor) or len(embedder.output.shape) != 2:
        shapes = keras.tree.map_structure(lambda output: output.shape, embedder.output)
        raise ValueError(f"`embedder` must have one output [B, D], got {shapes}")
    inputs, rows = several(embedder, num_texts)
    return keras.Model(inputs, together(embedder(rows), num_texts), name=name)


def masked_lm(
    encoder: keras.Model, *, activation: Activation = None, name: str = "bert_masked_lm"
) -> keras.Model:
    """The token at each of the positions in one more input, masked_positions: logits `[B, P, V]`.

    Args:
        encoder: with output sequence_output; its token matrix is the output's too.
        activation: that of the head, a name or a function; defaults to that of the blocks.
        name: name of the model.

    Raises:
        ValueError: an encoder without the output that is needed; a GPT, which sees no later token.

    Source: Devlin et al. 2019, section 3.1, task 1.
    """
    stack, family = parts.encoder(encoder), parts.of(encoder).family
    if family == "gpt":
        raise ValueError(f"`encoder` must see both sides of a position, got {encoder.name!r}")
    head = layers.MaskedLMHead(
        activation=activation or stack.blocks[0].activation,
        layer_norm_epsilon=stack.embedding.layer_norm_epsilon,
        use_bias=family == "bert",
        **head_options(encoder, "masked_lm"),
    )
    positions = keras.Input((None,), dtype="int32", name="masked_positions")
    matrix = parts.outputs(encoder, stack.embedding)[1]
    outputs = head(output_of(encoder, "sequence_output"), matrix, masked_positions=positions)
    return keras.Model({**encoder.input, "masked_positions": positions}, outputs, name=name)


def next_sentence(encoder: keras.Model, *, name: str = "bert_next_sentence") -> keras.Model:
    """Whether the second segment follows the first: logits `[B, 2]`, class 0 says that it does.

    Args:
        encoder: with output pooled_output.
        name: name of the model.

    Raises:
        ValueError: an encoder without the output that is needed, such as ModernBERT's or GPT's.

    Source: Devlin et al. 2019, section 3.1, task 2.
    """
    head = layers.NextSentenceHead(**head_options(encoder, "next_sentence"))
    return keras.Model(encoder.input, head(output_of(encoder, "pooled_output")), name=name)
