"""Loads a model from a checkpoint directory."""

import dataclasses
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_attn import data
from keras_attn._checks import check_flag, to_path
from keras_attn._typing import Config, DType
from keras_attn.data.text.files import read_json
from keras_attn.data.text.tokenizer_settings import check_word_piece
from keras_attn.models import bert, bert_tasks, gpt, modern_bert, parts
from keras_attn.models.sizes import BertSize, GptSize, ModernBertSize
from keras_attn.ops.masks import Window
from keras_attn.weights.checkpoint import Checkpoint, open_backbone, open_checkpoint
from keras_attn.weights.configuration import read_head_options, read_size
from keras_attn.weights.matching import has_pooler, match, saved_heads
from keras_attn.weights.sentence_transformers import checkpoint_folder, embedder_options

TASKS: dict[str, Callable[..., keras.Model]] = {
    "classifier": bert_tasks.classifier,
    "regressor": bert_tasks.regressor,
    "tagger": bert_tasks.tagger,
    "span": bert_tasks.span,
    "multiple_choice": bert_tasks.multiple_choice,
    "embedder": bert_tasks.embedder,
    "masked_lm": bert_tasks.masked_lm,
    "next_sentence": bert_tasks.next_sentence,
    "pretraining": bert.with_pretraining_heads,
}
# The heads of the tasks that are not named like their head.
HEADS: dict[str, tuple[str, ...]] = {
    "encoder": (),
    "regressor": ("classifier",),
    "pretraining": ("masked_lm", "next_sentence"),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """What `load` builds from a checkpoint of a family.

    Args:
        size: the record of its sizes.
        encoder: the function that builds its encoder.
        decoder: the function that builds its language model, which `load` gives without a task.
        takes_window: whether they take a `window`; if not, the size has one.
        lacks: the tasks that the family does not have.
    """

    size: type
    encoder: Callable[..., keras.Model]
    decoder: Callable[..., keras.Model] | None = None
    takes_window: bool = True
    lacks: tuple[str, ...] = ()


FAMILIES = {
    "bert": Family(BertSize, bert.encoder),
    # These two have no pooler, and a position of a GPT sees no later one.
    "modern_bert": Family(
        ModernBertSize,
        modern_bert.encoder,
        takes_window=False,
        lacks=("next_sentence", "pretraining"),
    ),
    "gpt": Family(
        GptSize, gpt.encoder, gpt.decoder, lacks=("masked_lm", "next_sentence", "pretraining")
    ),
}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The result of `load`.

    Args:
        model: the encoder, the language model, or the model of the task.
        vocabulary: the tokens in the order of their ids, or None if no file has them. The token
            matrix may have more rows.
        lowercase: whether the tokenizer lower-cases text, or None if no file says so.
        skipped: names in the checkpoint that a rule leaves out: heads of other tasks, an output
            that is not tied to the token matrix, optimizer slots, constants.
        initialized: weights of the model that the checkpoint lacks and that are newly initialized.
        config: the checkpoint's configuration; `save` keeps what it says about classes and ids.
        unknown: keys of the configuration that this package does not know. transformers does not
            read them either, but code of the checkpoint's author may: `load` warns.
        directory: the directory of the checkpoint, or None if it was an object.
    """

    model: keras.Model
    vocabulary: list[str] | None
    lowercase: bool | None
    skipped: tuple[str, ...]
    initialized: tuple[str, ...]
    config: Config
    unknown: tuple[str, ...]
    directory: Path | None = None

    @functools.cached_property
    def tokenizer(self) -> keras.layers.Layer:
        """The tokenizer of the checkpoint, read when it is first used.

        It is a `data.BertTokenizer`, or what `data.read_tokenizer` returns for the directory.

        Raises:
            ValueError: the checkpoint has no tokenizer files, or its tokenizer is not supported;
                see `data.BertTokenizer` and `data.read_tokenizer`.
        """
        directory = self.directory
        if directory is None:
            raise ValueError("a checkpoint that is an object has no tokenizer files")
        file = directory / "tokenizer.json"
        model = (read_json(file).get("model") or {}) if file.exists() else {}
        byte_pairs = model.get("type") == "BPE" or "merges" in model
        if byte_pairs or self.vocabulary is None or (directory / "vocab.json").exists():
            return data.read_tokenizer(directory)
        lowercase = self.lowercase is not False
        check_word_piece(directory, lowercase)
        return data.BertTokenizer(self.vocabulary, lowercase)

    def is_in(self, directory: Path) -> bool:
        """Whether it was loaded from this directory."""
        own = self.directory
        return own is not None and directory.exists() and directory.samefile(own)

    @property
    def fresh(self) -> tuple[str, ...]:
        """The former name of `initialized`."""
        warnings.warn("`fresh` is now `initialized`", DeprecationWarning, stacklevel=2)
        return self.initialized


def load(
    source: str | os.PathLike | keras.Model,
    task: str | None = None,
    *,
    hidden_states: bool = False,
    window: Window = None,
    kernel: str = "auto",
    dtype: DType = None,
    **head_options: Any,
) -> Loaded:
    """Load a checkpoint of BERT, (XLM-)RoBERTa, DistilBERT, ModernBERT or GPT-2.

    The format is recognized by the files: a directory of transformers with safetensors and
    model_type bert, distilbert, roberta, xlm-roberta, modernbert or gpt2; a directory of
    sentence-transformers with one of these; Google's TensorFlow 1 checkpoint with bert_config.json;
    a keras-hub BertBackbone, as an object or a preset directory. Nothing is downloaded, and no
    pickle is opened.

    Outputs equal those of transformers, except that the pooling "cls" of a ModernBERT takes the
    first token, with padding on the left too; there it takes the first column.

    Args:
        source: the directory, or the keras-hub backbone.
        task: "encoder" gives the encoder, without pooled_output if the checkpoint has no pooler.
            "classifier", "regressor", "tagger", "span", "multiple_choice", "embedder", "masked_lm"
            (not of GPT-2), "next_sentence" and "pretraining" (both not of GPT-2 and ModernBERT)
            give the model of this task; its head is loaded if the checkpoint has it, and newly
            initialized otherwise. None gives the encoder, but of GPT-2 the language model.
        hidden_states: as in `keras_attn.models.bert.encoder`; a language model has none.
        window: as there; must be None for ModernBERT, whose configuration has one.
        kernel: as there.
        dtype: as there.
        **head_options: arguments of the function of the task in `keras_attn.models.bert_tasks`,
            such as `num_classes`, which defaults to that of the checkpoint's head. `dropout`, the
            `pooling` of ModernBERT, and `pooling` and `normalize` of sentence-transformers default
            to the values in the configuration; GPT-2's classifier has no dropout there.

    Returns:
        a `Loaded`: the model, the vocabulary, the tokenizer, and what was skipped or is new.

    Raises:
        ValueError: the task is unknown, or not one of this model; there are head options without a
            head; files are missing, truncated, a pickle or of an unknown architecture; the
            configuration needs a layer that this package does not have; names are not used, weights
            are not set, shapes or types are wrong, numbers are not finite; there are more tokens
            than rows of the token matrix.
    """
    _check_task(task)
    hidden_states = check_flag("hidden_states", hidden_states)
    _check_head_options(task, head_options)
    directory = (
        None if isinstance(source, keras.Model) else checkpoint_folder(to_path("source", source))
    )
    checkpoint = open_backbone(source) if directory is None else open_checkpoint(directory)
    format = checkpoint.format
    _check_vocabulary(checkpoint)
    family = FAMILIES[format.family]
    _check_task(task, family.lacks, f" for {format.name}")
    options: Config = {"kernel": kernel, "dtype": dtype}
    if family.takes_window:
        options["window"] = window
    elif window is not None:
        raise ValueError(
            f"`window` must be None for {format.name}, whose configuration has one, got {window!r}"
        )
    name = task or ("language_model" if family.decoder else "encoder")
    heads = HEADS.get(name, (name,))
    own = [format.heads[name] for name in heads if name in format.heads]
    head_options = {**read_head_options(checkpoint, own), **head_options}
    if task == "embedder" and directory is not None:
        head_options = {**embedder_options(Path(source), checkpoint), **head_options}
    size: Any = read_size(checkpoint, family.size)
    if any(head.pooler_dropout for head in own):
        size = dataclasses.replace(size, pooler_dropout=head_options["dropout"])
    if family.decoder and task is None:
        if hidden_states:
            raise ValueError(
                f"`hidden_states` must be False for the language model of {format.name}, got True; "
                "the task 'encoder' has them"
            )
        model = family.decoder(size, **options)
    else:
        model = family.encoder(size, hidden_states=hidden_states, **options)
        model = _with_task(checkpoint, model, task, head_options)
    matched = match(
        checkpoint.source,
        format,
        model.weights,
        checkpoint.read_config,
        num_layers=size.num_layers,
        heads=[
            head
            for head in saved_heads(checkpoint.source, format, checkpoint.architecture)
            if head in heads
        ],
    )
    matched.assign()
    unknown = format.unknown(checkpoint.read_config)
    if unknown:
        warnings.warn(
            f"{checkpoint.source.title}: the configuration has keys that neither this package nor "
            f"transformers reads, {', '.join(unknown)}; if other code of the checkpoint's author "
            "reads them, the outputs differ",
            stacklevel=2,
        )
    return Loaded(
        model,
        checkpoint.vocabulary,
        checkpoint.lowercase,
        matched.skipped,
        matched.initialized,
        checkpoint.config,
        unknown,
        directory,
    )


def _check_task(task: str | None, lacking: Sequence[str] = (), where: str = "") -> None:
    known = [name for name in (*TASKS, "encoder") if name not in lacking]
    if task is not None and (not isinstance(task, str) or task not in known):
        raise ValueError(f"`task` must be None or one of {', '.join(known)}{where}, got {task!r}")


def _check_head_options(task: str | None, options: Config) -> None:
    if task not in TASKS:
        if options:
            raise ValueError(
                f"`head_options` must be empty without a head, got {', '.join(options)}"
            )
        return
    _, *known = inspect.signature(TASKS[task]).parameters  # the first is the encoder
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(
            f"`head_options` of {task} must be among {', '.join(known)}, got {', '.join(unknown)}"
        )


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    trunk = checkpoint.format.trunk
    matrix = next(rule.source for rule in trunk if parts.is_token_matrix(rule.targets[0]))
    shapes = {checkpoint.format.rename(n): s for n, s in checkpoint.source.shapes.items()}
    tokens, shape = checkpoint.vocabulary or (), shapes.get(matrix, ())
    # There may be more rows than tokens, for a multiple of 8 or 64.
    if shape and shape[0] < len(tokens):
        raise ValueError(
            f"{checkpoint.source.title}: {matrix} must have a row for each of the "
            f"{len(tokens)} tokens of the vocabulary, got {shape[0]}"
        )


def _with_task(
    checkpoint: Checkpoint, encoder: keras.Model, task: str | None, options: dict
) -> keras.Model:
    if task in TASKS:
        return TASKS[task](encoder, **_with_num_classes(checkpoint, task, options))
    if has_pooler(checkpoint.source, checkpoint.format):
        return encoder
    outputs = {key: value for key, value in encoder.output.items() if key != "pooled_output"}
    return keras.Model(encoder.input, outputs, name=encoder.name)


def _with_num_classes(checkpoint: Checkpoint, task: str, options: dict) -> dict:
    """The options, with the number of classes of the checkpoint's head."""
    if task not in ("classifier", "tagger"):
        return options
    source, format, count = checkpoint.source, checkpoint.format, options.get("num_classes")
    if task not in saved_heads(source, format, checkpoint.architecture):
        if count is None:
            raise ValueError(
                f"{source.title} has no {task} head: `num_classes` must be given for a new one"
            )
        return options
    target = f"{task}/output/kernel"
    kernel = next(rule.source for rule in format.heads[task].rules if target in rule.targets)
    shapes = {format.rename(name): shape for name, shape in source.shapes.items()}
    saved = shapes[kernel][0]  # stored as [output, input]
    if count not in (None, saved):
        raise ValueError(
            f"{source.title}: `num_classes` must be {saved} for its {task} head, got {count!r}; "
            f"for a new head, load 'encoder' and call keras_attn.models.bert_tasks.{task}"
        )
    return {**options, "num_classes": saved}
