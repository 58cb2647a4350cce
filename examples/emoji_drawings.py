"""Renders the drawings that the world of `emoji` is made of, once, for `train_emoji.py`.

They come from two npm packages, whose files `npm pack @iconify-json/noto@1.2.9` and
`npm pack @iconify-json/fluent-emoji-flat@1.2.6` fetch, and are drawn by `pip install resvg-py`.
"""

import io
import json
import tarfile

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dimo_cli.teachers.emoji import world

PACKAGES = {
    "noto": "iconify-json-noto-1.2.9.tgz",
    "fluent": "iconify-json-fluent-emoji-flat-1.2.6.tgz",
}


def drawings_of(packages, cache):
    """Drawings [things, styles, side, side, RGBA] of each size, rendered unless they are cached.

    Behind the things of the world come all others that both sets have: the more drawings a
    tokenizer has seen, the better it keeps those that it has not.
    """
    if not cache.exists():
        sets = [icon_set(packages / PACKAGES[style]) for style in world.STYLES]
        keys = [thing.key for thing in world.things()]
        common = set.intersection(*(set(icons["icons"]) for icons in sets))
        keys += sorted(key for key in common - set(keys) if "skin-tone" not in key)
        drawn = {
            size: np.stack([[render(icons, key, side) for icons in sets] for key in keys])
            for size, side in world.SIZES.items()
        }
        save_file({size: torch.from_numpy(pixels) for size, pixels in drawn.items()}, cache)
    return {size: tensor.numpy() for size, tensor in load_file(cache).items()}


def icon_set(path):
    """The icons of a package, from its tarball."""
    with tarfile.open(path) as tarball:
        return json.load(tarball.extractfile("package/icons.json"))


def render(icons, key, side):
    """One icon as bytes [side, side, RGBA]."""
    import resvg_py

    icon = icons["icons"][key]
    width, height = (icon.get(edge, icons[edge]) for edge in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{side}" height="{side}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
