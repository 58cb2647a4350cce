"""What a picture of `emoji` shows, by a rule: the nearest of all pictures that the world has.

No network judges here, so rewards can learn from verdicts that the reader of the benchmark had no
part in. A picture that is far from all of them shows nothing.
"""

from itertools import product

import numpy as np
import torch

from dimo_cli.metrics.emoji import right_of
from dimo_cli.teachers.emoji import world

FARTHEST = 0.03  # mean squared error at half the size, in [-1, 1]


def every_look():
    """All pictures that the world has."""
    spots = [("large", "center"), *(("small", place) for place in world.PLACES)]
    pairs = product(range(len(world.things())), world.STYLES, world.BACKGROUNDS, spots)
    return [
        world.Look(thing, style, background, size, place, mirrored)
        for thing, style, background, (size, place) in pairs
        for mirrored in (False, True)
    ]


def halved(pictures):
    """Pictures of bytes [N, 32, 32, 3] at half their size, flat and in [-1, 1]."""
    images = torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


class Templates:
    """Every picture, to be compared with."""

    def __init__(self, drawings):
        self.looks = every_look()
        parts = [
            halved(np.stack([world.compose(look, drawings) for look in self.looks[i : i + 2000]]))
            for i in range(0, len(self.looks), 2000)
        ]
        self.flat = torch.cat(parts)
        self.lengths = self.flat.square().sum(1)

    def nearest(self, pictures):
        """The nearest picture's look of each [N, 32, 32, 3], and the mean squared error."""
        looks, errors = [], []
        for first in range(0, len(pictures), 250):
            part = halved(pictures[first : first + 250])
            far = part.square().sum(1)[:, None] + self.lengths - 2 * part @ self.flat.T
            least = far.min(1)
            looks += [self.looks[row] for row in least.indices.tolist()]
            errors.append(least.values / part.shape[1])
        return looks, torch.cat(errors)

    def verdicts(self, scenes, pictures):
        """Whether each picture [N, 32, 32, 3] shows all that its scene says."""
        looks, errors = self.nearest(pictures)
        rows = zip(scenes, looks, (errors <= FARTHEST).tolist(), strict=True)
        return np.array(
            [is_near and all(right_of(scene, look).values()) for scene, look, is_near in rows]
        )
