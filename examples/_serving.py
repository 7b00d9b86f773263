"""What the serving examples share: options, and asking what they have published."""

import argparse
import os
import pathlib
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _shared

from keras_attn import export
from keras_attn.export.client import Client

EXAMPLES = pathlib.Path(__file__).parent


def options(text: str, name: str) -> argparse.ArgumentParser:
    """The options that both have; `text` is the example's docstring."""
    parser = _shared.options(text, name, overwrite=False)
    parser.add_argument(
        "--server",
        help="ask this TF Serving, http://HOST:8501 or grpc://HOST:8500, in place of publishing",
    )
    return parser


def write_config(output: pathlib.Path, names: list[str]) -> None:
    """A file with which one server loads all these models, and the line that starts it."""
    models = "".join(
        f'  config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }}\n'
        for name in names
    )
    (output / "models.config").write_text(f"model_config_list {{\n{models}}}\n")
    print(
        "\nto serve them:\n"
        f'  docker run --rm -p 8500:8500 -p 8501:8501 -v "{output.resolve()}:/models" \\\n'
        "    tensorflow/serving:2.20.0 --model_config_file=/models/models.config\n"
        "and to ask that server: --server http://localhost:8501"
    )


def ask(base_dir: pathlib.Path, server: str | None, **inputs: Any) -> dict[str, list]:
    """The answer of the server, or of the newest version in a process without keras."""
    if server:
        client = Client(server, base_dir.name)
        try:
            return client(**inputs)
        finally:
            client.close()
    newest = max(int(path.name) for path in base_dir.iterdir() if path.name.isdecimal())
    answers = export.ask(base_dir / str(newest), **inputs)
    return {name: array.tolist() for name, array in answers.items()}
