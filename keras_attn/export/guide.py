"""Writes the README and the batching parameters of a servable."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import urllib.parse
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_attn.export.signature import DEFAULT, Servable
from keras_attn.export.versions import versions

BATCHING = """\
# Read by tensorflow_model_server --enable_batching --batching_parameters_file=...
# Requests that wait at the same time run as one batch, of at most this many rows:
max_batch_size { value: 32 }
# a batch that is not full waits this long for others, in microseconds:
batch_timeout_micros { value: 2000 }
# the number of batches that run at the same time, such as the number of cores:
num_batch_threads { value: 4 }
max_enqueued_batches { value: 100 }
# Keep this false: the server would pad with the first element of a tensor. Strings need no padding;
# with batching, all rows of token_ids must have the same length.
pad_variable_length_inputs: false
"""

_MARK = "was written and checked by keras_attn"
README = """\
# {title}, for TF Serving {server} or later

Version {version} {mark}. Start a server (the tag is the version):

    docker run --rm -p 8500:8500 -p 8501:8501 -e TF_ENABLE_ONEDNN_OPTS=1 \\
      -v "$PWD":{mounted} -e MODEL_NAME={name} tensorflow/serving:{tag} \\
      --enable_batching --batching_parameters_file={mounted}/batching_parameters.txt

with this folder as the current one. TF_ENABLE_ONEDNN_OPTS=1 enables oneDNN, which TensorFlow leaves
off on x86 processors without AVX-512 VNNI or AMX: float32 requests take 0.7 to 0.9 of the time
there, and the answers differ in their last digits.

Send a request over REST,

    curl -s {url}:predict -d {body}

or over gRPC, with the folder `keras_attn/export/client`, which needs neither keras nor tensorflow:

    from client import Client
    Client("grpc://localhost:8500", {model!r})({arguments})

To see whether the server is ready, and which versions it has:

    curl -s {url}

A server loads the highest version as soon as its folder exists. To serve two versions at once, for
example the new one to some clients only, give them labels in the file for --model_config_file:

    model_config_list {{ config {{
      name: {quoted}  base_path: {base_path}  model_platform: "tensorflow"
      model_version_policy {{ specific {{ versions: {older}  versions: {version} }} }}
      version_labels {{ key: "stable"  value: {older} }}
      version_labels {{ key: "canary"  value: {version} }}
    }} }}

and start it with --allow_version_labels_for_unavailable_models. The REST address of a label is
{url}/labels/canary:predict.

Signatures:

```
{signatures}
```
"""

_INLINE = 1000  # characters of a request that the README shows
_log = logging.getLogger(__name__)


def write_guide(servable: Servable, batch: Mapping[str, np.ndarray], server: str) -> None:
    """Write README.md and batching_parameters.txt into the servable's folder.

    The README describes this version. If there is a README.md that this function did not write, it
    is kept and the new file is SERVING.md. An existing file of batching parameters is kept.

    Args:
        servable: the version.
        batch: a request to `serving_default`; the README shows its first row.
        server: the ModelServer version.
    """
    base_dir = servable.path.parent
    inputs, _ = servable.signatures[DEFAULT]
    request = {
        name: _readable((value if inputs[name].shape[0] else value[:1]).tolist())
        for name, value in batch.items()
    }
    # An apostrophe would end the shell's quoted string.
    body = json.dumps({"inputs": request}, ensure_ascii=False).replace("'", "\\u0027")
    arguments = ", ".join(f"{name}={value!r}" for name, value in request.items())
    if len(body) > _INLINE:
        path = Path(servable.path.name, "assets.extra", "request.json")
        _replace(base_dir / path, body)
        body, arguments = f"@{path}", f'**json.load(open("{path}"))["inputs"]'
    older = [number for number in versions(base_dir) if number < servable.version]
    name = base_dir.name
    text = README.format(
        title=name,
        name=shlex.quote(name),
        model=name,
        quoted=json.dumps(name),
        mounted=shlex.quote(f"/models/{name}"),
        base_path=json.dumps(f"/models/{name}"),
        url=shlex.quote(f"http://localhost:8501/v1/models/{urllib.parse.quote(name, safe='')}"),
        version=servable.version,
        mark=_MARK,
        older=max(older, default=max(servable.version - 1, 0)),
        server=server,
        tag=server if server.count(".") > 1 else f"{server}.0",
        body=body if body.startswith("@") else f"'{body}'",
        arguments=arguments,
        signatures=str(servable).partition("\n")[2],
    )
    readme = base_dir / "README.md"
    foreign = readme.exists() and _MARK not in readme.read_text(encoding="utf-8", errors="replace")
    _replace(base_dir / "SERVING.md" if foreign else readme, text)
    batching = base_dir / "batching_parameters.txt"
    if not batching.exists():
        batching.write_text(BATCHING)
    if _needs_onednn_flag():
        _warn_of_onednn()


@functools.cache
def _warn_of_onednn() -> None:
    _log.warning(
        "TensorFlow leaves oneDNN off on this processor, where it would be faster: set "
        "TF_ENABLE_ONEDNN_OPTS=1 in the server's environment"
    )


def _needs_onednn_flag() -> bool:
    """Whether this processor can run oneDNN's kernels, but TensorFlow leaves them off."""
    cpuinfo = Path("/proc/cpuinfo")
    if "TF_ENABLE_ONEDNN_OPTS" in os.environ or not cpuinfo.exists():
        return False
    flags = set(cpuinfo.read_text().split())
    on_by_default = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
    return "avx2" in flags and not flags & on_by_default


def _replace(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees either the old text or the new one."""
    written = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    written.write_text(text, encoding="utf-8")
    written.replace(path)


def _readable(value: Any) -> Any:
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
