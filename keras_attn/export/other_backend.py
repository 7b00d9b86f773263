"""A script: publishes under TensorFlow what a process of JAX or torch has saved.

Reads from stdin what to publish, and writes to a file what came of it.
"""

import dataclasses
import pickle
import sys

import keras

from keras_attn.export.publishing import publish


def main() -> None:
    """Publish the pickled request."""
    path, base_dir, parts, options, answer = pickle.load(sys.stdin.buffer)
    try:
        model = keras.models.load_model(path)
        parts = {
            name: part and keras.saving.deserialize_keras_object(part)
            for name, part in parts.items()
        }
    except Exception as error:
        result = f"`model` cannot be loaded under TensorFlow: {type(error).__name__}: {error}"
    else:
        tokenizer = parts.pop("tokenizer", None)
        if tokenizer is not None:
            options["generation"] = dataclasses.replace(options["generation"], tokenizer=tokenizer)
        try:
            result = publish(model, base_dir, **parts, **options)
        except ValueError as error:
            result = str(error)
    answer.write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main()
