"""What the serving examples share: the command line, the server's configuration, a request."""

import argparse
import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

import _runs

from keras_attn import export
from keras_attn.export.client import Client


def serving_options(text: str, output: str, steps: int) -> argparse.ArgumentParser:
    """The command line of a serving example; `steps` is for training a model that is missing."""
    parser = _runs.options(text, output, overwrite=False)
    parser.add_argument(
        "--server",
        help="send requests to this TF Serving, http://HOST:8501 or grpc://HOST:8500, instead of "
        "publishing",
    )
    parser.add_argument(
        "--steps", type=int, default=steps, help="training steps of a model that is missing"
    )
    return parser


def write_config(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Write a file with which one server loads all these models; print how to start it."""
    models = "".join(
        f'  config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }}\n'
        for name in names
    )
    (folder / "models.config").write_text(f"model_config_list {{\n{models}}}\n")
    print(
        "\nto serve them:\n"
        f'  docker run --rm -p 8500:8500 -p 8501:8501 -v "{folder.resolve()}:/models" \\\n'
        "    tensorflow/serving:2.20.0 --model_config_file=/models/models.config\n"
        "and to send requests to that server: --server http://localhost:8501"
    )


def ask(base_dir: pathlib.Path, server: str | None, **inputs: Any) -> dict[str, list]:
    """The answer of the server, or of the newest version run in a process without keras."""
    if server:
        with contextlib.closing(Client(server, base_dir.name)) as client:
            return client(**inputs)
    newest = max(int(path.name) for path in base_dir.iterdir() if path.name.isdecimal())
    answers = export.ask(base_dir / str(newest), **inputs)
    return {name: array.tolist() for name, array in answers.items()}
