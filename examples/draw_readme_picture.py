"""Draw docs/digits.png: the embedded teacher at 1 and 16 steps above the student at 1 step.

python examples/draw_readme_picture.py docs/digits.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dimo_cli.files.png import enlarge, grid
from dimo_cli.sampling.samplers import sample_images
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.folder import BUILTIN, load_student
from dimo_cli.students.target import Target

ROWS = {
    "teacher, 1 step": SamplerSpec(teacher=True, steps=1, seed=1),
    "teacher, 16 steps": SamplerSpec(teacher=True, steps=16, seed=1),
    "student, 1 step": SamplerSpec(seed=1),
}
student = load_student(BUILTIN["digits"])
target = Target(student.teacher, student)
bands = []
for title, sampler in ROWS.items():
    pixels, _ = sample_images(target, [label % 10 for label in range(20)], sampler)
    canvas = grid(enlarge(pixels, 40), columns=20, gap=4)
    banner = Image.new("RGB", (canvas.shape[1], 22), (24, 24, 24))
    ImageDraw.Draw(banner).text((6, 4), title, fill=(220, 220, 220), font_size=13)
    bands += [np.asarray(banner), canvas]
Image.fromarray(np.concatenate(bands)).save(Path(sys.argv[1]))
