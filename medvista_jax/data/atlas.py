"""The packaged atlas: random access to verifiable questions about real images.

    atlas = Atlas("train")
    item = atlas.item("implant_shape", 123)

``python -m medvista_jax.data.atlas --sheet out.png`` draws a contact sheet of every family.
"""

from __future__ import annotations

import argparse
import functools
import time
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from medvista_jax.data.canvas import CANVAS, THUMBNAIL
from medvista_jax.data.concepts import CONCEPTS
from medvista_jax.data.families import FAMILIES, Family
from medvista_jax.data.item import AtlasItem
from medvista_jax.data.pool import Pool
from medvista_jax.data.splits import SPLITS

__all__ = ["CANVAS", "CONCEPTS", "FAMILIES", "THUMBNAIL", "Atlas", "AtlasItem", "Family"]


@functools.cache
def _pool(split: str) -> Pool:
    """Pools are read-only tables of one split; every Atlas of the split shares one."""
    return Pool(split)


class Atlas:
    """Questions of one split. ``item`` is a pure function of (seed, split, family, index), in any order and
    process.

    Args:
      split: "train", "validation" or "test".
      families: names to offer, all by default, in the order of ``FAMILIES``.
      seed: another seed gives other items from the same slices and regions.

    Raises:
      ValueError: unknown split or family.
      sources.MissingSource: a package with images is missing; the message names it and the remedy.
    """

    def __init__(self, split: str, families: Sequence[str] | None = None, seed: int = 0):
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        chosen = tuple(FAMILIES) if families is None else tuple(families)
        unknown = [name for name in chosen if name not in FAMILIES]
        if unknown or not chosen:
            raise ValueError(f"unknown families {unknown}; choose from {', '.join(FAMILIES)}")
        self.split = split
        self.families = chosen
        self.seed = seed
        self.pool = _pool(split)

    def family_index(self, name: str) -> int:
        """Position of a family among ``families``."""
        try:
            return self.families.index(name)
        except ValueError:
            raise ValueError(f"family {name!r} is not among {', '.join(self.families)}") from None

    def generator(self, family: str, index: int) -> np.random.Generator:
        """All the randomness of one item; depends on seed, split, family and index only."""
        self.family_index(family)
        if not 0 <= index < 2**32:
            raise ValueError(f"index {index} is outside 0 … 2**32 - 1")
        entropy = (self.seed, SPLITS.index(self.split), zlib.crc32(family.encode()), index)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def item(self, family: str, index: int) -> AtlasItem:
        """The ``index``-th question of a family; index from 0 to 2**32 - 1."""
        rng = self.generator(family, index)
        kind = FAMILIES[family]
        draft = kind.draw(self.pool, rng)
        return AtlasItem(
            id=f"{self.split}/{family}/{index:06d}",
            family=family,
            needs=kind.needs,
            modality=draft.modality,
            source=draft.source,
            pixels=np.ascontiguousarray(draft.pixels, np.uint16)[:, :, None],
            window=draft.window,
            question=draft.question,
            options=draft.options,
            answer=draft.answer,
            targets=draft.targets,
            good_window=draft.good_window,
            concepts=np.ascontiguousarray(draft.concepts),
        )

    def plan(self, count: int, weights: Mapping[str, float] | None = None, start: int = 0) -> list[tuple[str, int]]:
        """``count`` pairs (family, index) in fixed proportions, spread evenly, without chance.

        Args:
          count: how many pairs.
          weights: relative share of families, others none; equal shares by default.
          start: first index of every family; a second plan that starts where the first ended repeats nothing.

        Returns:
          Pairs such that each prefix is as close to the proportions as whole numbers allow.
        """
        shares = dict.fromkeys(self.families, 1.0) if weights is None else dict(weights)
        for name in shares:
            self.family_index(name)
        shares = {name: share for name, share in shares.items() if share > 0}
        if not shares:
            raise ValueError("all weights are zero")
        total = sum(shares.values())
        given = dict.fromkeys(shares, 0)
        pairs = []
        for position in range(1, count + 1):
            name = max(shares, key=lambda key: shares[key] / total * position - given[key])
            pairs.append((name, start + given[name]))
            given[name] += 1
        return pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: contact sheet, timings and notices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", help="write a contact sheet (PNG) of every family to this file")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--rows", type=int, default=4, help="items of each family on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notices", action="store_true", help="print source and licence of every image")
    parser.add_argument("--timing", type=int, default=0, metavar="N", help="time N items of each family")
    options = parser.parse_args(arguments)
    if options.notices:
        from medvista_jax.data.sources import notices

        for notice in notices():
            print(f"{notice.source:17s} {notice.package:13s} {notice.content}. Licence: {notice.licence}")
    if not (options.sheet or options.timing):
        if not options.notices:
            parser.print_help()
        return
    started = time.perf_counter()
    atlas = Atlas(options.split, seed=options.seed)
    print(f"atlas ready in {time.perf_counter() - started:.2f} s")
    if options.sheet:
        from medvista_jax.data.sheet import draw_sheet

        draw_sheet(atlas, options.rows).save(options.sheet)
        print(f"wrote {options.sheet}")
    for name in atlas.families if options.timing else ():
        spent = []
        for index in range(options.timing):
            started = time.perf_counter()
            atlas.item(name, index)
            spent.append(time.perf_counter() - started)
        print(f"{name:20s} median {1e3 * float(np.median(spent)):.2f} ms, slowest {1e3 * max(spent):.1f} ms")


if __name__ == "__main__":
    main()
