"""What stands beside the versions: a README, and a file of batching parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keras_attn.export import isolation
from keras_attn.export.servable import Servable
from keras_attn.export.signature import DEFAULT, Signature

BATCHING = """\
# Read by tensorflow_model_server --enable_batching --batching_parameters_file=...
# Requests that wait at the same time run as one batch, of at most so many rows:
max_batch_size { value: 32 }
# a batch that is not full waits this long for others, in microseconds:
batch_timeout_micros { value: 2000 }
# as many batches run at once as the machine has cores for:
num_batch_threads { value: 4 }
max_enqueued_batches { value: 100 }
# Never true here: the server would pad with the first element of a tensor. Strings need no padding,
# and rows of token_ids must come in one width where batching is on.
pad_variable_length_inputs: false
"""

README = """\
# {name}, for TF Serving {server} or later

Version {version} was written and checked by keras_attn. Start a server (the tag is the version):

    docker run --rm -p 8500:8500 -p 8501:8501 \\
      -v "$PWD:/models/{name}" -e MODEL_NAME={name} tensorflow/serving:{tag} \\
      --enable_batching --batching_parameters_file=/models/{name}/batching_parameters.txt

with this folder as the current one. Ask it over REST,

    curl -s http://localhost:8501/v1/models/{name}:predict -d '{body}'

or over gRPC, with `keras_attn/export/client.py`, a file that needs neither keras nor tensorflow:

    from client import Client
    Client("grpc://localhost:8500", "{name}")({arguments})

Signatures:

```
{signatures}
```
"""


def write_guide(servable: Servable, signatures: Mapping[str, Signature], server: str) -> None:
    """Writes README.md and batching_parameters.txt into the servable's folder.

    The README tells of this version; batching parameters that are there stay as their owner left
    them.
    """
    base_dir = servable.path.parent
    example = {
        name: _readable(isolation.as_array(value)[:1])
        for name, value in signatures[DEFAULT].examples[0].items()
    }
    text = README.format(
        name=base_dir.name,
        version=servable.version,
        server=server,
        tag=server if server.count(".") > 1 else f"{server}.0",
        # The shell ends a quoted text at an apostrophe.
        body=json.dumps({"inputs": example}, ensure_ascii=False).replace("'", "\\u0027"),
        arguments=", ".join(f"{name}={value!r}" for name, value in example.items()),
        signatures=str(servable).partition("\n")[2],
    )
    written = base_dir / f".README.{servable.version}.md"
    written.write_text(text, encoding="utf-8")
    written.replace(base_dir / "README.md")
    batching = base_dir / "batching_parameters.txt"
    if not batching.exists():
        batching.write_text(BATCHING)


def _readable(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
