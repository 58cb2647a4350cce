"""Images become the tokens of published teachers, and the discriminator looks at them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.data.images import open_source
from dimo_cli.data.shards import TokenDataset
from dimo_cli.engine.gan import Discriminator, augmentation_mask, masked_embeds
from dimo_cli.engine.relax import relaxed
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.registry import load_teacher
from tests.helpers import published
from tests.helpers.fake_hub import COMMIT

FAMILIES = {
    "maskgit": published.publish_maskgit,
    "maskbit": published.publish_maskbit,
    "maskgen-l": published.publish_maskgen,
    "amused-256": published.publish_amused,
    "muddit": published.publish_muddit,
    "lumina-dimoo": published.publish_dimoo,
    "halton-tiny": published.publish_halton,
    "showo": published.publish_showo,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_published_teachers_encode_real_images_and_judge_them(
    dimo, fake_hub, golden, tmp_path, generator, name
):
    architecture = FAMILIES[name](fake_hub, golden)
    noise = np.random.default_rng(0).integers(0, 256, (3, 90, 70, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        folder = tmp_path / "photos" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"noise {index}")
    described = f"teacher.architecture={json.dumps(architecture)}"
    arguments = ("--preset", name, "--out", "tokens", "--set", described, "--json")
    result = dimo("data", "encode", "photos", *arguments)
    assert result.exit_code == 0, result.stderr
    loaded = len(fake_hub.downloads())
    assert json.loads(result.stdout)["index"]["recipe"]["revision"] in (COMMIT, "main")

    teacher = load_teacher(TeacherSource(name=name, architecture=architecture))
    assert len(fake_hub.downloads()) > loaded, "encoding needs no backbone"
    dataset = TokenDataset.open(tmp_path / "tokens", teacher)
    tokens, wanted = dataset.rows(torch.arange(3))
    source = open_source(str(tmp_path / "photos"), teacher.takes_prompts)
    images = torch.stack([source.image(index, teacher.space.image_size) for index in range(3)])
    assert torch.equal(tokens, teacher.tokenizer.encode(images))
    assert len(wanted) == 3

    cond = teacher.conditioner.blank(3)
    discriminator = Discriminator(teacher, heads=2, width=8)
    mask = augmentation_mask(teacher.space, 3, 0.0, 0.9, generator)
    shape = (*tokens.shape, teacher.space.vocab)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    weights = relaxed("soft", logits, generator)
    real, fake = (
        discriminator(masked_embeds(teacher.backbone, teacher.space, seen, mask), cond)
        for seen in (tokens, weights)
    )
    assert real.shape == fake.shape == (3,)
    fake.sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~mask].abs().sum(-1) > 0).all()
    assert (logits.grad[mask] == 0).all()
