"""Make the packaged model's hub-layout folder; see :mod:`medvista_jax.models.medvista_smol.packaged`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medvista_jax.models.medvista_smol.packaged import packaged_folder, write_folder
from medvista_jax.runtime.wheels import MissingSource


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m medvista_jax.models.medvista_smol", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="new folder; without it the one in the cache is made")
    folder = parser.parse_args().out
    try:
        if folder is None:
            folder = packaged_folder()
        else:
            write_folder(folder)
    except (MissingSource, OSError) as error:
        print(f"medvista_smol: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
