"""Draw from a file of `dimo export` without torch: numpy and onnxruntime, Pillow for the picture.

    dimo export digits --out digits.onnx
    python examples/draw_from_onnx.py digits.onnx seven --seed 3 --out seven.png

A text student reads a prompt instead, and takes the package `tokenizers` for that.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("file")
parser.add_argument("wanted", help="a class by name or number, or a prompt")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("-n", type=int, default=4, help="pictures, of this seed and the next ones")
parser.add_argument("--out", default="drawn.png")
asked = parser.parse_args()

session = onnxruntime.InferenceSession(asked.file)
texts = session.get_modelmeta().custom_metadata_map
about = json.loads(texts["dimo.json"])
if "tokenizer.json" in texts:
    from tokenizers import Tokenizer

    name, value = "tokens", Tokenizer.from_str(texts["tokenizer.json"]).encode(asked.wanted).ids
else:
    classes = about["classes"]
    known = {entry: number for number, entry in enumerate(classes)}
    name, value = "label", known[asked.wanted] if asked.wanted in known else int(asked.wanted)

seeds = np.arange(asked.seed, asked.seed + asked.n)
(pictures,) = session.run(None, {"seed": seeds, name: np.array([value] * asked.n)})
pixels = (pictures * 255).round().astype(np.uint8)  # [n, 3, H, W]
row = np.concatenate(list(pixels.transpose(0, 2, 3, 1)), axis=1)
Image.fromarray(row).save(asked.out)
print(f"{asked.out}: {asked.n} pictures of {asked.wanted}, seeds {seeds[0]} to {seeds[-1]}")
