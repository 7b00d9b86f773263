"""Describes the format of a checkpoint by rules and tables that work in both directions.

Letters: N heads, H head width, D model width.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_attn._typing import Config


@dataclasses.dataclass(frozen=True)
class Change:
    """Functions from an array of a checkpoint to our arrays, and back if the format is saved.

    Both also take the checkpoint's configuration.
    """

    load: Callable[[np.ndarray, Config], list[np.ndarray]]
    save: Callable[[list[np.ndarray], Config], Any] = lambda arrays, config: None


AS_IS = Change(lambda array, _: [array], lambda arrays, _: arrays[0])
TRANSPOSED = Change(lambda array, _: [array.T], lambda arrays, _: arrays[0].T)
# Query, key and value in one array.
THIRDS = Change(
    lambda array, _: np.split(array, 3, axis=-1), lambda arrays, _: np.concatenate(arrays, axis=-1)
)
MERGED_LAST = Change(lambda array, _: [array.reshape(len(array), -1)])  # [D, N, H] to [D, N H]
MERGED_FIRST = Change(lambda array, _: [array.reshape(-1, array.shape[-1])])  # [N, H, D], [N H, D]
FLAT = Change(lambda array, _: [array.reshape(-1)])  # [N, H] to [N H]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The array `source` of a checkpoint, after `change`, gives our weights `targets`.

    In a rule of the layers, {i} is the number of the layer. `first` is the first such layer.
    """

    source: str
    targets: tuple[str, ...]
    change: Change = AS_IS
    first: int = 0

    def expand(self, layers: int) -> "list[Rule]":
        """One rule for each layer, or this rule alone if it is not one of the layers."""
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
    """A rule whose array gives one of our weights."""
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
    """A key of a checkpoint's configuration that holds a field of our size.

    Args:
        name: the name of the key.
        values: for names, a dict from their values to ours.
        load: a function from their value and the configuration to our value.
        save: a function from our value and the configuration to their value.
        number: whether their value is a number in the same range as ours; if not, `load` checks it.
    """

    name: str
    values: Mapping[str, str] | None = None
    load: Callable[[Any, Config], Any] = lambda value, _: value
    save: Callable[[Any, Config], Any] = lambda value, _: value
    number: bool = True


# From their names of activations to ours. If two have the same name of ours, the first is written.
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
        rules: the rules of its own layers.
        pooler: the rules of a pooler that the checkpoint stores with this head, instead of the
            format's pooler.
        dropout: keys of the configuration; the first that is not null is the dropout rate.
        rate: the dropout rate if no key has one; None for the default of the function of the task.
        pooler_dropout: whether this dropout is applied before the pooler too.
        pooling: the key of the configuration for the pooling of the head, or its only mode; None if
            the head has a pooler or takes every position.
        activation: the activation of the head, if it is not that of the blocks.
        requires: values that the configuration must have for this head, as in `Format`.
    """

    rules: tuple[Rule, ...]
    pooler: tuple[Rule, ...] = ()
    dropout: tuple[str, ...] = ()
    rate: float | None = None
    pooler_dropout: bool = False
    pooling: Key | str | None = None
    activation: str | None = None
    requires: Config = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of checkpoints.

    A key of the configuration is read (`size`, `defaults`), or must have one value (`requires`), or
    does not change the outputs (`irrelevant`). Any other key is reported as unknown.

    Args:
        name: its name in error messages.
        size: the key of the configuration for each field of our size.
        trunk: the rules of the arrays that every checkpoint has.
        pooler: the rules of the pooler.
        heads: the heads, by their names in our models.
        fixed: the values of fields of our size that have no key and are the same everywhere.
        defaults: the values of keys that are read and may be missing.
        aliases: other names of keys, from the alias to the name.
        requires: the values that keys must have if they are in the configuration.
        irrelevant: keys that do not change the outputs.
        architectures: the heads of each model class of the source. Heads of two classes may have
            weights of the same names.
        prefix: the prefix of names in a checkpoint of a model with a head.
        renames: older names of weights: pairs of a regular expression and its replacement.
        ignored: regular expressions of names that are not loaded, such as optimizer slots.
        tied: names whose arrays must be equal to those of other names.
        family: the family of our models, "bert", "modern_bert" or "gpt".
        tokenizer: the class in tokenizer_config.json that reads a vocab.txt; None if none does.
        token_ids: the default ids of special tokens in transformers. If the vocabulary is smaller,
            the configuration must have null for these keys.
    """

    name: str
    size: Mapping[str, Key]
    trunk: tuple[Rule, ...]
    pooler: tuple[Rule, ...] = ()
    heads: Mapping[str, Head] = dataclasses.field(default_factory=dict)
    fixed: Config = dataclasses.field(default_factory=dict)
    defaults: Config = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requires: Config = dataclasses.field(default_factory=dict)
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
        """The name in the spelling of the rules."""
        source = source.removeprefix(self.prefix)
        for pattern, replacement in self.renames:
            source = re.sub(pattern, replacement, source)
        return source

    def ignores(self, source: str) -> bool:
        """Whether an array of this name is not loaded."""
        return any(re.fullmatch(pattern, source) for pattern in self.ignored)

    def unknown(self, config: Config) -> tuple[str, ...]:
        """The keys of a configuration that this format does not know."""
        known = {key.name for key in self.size.values()}
        known.update(self.defaults, self.requires, self.irrelevant)
        for head in self.heads.values():
            known.update(head.dropout, head.requires)
        return tuple(key for key in config if key not in known)


def keys(**names: str) -> dict[str, Key]:
    """Keys whose values are those of our fields; only activations are translated."""
    return {
        field: Key(name, ACTIVATIONS if field == "activation" else None)
        for field, name in names.items()
    }


# Keys that any configuration of transformers may have. Another value in REQUIRES would change the
# outputs; the keys in IRRELEVANT do not change them.
REQUIRES = {
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,  # would ask for code in the directory, which is never run
}

IRRELEVANT = (
    # About the file
    *("_name_or_path", "architectures", "model_type", "transformers_version", "name", "language"),
    # Names of classes and ids, and the loss of transformers' Trainer
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("tokenizer_class", "prefix", "task_specific_params"),
    # What a call returns and how it is computed: in chunks, with a cache, on which device
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
    # Whether weights are tied is checked in the arrays
    "tie_word_embeddings",
    "tie_weights_",
)
