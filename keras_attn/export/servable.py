"""What `publish` wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a signature; None stands for any size."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Servable:
    """One version of a servable on disk.

    `signatures` maps a signature's name to `(inputs, outputs)`, each a dict of `Tensor`.
    """

    path: Path
    version: int
    signatures: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]

    def __str__(self) -> str:
        lines = [str(self.path)]
        for name, (inputs, outputs) in self.signatures.items():
            lines.append(f"  {name}")
            for arrow, tensors in (("<-", inputs), ("->", outputs)):
                for key, tensor in tensors.items():
                    shape = ", ".join("?" if size is None else str(size) for size in tensor.shape)
                    lines.append(f"    {arrow} {key}: {tensor.dtype} [{shape}]")
        return "\n".join(lines)
