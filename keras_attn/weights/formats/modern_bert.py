"""ModernBERT in the format of transformers: no biases, and several kernels in one array."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_attn._typing import Config
from keras_attn.models.sizes import global_every
from keras_attn.ops.positions import Llama3Scaling, RotaryScaling, YarnScaling
from keras_attn.weights.formats.format import (
    IRRELEVANT,
    REQUIRES,
    TRANSPOSED,
    Change,
    Format,
    Head,
    Key,
    Rule,
    dense,
    keys,
    rule,
)

DROPOUT = ("classifier_dropout",)
POOLING = Key("classifier_pooling", {"cls": "first", "mean": "mean"})
TIED = {"tie_word_embeddings": True}
# The first part of every head, with the same names for all tasks.
TRANSFORMATION = (
    rule("head.dense.weight", "transformation/kernel", TRANSPOSED),
    rule("head.norm.weight", "transformation_norm/gamma"),
)


def _side_by_side(source: str, *targets: str) -> Rule:
    """The rule of one array [output, input] that holds several kernels, one after the other."""
    change = Change(
        lambda array, _: [part.T for part in np.split(array, len(targets))],
        lambda arrays, _: np.concatenate([array.T for array in arrays]),
    )
    return Rule(source, tuple(f"block_{{i}}/{target}/kernel" for target in targets), change)


def _layer_types(whole: list[bool]) -> list[str]:
    return ["full_attention" if each else "sliding_attention" for each in whole]


def _load_global_every(types: Any, config: Config) -> int:
    """Our `global_every` from the list `layer_types`, or from the number in older files."""
    count = config["num_hidden_layers"]
    if types is None:
        every = config["global_attn_every_n_layers"]
        if type(every) is not int or every < 1:
            raise ValueError(
                f"`global_attn_every_n_layers` must be a positive integer, got {every!r}"
            )
        types = _layer_types([index % every == 0 for index in range(count)])
    whole = [each == "full_attention" for each in types] if isinstance(types, list) else []
    every = global_every(whole)
    if every is None or types != _layer_types(whole) or len(types) != count:
        raise ValueError(
            f"`layer_types` must have 'full_attention' in every n-th of {count} layers, beginning "
            f"with the first, and otherwise 'sliding_attention', got {types!r}"
        )
    return every


def _save_global_every(every: int, config: Config) -> list[str]:
    return _layer_types([index % every == 0 for index in range(config["num_hidden_layers"])])


# Their types of rotary embeddings: our scaling, our names for the required keys, and for the
# optional keys. Not supported are "dynamic" and "longrope", which depend on the length of a call.
ROTARY: dict[str, tuple[Callable[..., float | RotaryScaling], dict[str, str], dict[str, str]]] = {
    "default": (lambda: 1.0, {}, {}),
    "linear": (float, {"factor": "x"}, {}),
    "yarn": (
        YarnScaling,
        {"factor": "factor", "original_max_position_embeddings": "original_length"},
        {name: name for name in ("beta_fast", "beta_slow", "attention_factor")},
    ),
    "llama3": (
        Llama3Scaling,
        {
            "factor": "factor",
            "original_max_position_embeddings": "original_length",
            "low_freq_factor": "low_frequency_factor",
            "high_freq_factor": "high_frequency_factor",
        },
        {},
    ),
}


KINDS = {"full_attention", "sliding_attention"}


def _rotary(kind: str, older: str) -> dict[str, Key]:
    """The keys for the wavelength and the scaling of a layer type; `older`: an older key."""

    def read(parameters: Any) -> Config:
        if isinstance(parameters, dict) and not parameters.keys() <= KINDS:
            raise ValueError(
                f"`rope_parameters` must have the keys {' and '.join(sorted(KINDS))}, "
                f"got {parameters!r}"
            )
        own = parameters.get(kind) if isinstance(parameters, dict) else parameters
        own = {} if own is None else own
        name = own.get("rope_type", "default") if isinstance(own, dict) else own
        if not isinstance(name, str) or name not in ROTARY:
            raise ValueError(
                f"`rope_parameters` must have a rope_type among {', '.join(ROTARY)} for {kind}, "
                f"got {own!r}"
            )
        if own.get("truncate", True) is not True:
            raise ValueError(
                f"`rope_parameters` must leave out truncate or have true for {kind}: transformers "
                f"ignores it there and computes as with true, got {own!r}"
            )
        _, needed, optional = ROTARY[name]
        keys = own.keys() - {"rope_type", "rope_theta", "truncate"}
        if not needed.keys() <= keys <= needed.keys() | optional.keys():
            expected = " and ".join(["a rope_theta alone"] if name == "default" else [*needed])
            expected += f" (and may have {', '.join(optional)})" if optional else ""
            raise ValueError(
                f"`rope_parameters` must have {expected} with rope_type {name!r} for {kind}, "
                f"got {own!r}"
            )
        return own

    def load_wavelength(parameters: Any, config: Config) -> float:
        return read(parameters).get("rope_theta", config[older])

    def load_scaling(parameters: Any, config: Config) -> float | RotaryScaling:
        own = read(parameters)
        scaling, needed, optional = ROTARY[own.get("rope_type", "default")]
        fields = {
            ours: own[theirs] for theirs, ours in (needed | optional).items() if theirs in own
        }
        if scaling is float:
            return fields["x"]
        try:
            return scaling(**fields)
        except ValueError as error:
            raise ValueError(f"`rope_parameters` for {kind}: {error}") from error

    def save_wavelength(theta: float, config: Config) -> Config:
        found = {"rope_type": "default", "rope_theta": theta}
        return {**(config.get("rope_parameters") or {}), kind: found}

    def save_scaling(scaling: float | RotaryScaling, config: Config) -> Config:
        parameters = config["rope_parameters"]
        names = (n for n, (made, *_) in ROTARY.items() if type(scaling) is made)
        name = "default" if scaling == 1.0 else next(names, None)
        if name is None:
            raise ValueError(
                "`model` must have a number, a YarnScaling or a Llama3Scaling as `scaling` of its "
                f"rotary embeddings for transformers to load it, got {scaling!r}"
            )
        _, needed, optional = ROTARY[name]
        fields = {"x": scaling} if name == "linear" else getattr(scaling, "get_config", dict)()
        if not fields.get("truncate", True):
            raise ValueError(
                "`model` must have a YarnScaling with truncate=True for transformers to load it, "
                f"got {scaling!r}"
            )
        pairs = ((theirs, fields[ours]) for theirs, ours in (needed | optional).items())
        found = {theirs: value for theirs, value in pairs if value is not None}
        theta = parameters[kind]["rope_theta"]
        return {**parameters, kind: {"rope_type": name, "rope_theta": theta, **found}}

    wavelength = Key("rope_parameters", load=load_wavelength, save=save_wavelength, number=False)
    scaling = Key("rope_parameters", load=load_scaling, save=save_scaling, number=False)
    return {"wavelength": wavelength, "scaling": scaling}


GLOBAL = _rotary("full_attention", "global_rope_theta")
LOCAL = _rotary("sliding_attention", "local_rope_theta")

FORMAT = Format(
    name="modernbert",
    family="modern_bert",
    size={
        **keys(
            num_layers="num_hidden_layers",
            hidden_dim="hidden_size",
            num_heads="num_attention_heads",
            intermediate_dim="intermediate_size",
            vocabulary_size="vocab_size",
            embedding_dropout="embedding_dropout",
            attention_dropout="attention_dropout",
            feed_forward_dropout="mlp_dropout",
            layer_norm_epsilon="norm_eps",
            initializer_range="initializer_range",
        ),
        # The activation of the heads must be the same, see `requires`.
        "activation": Key("hidden_activation", {"gelu": "gelu"}),
        # Their window is the whole width, ours the positions on one side and the position itself.
        "window": Key(
            "local_attention",
            load=lambda value, _: value // 2 + 1,
            save=lambda value, _: max(2 * (value - 1), 1),
        ),
        "global_every": Key(
            "layer_types", load=_load_global_every, save=_save_global_every, number=False
        ),
        **{f"global_{name}": key for name, key in GLOBAL.items()},
        **{f"local_{name}": key for name, key in LOCAL.items()},
    },
    trunk=(
        rule("embeddings.tok_embeddings.weight", "embedding/token/embeddings"),
        rule("embeddings.norm.weight", "embedding/norm/gamma"),
        rule("layers.{i}.attn_norm.weight", "block_{i}/self_attention_norm/gamma", first=1),
        _side_by_side(
            "layers.{i}.attn.Wqkv.weight",
            "self_attention/query",
            "self_attention/key",
            "self_attention/value",
        ),
        rule("layers.{i}.attn.Wo.weight", "block_{i}/self_attention/output/kernel", TRANSPOSED),
        rule("layers.{i}.mlp_norm.weight", "block_{i}/feed_forward_norm/gamma"),
        _side_by_side("layers.{i}.mlp.Wi.weight", "feed_forward/gate", "feed_forward/hidden"),
        rule("layers.{i}.mlp.Wo.weight", "block_{i}/feed_forward/output/kernel", TRANSPOSED),
        rule("final_norm.weight", "encoder_norm/gamma"),
    ),
    pooler=TRANSFORMATION,
    heads={
        "masked_lm": Head(
            (
                rule("head.dense.weight", "masked_lm/transformation/kernel", TRANSPOSED),
                rule("head.norm.weight", "masked_lm/norm/gamma"),
                rule("decoder.bias", "masked_lm/bias"),
            ),
            requires={**TIED, "decoder_bias": True},
        ),
        "classifier": Head(
            dense("classifier", "classifier/output"),
            pooler=TRANSFORMATION,
            dropout=DROPOUT,
            pooling=POOLING,
        ),
        "tagger": Head(
            dense("classifier", "tagger/output"), pooler=TRANSFORMATION, dropout=DROPOUT
        ),
        "span": Head(dense("classifier", "span/output"), pooler=TRANSFORMATION, dropout=DROPOUT),
        "multiple_choice": Head(
            dense("classifier", "multiple_choice/output"),
            pooler=TRANSFORMATION,
            dropout=DROPOUT,
            pooling=POOLING,
        ),
    },
    defaults={
        "layer_types": None,
        "global_attn_every_n_layers": 3,
        "rope_parameters": None,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "classifier_dropout": 0.0,
        "classifier_pooling": "cls",
    },
    requires={
        **REQUIRES,
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "rope_scaling": None,
        "sliding_window": None,  # would replace `local_attention`
    },
    irrelevant=(
        *IRRELEVANT,
        # No layer limits positions, and new weights are truncated at two standard deviations
        *("max_position_embeddings", "initializer_cutoff_factor", "layer_norm_eps"),
        # How transformers computes, and its loss
        *("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad"),
        *("sparse_prediction", "sparse_pred_ignore_index", "cls_token_id"),
    ),
    architectures={
        "ModernBertModel": (),
        "ModernBertForMaskedLM": ("masked_lm",),
        "ModernBertForSequenceClassification": ("classifier",),
        "ModernBertForTokenClassification": ("tagger",),
        "ModernBertForQuestionAnswering": ("span",),
        "ModernBertForMultipleChoice": ("multiple_choice",),
    },
    prefix="model.",
    tied={"decoder.weight": "embeddings.tok_embeddings.weight"},
    token_ids={
        "bos_token_id": 50_281,
        "cls_token_id": 50_281,
        "eos_token_id": 50_282,
        "sep_token_id": 50_282,
        "pad_token_id": 50_283,
    },
)
