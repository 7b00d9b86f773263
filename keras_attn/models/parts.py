"""The parts of a model: the only code that knows the names of our models' layers.

Letters: B batch, T length, D model width.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import keras

from keras_attn import layers
from keras_attn._keras import flatten_layers, nodes
from keras_attn._typing import DType
from keras_attn.layers.sublayers import enters_logits

_TASK_HEADS = ("classifier", "tagger", "span", "multiple_choice", "masked_lm", "next_sentence")
_TRANSFORMATION = ("transformation", "transformation_norm")
_POSITIONS = {"source_position", "target_position"}
# The layer that holds both heads of BERT's pre-training, or the last norm of a GPT.
_HEADS = "head/"
_TOKEN_MATRICES = ("embedding/token/embeddings", "token_embedding/embeddings")
_RECURRENT = {"source_embedding", "encoder", "target_embedding", "logits", "readout"}
_BLOCKS = (layers.TransformerEncoderBlock, layers.TransformerDecoderBlock)

# The weights that are split over the devices of a mesh: their paths, what is split, and its axis.
# No two patterns match one path. BERT's segment table, the positions, the norms and the small heads
# are not among them: each device holds all of these.
_ATTENTION = r"(self|cross)_attention(_\d+)?"
SPLIT_WEIGHTS = (
    (r".*(token|_embedding)(_\d+)?/embeddings", "vocabulary", 0),
    (r".*masked_lm/bias", "vocabulary", 0),
    (r".*logits/kernel", "vocabulary", 1),
    (r".*logits/bias", "vocabulary", 0),
    (rf".*{_ATTENTION}/(query|key|value)/kernel", "heads", 1),
    (rf".*{_ATTENTION}/(query|key|value)/bias", "heads", 0),
    (rf".*{_ATTENTION}/output/kernel", "heads", 0),
    (r".*feed_forward(_\d+)?/(hidden|gate)/kernel", "feed-forward width", 1),
    (r".*feed_forward(_\d+)?/(hidden|gate)/bias", "feed-forward width", 0),
    (r".*feed_forward(_\d+)?/output/kernel", "feed-forward width", 0),
)


@dataclasses.dataclass(frozen=True)
class Stack:
    """An encoder or a decoder: the layers that turn ids into vectors `[B, T, D]`.

    Args:
        embedding: the layer of the token vectors. Encoder and decoder of a Transformer share one.
        blocks: in the order in which they run; the recurrent layer of `models.rnn_attention`.
        position: the layer of the positions; `keras.layers.Identity` where each block has its own,
            None where a recurrent layer needs none, or ModernBERT's blocks have their own.
        norm: the norm after the last block, if there is one.
        dropout: the dropout of the embeddings, if it is a separate layer.
    """

    embedding: keras.layers.Layer
    blocks: tuple[keras.layers.Layer, ...]
    position: keras.layers.Layer | None = None
    norm: Any = None  # as below
    dropout: Any = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """The layers of a model of this package by what they do; None where it has no such layer.

    Args:
        family: the module of `keras_attn.models` that builds such models: "bert", "modern_bert",
            "gpt", "transformer" or "rnn_attention".
        encoder: that of BERT, of a Transformer, of the recurrent model; a GPT without the language
            model's output.
        decoder: that of a GPT, of a Transformer, of the recurrent model.
        pooler: the dense layer that BERT applies to the first vector.
        pooler_dropout: the dropout layer before the pooler.
        pooling: the layer that pools a sequence into one vector where there is no pooler.
        transformation: the dense layer and the norm with which the heads of ModernBERT begin.
        head: the layer that returns the logits, or a dict of them.
        bridges: the recurrent model's layers from the encoder's last state to the decoder's first,
            one for each state of the cell.
        readout: the recurrent model's dense layer before the head.
    """

    family: str
    # Where the type is `Any`, callers know from the kind of model that the layer is not None.
    encoder: Stack | None = None
    decoder: Stack | None = None
    pooler: keras.layers.Layer | None = None
    pooler_dropout: keras.layers.Layer | None = None
    pooling: Any = None
    transformation: tuple[keras.layers.Layer, ...] = ()
    head: Any = None
    bridges: tuple[keras.layers.Layer, ...] = ()
    readout: Any = None

    @property
    def stack(self) -> Stack:
        """The encoder or the decoder of a model that has only one of them."""
        (stack,) = (stack for stack in (self.encoder, self.decoder) if stack is not None)
        return stack


def of(model: keras.Model) -> Parts:
    """The parts of a model of `keras_attn.models`, also of one that was saved, packed or extended.

    The encoder may be inside a model that is called as a layer, as multiple choice does.

    Raises:
        ValueError: another model; one with two encoders, which have no parts in common.

    Example:
    >>> from keras_attn.models import bert, bert_tasks
    >>> parts = of(bert_tasks.tagger(bert.encoder("bert_tiny", vocabulary_size=100), 3))
    >>> [block.name for block in parts.encoder.blocks], parts.head.name, parts.pooler
    (['block_0', 'block_1'], 'tagger', None)
    """
    found = find(model)
    if found is None:
        for layer in _layers(model):
            if _by_name(model)[layer.name] is not layer and isinstance(layer, _BLOCKS):
                raise ValueError(
                    f"`model` must have one encoder or decoder, got two layers {layer.name!r}"
                )
        names = [layer.name for layer in getattr(model, "layers", ())]
        raise ValueError(
            f"`model` must be one of keras_attn.models, got the {type(model).__name__} "
            f"{getattr(model, 'name', model)!r} with layers {', '.join(names)}"
        )
    return found


def encoder(model: keras.Model) -> Stack:
    """The encoder of a model that has one; otherwise a ValueError."""
    stack = of(model).encoder
    if stack is None:
        raise ValueError(
            f"`model` must have an encoder, got the decoder {model.name!r}: models.gpt.encoder "
            "builds one, and weights.load gives one for a task"
        )
    return stack


def decoder(model: keras.Model) -> Stack:
    """The decoder of a model that has one; otherwise a ValueError."""
    stack = of(model).decoder
    if stack is None:
        raise ValueError(f"`model` must have a decoder, got {model.name!r}")
    return stack


def find(model: keras.Model) -> Parts | None:
    """Like `of`, but None where that raises."""
    named = _by_name(model)

    def numbered(prefix: str, kind: type) -> tuple[keras.layers.Layer, ...]:
        names = (f"{prefix}_{index}" for index in itertools.count())
        found = itertools.takewhile(lambda name: name in named, names)
        return tuple(layer for name in found if isinstance(layer := named[name], kind))

    if any(
        isinstance(layer, _BLOCKS) and named[layer.name] is not layer for layer in _layers(model)
    ):
        return None
    blocks = numbered("block", layers.TransformerEncoderBlock)
    encoder_blocks = numbered("encoder_block", layers.TransformerEncoderBlock)
    decoder_blocks = numbered("decoder_block", layers.TransformerDecoderBlock)
    embedding, tokens = named.get("embedding"), named.get("token_embedding")
    heads = [named[name] for name in ("head", *_TASK_HEADS) if name in named]
    head = heads[0] if heads else None
    if blocks and isinstance(embedding, layers.BertEmbedding):
        norm = named.get("encoder_norm")
        return Parts(
            "bert" if norm is None else "modern_bert",
            encoder=Stack(embedding, blocks, embedding.position_embedding, norm),
            pooler=named.get("pooler"),
            pooler_dropout=named.get("pooler_dropout"),
            pooling=named.get("pooling"),
            transformation=tuple(named[name] for name in _TRANSFORMATION if name in named),
            head=head,
        )
    if blocks and isinstance(tokens, layers.TokenEmbedding) and "position" in named:
        norm = None if isinstance(head, layers.LanguageModelHead) else named.get("norm")
        stack = Stack(tokens, blocks, named["position"], norm, named.get("embedding_dropout"))
        if norm is None:
            return Parts("gpt", decoder=stack, head=head)
        return Parts("gpt", encoder=stack, pooling=named.get("pooling"), head=head)
    translates = encoder_blocks and decoder_blocks and named.keys() >= _POSITIONS
    if translates and isinstance(tokens, layers.TokenEmbedding):
        return Parts(
            "transformer",
            encoder=Stack(
                tokens, encoder_blocks, named["source_position"], named.get("encoder_norm")
            ),
            decoder=Stack(tokens, decoder_blocks, named["target_position"]),
            head=named.get("head"),
        )
    if isinstance(named.get("decoder"), layers.AttentionDecoder) and named.keys() >= _RECURRENT:
        return Parts(
            "rnn_attention",
            encoder=Stack(named["source_embedding"], (named["encoder"],)),
            decoder=Stack(named["target_embedding"], (named["decoder"],)),
            head=named["logits"],
            bridges=numbered("bridge", keras.layers.Dense),
            readout=named["readout"],
        )
    return None


def outputs(model: keras.Model, layer: keras.layers.Layer) -> list:
    """The output tensors of a layer in the graph of this model.

    `layer.output` is those of the first model that called it, which may be another one.
    """
    for node in nodes(model):
        if node.operation is layer:
            return list(node.output_tensors)
    raise ValueError(f"`layer` must be called by {model.name!r}, got {layer.name!r}")


def embeds(model: keras.Model) -> bool:
    """Whether the model gives a vector of each text, as that of `models.bert_tasks.embedder`."""
    pooling = getattr(find(model), "pooling", None)
    if pooling is None or len(model.outputs) != 1 or pooling not in model.layers:
        return False
    return model.outputs[0] is outputs(model, pooling)[0]


def path_of(weight: keras.Variable) -> str:
    """The path of a weight; what is inside the layer `head` (two heads, a norm) is at the top."""
    return weight.path.removeprefix(_HEADS)


def layer_at(model: keras.Model, path: str) -> keras.layers.Layer:
    """The layer at the top of a path that `path_of` gives.

    Raises:
        ValueError: the model has no such layer, or several.

    Example:
    >>> from keras_attn.models import bert
    >>> model = bert.pretraining("bert_tiny", vocabulary_size=100)
    >>> [path_of(weight) for weight in model.weights if "/bias" in weight.path][-1]
    'next_sentence/bias'
    >>> type(layer_at(model, "next_sentence/bias")).__name__
    'NextSentenceHead'
    """
    name, *_ = path.split("/")
    found = [layer for layer in flatten_layers(model) if layer.name == name]
    if len(found) != 1:
        raise ValueError(
            f"`model` must have one layer {name!r}, got {len(found)} in {model.name!r}"
        )
    return found[0]


def is_token_matrix(path: str) -> bool:
    """Whether this is the path of the token matrix, of a model of any family."""
    return path in _TOKEN_MATRICES


def attention_position(position: keras.layers.Layer) -> keras.layers.Layer | None:
    """A copy for one block, with separate weights; None if it belongs to the embeddings."""
    return _copy(position) if enters_logits(position) else None


def embedding_position(position: keras.layers.Layer, name: str, dtype: DType) -> keras.layers.Layer:
    """A copy for the embeddings; an identity layer if it belongs to the blocks."""
    if enters_logits(position):
        return keras.layers.Identity(name=name, dtype=dtype)
    return _copy(position, name=name, dtype=dtype or position.dtype_policy)


def _copy(position: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    return type(position).from_config({**position.get_config(), **changes})


def _by_name(model: keras.Model) -> dict[str, keras.layers.Layer]:
    named: dict[str, keras.layers.Layer] = {}
    for layer in _layers(model):
        named.setdefault(layer.name, layer)
    return named


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in getattr(model, "layers", ()):
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
