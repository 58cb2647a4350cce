"""Students of golden-size teachers: a copy of the teacher's backbone each, from a fake Hub."""

import json

from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.students import save_student
from dimo_cli.teachers.registry import load_teacher
from tests import published

PUBLISH = {
    "maskgit": published.publish_maskgit,
    "maskbit": published.publish_maskbit,
    "titok-l32": published.publish_titok,
    "maskgen-l": published.publish_maskgen,
    "meissonic": published.publish_meissonic,
    "amused-256": published.publish_amused,
}
PROMPTS = ("a red fox", "two boats at sea", "an old door")


def golden_student(name, hub, golden, folder):
    """The folder of a student of a family, and its teacher's files on the hub."""
    architecture = json.dumps(PUBLISH[name](hub, golden))
    sets = [f"teacher.architecture={architecture}"]
    if name in ("maskgen-l", "meissonic", "amused-256"):
        prompts = folder.with_suffix(".txt")
        prompts.write_text("\n".join(PROMPTS))
        sets.append(f"condition.prompts={prompts}")
    spec = resolve_spec(DistillSpec, preset=name, sets=sets).spec
    teacher = load_teacher(spec.teacher)
    save_student(folder, spec, teacher, teacher.backbone)
    return folder
