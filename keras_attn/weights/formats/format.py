"""What a kind of checkpoint calls our weights and sizes, as data that is read in both directions.

Letters: N heads, H head width, D model width.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Change:
    """How an array of a checkpoint becomes arrays of ours, and the way back if there is one.

    Both functions also take the checkpoint's configuration.
    """

    load: Callable[[np.ndarray, Config], list[np.ndarray]]
    save: Callable[[list[np.ndarray], Config], Any] = lambda arrays, config: None


AS_IS = Change(lambda array, _: [array], lambda arrays, _: arrays[0])
TRANSPOSED = Change(lambda array, _: [array.T], lambda arrays, _: arrays[0].T)
# Query, key and value side by side.
THIRDS = Change(
    lambda array, _: np.split(array, 3, axis=-1), lambda arrays, _: np.concatenate(arrays, axis=-1)
)
MERGED_LAST = Change(lambda array, _: [array.reshape(len(array), -1)])  # [D, N, H] to [D, N H]
MERGED_FIRST = Change(lambda array, _: [array.reshape(-1, array.shape[-1])])  # [N, H, D], [N H, D]
FLAT = Change(lambda array, _: [array.reshape(-1)])  # [N, H] to [N H]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The checkpoint's `source`, changed, is our `targets`.

    {i} is the layer's number, from `first` on.
    """

    source: str
    targets: tuple[str, ...]
    change: Change = AS_IS
    first: int = 0

    def expand(self, layers: int) -> "list[Rule]":
        """One rule for each layer, or this one where it names no layer."""
        if "{i}" not in self.source:
            return [self]
        return [
            dataclasses.replace(
                self,
                source=self.source.format(i=i),
                targets=tuple(target.format(i=i) for target in self.targets),
            )
            for i in range(self.first, layers)
        ]


def rule(source: str, target: str, change: Change = AS_IS, first: int = 0) -> Rule:
    """The rule for one array that is one of our weights."""
    return Rule(source, (target,), change, first)


def pair(source: str, target: str, names: tuple[str, str] = ("kernel", "bias")) -> tuple[Rule, ...]:
    """The rules of a layer whose two weights have our names in the checkpoint."""
    return tuple(rule(f"{source}/{name}", f"{target}/{name}") for name in names)


def dense(source: str, target: str, change: Change = TRANSPOSED) -> tuple[Rule, Rule]:
    """The rules of torch's dense layer, whose kernel is stored as [output, input]."""
    return (
        rule(f"{source}.weight", f"{target}/kernel", change),
        rule(f"{source}.bias", f"{target}/bias"),
    )


def norm(source: str, target: str) -> tuple[Rule, Rule]:
    """The rules of torch's layer norm."""
    return (
        rule(f"{source}.weight", f"{target}/gamma"),
        rule(f"{source}.bias", f"{target}/beta"),
    )


@dataclasses.dataclass(frozen=True)
class Key:
    """The key of a configuration that holds a field of our size.

    Args:
        name: name of the key.
        values: our value for each of theirs, where they have other names.
        load: our value, from theirs and the configuration.
        save: theirs, from ours and the configuration.
        number: whether theirs is a number in the same range as ours; else `load` checks it.
    """

    name: str
    values: Mapping[str, str] | None = None
    load: Callable[[Any, Config], Any] = lambda value, _: value
    save: Callable[[Any, Config], Any] = lambda value, _: value
    number: bool = True


# Our names for their activations; the first of two is the one that is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that a checkpoint may have.

    Args:
        rules: rules of its own layers.
        pooler: rules of a pooler that the checkpoint stores with this head, in place of the
            format's.
        dropout: keys of the configuration, of which the first that is not null is the head's rate;
            without keys the builder of the task has its default.
        pooler_dropout: whether that rate acts in front of the pooler too.
        pooling: the key of the configuration that says how the head pools, where there is one.
        activation: activation of the head, where it is not that of the blocks.
        requires: what the configuration must say for this head, as in `Format`.
    """

    rules: tuple[Rule, ...]
    pooler: tuple[Rule, ...] = ()
    dropout: tuple[str, ...] = ()
    pooler_dropout: bool = False
    pooling: Key | None = None
    activation: str | None = None
    requires: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of checkpoint.

    A key of the configuration is read (`size`, `defaults`), or must have one value (`requires`), or
    changes no number (`irrelevant`); any other is reported as unknown.

    Args:
        name: its name in error messages.
        size: for each field of our size the key of the configuration.
        trunk: rules of what every such checkpoint has, the token matrix first.
        pooler: rules of the pooler.
        heads: what each head is, by its name in our models.
        fixed: values of fields of our size that every such checkpoint has, without a key.
        defaults: what keys that are read say where the configuration is silent.
        aliases: other names of keys.
        requires: what the configuration must say under a key, if it says anything.
        irrelevant: keys that change no number.
        architectures: the heads that each model class of the source has; the names of the others'
            weights may be the same.
        prefix: prefix of the names in a checkpoint of a model with a head.
        renames: older spellings: pairs of a regular expression and what replaces it.
        ignored: regular expressions of names that mean nothing to us, such as optimizer slots.
        tied: names that must repeat the array of another name.
        family: family of our models, "bert", "modern_bert" or "gpt".
        tokenizer: the class in tokenizer_config.json that reads a vocab.txt; None if none does.
        token_ids: ids of special tokens that transformers takes for granted under these keys; of a
            smaller vocabulary the configuration must say that it has none.
    """

    name: str
    size: Mapping[str, Key]
    trunk: tuple[Rule, ...]
    pooler: tuple[Rule, ...] = ()
    heads: Mapping[str, Head] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requires: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    irrelevant: tuple[str, ...] = ()
    architectures: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    family: str = "bert"
    tokenizer: str | None = None
    token_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def rename(self, source: str) -> str:
        """The name as the rules spell it."""
        source = source.removeprefix(self.prefix)
        for pattern, replacement in self.renames:
            source = re.sub(pattern, replacement, source)
        return source

    def ignores(self, source: str) -> bool:
        """Whether a name means nothing to us."""
        return any(re.fullmatch(pattern, source) for pattern in self.ignored)

    def unknown(self, config: Config) -> tuple[str, ...]:
        """The keys of a configuration about which this format knows nothing."""
        known = {key.name for key in self.size.values()}
        known.update(self.defaults, self.requires, self.irrelevant)
        for head in self.heads.values():
            known.update(head.dropout, head.requires)
        return tuple(key for key in config if key not in known)


def keys(**names: str) -> dict[str, Key]:
    """Keys that hold fields of our size as they are; the activation under its name there."""
    return {
        field: Key(name, ACTIVATIONS if field == "activation" else None)
        for field, name in names.items()
    }


# Keys that every configuration of the library transformers may have: a model with another value
# than these is another model, and the irrelevant ones change no number.
REQUIRES = {
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,  # code in the directory, which is not run
}

IRRELEVANT = (
    # What the file is
    *("_name_or_path", "architectures", "model_type", "transformers_version", "name", "language"),
    # What classes and ids mean, and the loss of transformers' Trainer
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("tokenizer_class", "prefix", "task_specific_params"),
    # What a call returns, and how it is computed: in chunks, with a cache, on which device
    *("return_dict", "output_hidden_states", "output_attentions", "use_cache", "output_past"),
    *("chunk_size_feed_forward", "gradient_checkpointing", "torchscript", "xla_device"),
    # The type of the stored numbers: ours is the argument `dtype`
    *("dtype", "torch_dtype", "use_bfloat16"),
    # How text is generated
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "suppress_tokens", "begin_suppress_tokens"),
    *("exponential_decay_length_penalty", "tie_encoder_decoder", "tf_legacy_loss"),
    # A tied output is checked in the weights
    "tie_word_embeddings",
    "tie_weights_",
)
