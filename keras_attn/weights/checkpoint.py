"""Recognizes and reads the files of a checkpoint directory."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import keras

from keras_attn._typing import Config
from keras_attn.data import read_vocabulary
from keras_attn.data.text.files import read_json
from keras_attn.data.text.tokenizer_settings import reading
from keras_attn.weights.formats import GOOGLE_BERT, KERAS_HUB, TRANSFORMERS, Format
from keras_attn.weights.readers import (
    INDEX,
    Source,
    read_safetensors,
    read_tensorflow,
    read_weights,
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, before a model is built from it.

    Args:
        source: its arrays.
        format: its format.
        config: its configuration.
        vocabulary: the tokens in the order of their ids, or None if no file has them.
        lowercase: whether the tokenizer lower-cases text, or None if no file says so.
    """

    source: Source
    format: Format
    config: Config
    vocabulary: list[str] | None = None
    lowercase: bool | None = None

    @property
    def read_config(self) -> Config:
        """The configuration with the format's names for keys, and its defaults."""
        aliases = self.format.aliases
        own = {aliases.get(key, key): value for key, value in self.config.items()}
        return {**self.format.defaults, **own}

    @property
    def architecture(self) -> str | None:
        """The model class that it was saved from, or None if the configuration does not say so."""
        names = self.config.get("architectures") or ()
        return names[0] if isinstance(names, list) else None


def open_checkpoint(directory: Path) -> Checkpoint:
    """Recognize a checkpoint by its files.

    Raises:
        ValueError: there is no directory, it has no checkpoint or several, the checkpoint is a
            pickle or has an unknown architecture, or a file cannot be read.
    """
    if not directory.is_dir():
        raise ValueError(f"`source` must be a directory or a keras-hub backbone, got {directory}")
    if (directory / "model.safetensors").exists() or (directory / INDEX).exists():
        return _transformers(directory)
    if list(directory.glob("*.index")):
        return _google(directory)
    if (directory / "model.weights.h5").exists():
        return _preset(directory)
    pickles = sorted(file.name for file in directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{directory / pickles[0]} is a pickle and is not opened, because this can run any "
            "code: let transformers save the model again, as model.safetensors"
        )
    found = ", ".join(sorted(file.name for file in directory.iterdir())) or "nothing"
    raise ValueError(
        f"{directory} must hold model.safetensors, a TensorFlow checkpoint (*.index) or a "
        f"keras-hub preset, got {found}"
    )


def open_backbone(backbone: keras.Model) -> Checkpoint:
    """The content of a keras-hub BertBackbone."""
    if type(backbone).__name__ != "BertBackbone":
        raise ValueError(
            f"`source` must be a keras-hub BertBackbone, got {type(backbone).__name__}"
        )
    source = read_weights(f"the backbone {backbone.name!r}", backbone.weights)
    return Checkpoint(source, KERAS_HUB, backbone.get_config())


def _transformers(directory: Path) -> Checkpoint:
    config = read_json(directory / "config.json")
    kind = config.get("model_type")
    if kind not in tuple(TRANSFORMERS):
        raise ValueError(
            f"{directory / 'config.json'} must have a model_type among {', '.join(TRANSFORMERS)}, "
            f"got {kind!r}"
        )
    source = read_safetensors(directory)
    return Checkpoint(source, TRANSFORMERS[kind], config, *_vocabulary(directory))


def _google(directory: Path) -> Checkpoint:
    config = read_json(directory / "bert_config.json")
    prefixes = sorted(directory.glob("*.index"))
    if len(prefixes) > 1:
        raise ValueError(
            f"{directory} must hold one TensorFlow checkpoint, "
            f"got {', '.join(prefix.stem for prefix in prefixes)}"
        )
    source = read_tensorflow(prefixes[0].with_suffix(""))
    return Checkpoint(source, GOOGLE_BERT, config, *_vocabulary(directory))


def _preset(directory: Path) -> Checkpoint:
    import keras_hub as hub

    checkpoint = open_backbone(hub.models.Backbone.from_preset(str(directory)))
    file, lowercase = directory / "assets" / "tokenizer" / "vocabulary.txt", None
    if (directory / "tokenizer.json").exists():
        tokenizer = _object(read_json(directory / "tokenizer.json"), "config", directory)
        lowercase = tokenizer.get("lowercase")
    vocabulary = read_vocabulary(file) if file.exists() else None
    return dataclasses.replace(checkpoint, vocabulary=vocabulary, lowercase=lowercase)


def _vocabulary(directory: Path) -> tuple[list[str] | None, bool | None]:
    """The tokens, from the files that have them, and whether text is lower-cased."""
    files = {
        name: read_json(directory / name) if (directory / name).exists() else {}
        for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json", "added_tokens.json")
    }
    settings, tokenizer = files["tokenizer_config.json"], files["tokenizer.json"]
    lowercase = settings.get("do_lower_case")
    if lowercase is None:
        lowercase = _object(tokenizer, "normalizer", directory).get("lowercase")
    if not isinstance(lowercase, bool | None):
        raise ValueError(f"{directory}: do_lower_case must be true or false, got {lowercase!r}")

    ids = files["vocab.json"] or _object(tokenizer, "model", directory).get("vocab")
    if (directory / "vocab.txt").exists():
        tokens = dict(enumerate(read_vocabulary(directory / "vocab.txt")))
    elif isinstance(ids, dict):
        tokens = _by_id(ids.items(), directory)
    else:  # none, or a list of scored tokens
        return None, lowercase
    with reading(directory):
        added = _by_id(
            [
                *files["added_tokens.json"].items(),
                *(
                    (token["content"], int(index) if index.isdecimal() else index)
                    for index, token in _object(settings, "added_tokens_decoder", directory).items()
                ),
                *((token["content"], token["id"]) for token in tokenizer.get("added_tokens") or ()),
            ],
            directory,
        )
    tokens |= added
    gaps = [index for index in range(len(tokens)) if index not in tokens]
    if gaps:
        raise ValueError(
            f"{directory}: the {len(tokens)} tokens must have the ids 0 to {len(tokens) - 1}, "
            f"got none with id {gaps[0]}"
        )
    return [tokens[index] for index in range(len(tokens))], lowercase


def _by_id(tokens: Iterable[tuple[str, object]], directory: Path) -> dict[int, str]:
    """Tokens by their ids."""
    by_id: dict[int, str] = {}
    for token, index in tokens:
        if type(index) is not int or by_id.setdefault(index, token) != token:
            raise ValueError(
                f"{directory}: each token must have a different id, got {index!r} for {token!r}"
            )
    return by_id


def _object(content: dict, key: str, directory: Path) -> dict:
    """The object under a key; empty if the key is missing or null."""
    value = content.get(key)
    if not isinstance(value, dict | None):
        raise ValueError(f"{directory}: {key} must be an object, got {value!r}")
    return value or {}


def write_json(file: Path, content: dict | list) -> None:
    """Write an object or a list as JSON, in the style of transformers."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
