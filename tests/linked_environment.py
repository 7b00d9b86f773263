"""Makes a virtual environment with some of the packages that are installed here, and no others.

    python tests/linked_environment.py FOLDER PACKAGE...

Each package comes with what it requires, as links: a copy of torch would take minutes. Without
extras, as `pip install PACKAGE...` would.
"""

import importlib.metadata
import pathlib
import sys
import venv

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(names):
    """The distributions of these packages and of all that they require."""
    found, open_names = {}, list(names)
    while open_names:
        name = canonicalize_name(open_names.pop())
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            asked = map(Requirement, found[name].requires or ())
            open_names += [
                r.name for r in asked if not r.marker or r.marker.evaluate({"extra": ""})
            ]
    return found.values()


def main(folder, *names):
    """Make the environment."""
    venv.create(folder, with_pip=False)
    (target,) = pathlib.Path(folder).glob("lib/python*/site-packages")
    for distribution in required(names):
        place = pathlib.Path(distribution.locate_file(""))
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (target / top).exists():
                (target / top).symlink_to(place / top)


if __name__ == "__main__":
    main(*sys.argv[1:])
