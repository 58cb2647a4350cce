"""A student as a `DiffusionPipeline`: the calls that users of diffusers know, in one step or a few.

    from dimo_cli import OneStepPipeline

    pipeline = OneStepPipeline.from_pretrained("user/name")
    pipeline("a red fox", generator=torch.Generator().manual_seed(3)).images[0].save("fox.png")

The same generator on the same device makes, byte for byte, the images of `dimo sample --seed 3` for
the same prompts or classes in the same order: on a CPU, or with `--precision fp32`. In dimo itself,
`Run.student` alone is one.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.files.writing import write_whole_text
from dimo_cli.hub.access import Access, hub_access
from dimo_cli.sampling.interpolating import picture_tokens
from dimo_cli.sampling.left_out import tell_left_out
from dimo_cli.sampling.samplers import condition, images_at_once, to_pixels
from dimo_cli.specs.flags import spec_from_flags
from dimo_cli.specs.manifest import MANIFEST
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.folder import BUILTIN, write_network
from dimo_cli.students.published import hub_id, open_student
from dimo_cli.students.student import LoadOptions, Student, untrained_steps
from dimo_cli.teachers.classes import find_class
from dimo_cli.teachers.compiling import compile_blocks
from dimo_cli.teachers.decoding import Precision, compile_decoder

if TYPE_CHECKING:
    from dimo_cli.teachers.protocol import Cond

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOADING = ("dtype", "revision", "cache_dir", "local_files_only", "token", "local_dir")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
warn = partial(warnings.warn, stacklevel=4)  # of whoever calls a pipeline
Numpy = np.ndarray[Any, Any] | np.generic
Callback = Callable[["OneStepPipeline", int, int, dict[str, Any]], Mapping[str, Any] | None]


class OneStepPipeline(DiffusionPipeline):
    """Images from prompts or classes, in one pass of a student, or the few that it takes.

    Half precision is the transformer's, and on CUDA the decoder's: tokens are drawn in float32.
    """

    student: Student

    _callback_tensor_inputs = ("latents",)

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.register_modules(student=student)
        self.access = Access()  # where prompts find their text encoder

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        **unknown: Any,
    ) -> OneStepPipeline:
        """The student of a run or student folder or the Hub; `digits`, `shapes`, `emoji` are here.

        `local_dir` is a folder with the published files of the student's teacher, as for
        `dimo sample --local-dir`. The networks stay on the CPU until `.to(device)`. `torch_dtype`
        is the older name of `dtype`.
        """
        for name in unknown:
            raise SpecError(f"`{name}` means nothing to a student.", did_you_mean(name, LOADING))
        target = at_revision(os.fspath(pretrained_model_name_or_path), revision)
        place = Path(cache_dir).expanduser() if cache_dir else None
        access = Access(place, local_files_only, token)
        files = str(Path(local_dir).expanduser()) if local_dir else None
        options = LoadOptions(local_dir=files, device="cpu")
        with hub_access(access):
            pipeline = cls(open_student(target, options))
        pipeline.access = access
        return pipeline.to(dtype or torch_dtype or torch.float32)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> None:
        """Write a student folder, in the precision it is in now: `dimo` reads it as well."""
        if not safe_serialization or variant is not None:
            raise SpecError("A student folder has one file of weights, in safetensors.")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = self.student.manifest
        digest = write_network(self.student.backbone, folder, manifest.teacher)
        manifest = manifest.model_copy(update={"weights_sha256": digest})
        write_whole_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Refused: diffusers would put its own card in the place of the student's."""
        raise SpecError(
            "A pipeline does not push itself.",
            "Save it with `save_pretrained(FOLDER)`, then `dimo push FOLDER`.",
        )

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused: there is one network, and it is used once."""
        raise SpecError(
            "A student is a single pass of a single network: there is nothing to offload.",
            "Use `.to(device)`, and `torch_dtype=torch.bfloat16` for half the memory.",
        )

    enable_model_cpu_offload = enable_group_offload = enable_sequential_cpu_offload

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.student.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer."""
        return next(self.student.backbone.parameters()).dtype

    def to(
        self,
        *places: torch.device | torch.dtype | str | int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> OneStepPipeline:
        """Move the networks to a device, the transformer to a precision, or both."""
        for place in places:
            if isinstance(place, torch.dtype):
                dtype = place
            else:
                device = place
        if dtype is not None and dtype not in DTYPES:
            allowed = ", ".join(str(known) for known in DTYPES)
            raise SpecError(f"A student cannot be {dtype}.", f"Allowed: {allowed}.")
        self.student.backbone.to(device, dtype)
        if dtype is not None:
            precision: Precision = "fp32" if dtype == torch.float32 else "auto"
            self.student = replace(self.student, precision=precision)
        if device is not None:
            self.student.teacher.tokenizer.to(device)
            self.student.teacher.conditioner.to(torch.device(device))
        return self

    def compile(self) -> OneStepPipeline:
        """Compile transformer and decoder: a slow first call, faster later ones (torch.compile).

        Rounding differs, so the images may differ in a few tokens from those of before.
        """
        backbone, tokenizer = self.student.backbone, self.student.teacher.tokenizer
        compile_blocks(backbone)
        compile_decoder(tokenizer)
        return self

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | str | Sequence[int | str] | Tensor | Numpy | None = None,
        *,
        image: Image.Image | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Classes go by number, WordNet id or name. A warning names words of a prompt that the images
        do without. Without a `generator`, torch's own is used. With a
        list, each image is what its generator would draw alone. The tokens of an `image` take the
        place of the random ones of the initial sequence (`dimo sample --init`). `output_type`
        "pt" and "np" are in [0, 1], "latent" are tokens [N, L, G]. `callback_on_step_end(pipeline,
        0, 0, {"latents": tokens})` is called after the last step and may return other tokens.
        `steps`, or `num_inference_steps`, is one of those that the student was trained for, None
        the most of them.
        """
        check_no_guidance(negative_prompt, guidance_scale)
        steps = chosen_steps(self.student, steps, num_inference_steps)
        if output_type not in OUTPUT_TYPES:
            hint = did_you_mean(str(output_type), OUTPUT_TYPES)
            raise SpecError(f"`output_type` is {output_type!r}.", hint)
        sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        spec_from_flags(SamplerSpec, sampling, {name: name for name in sampling})
        asked = self.wanted(prompt, class_labels)
        if self.student.teacher.takes_prompts:
            tell_left_out(self.student.teacher, [str(text) for text in asked], warn)
        wanted = repeated(asked, num_images_per_prompt)
        student = self.student if image is None else started_from(self.student, image)
        conds, tokens = [], []
        for part, drawn_by in self.batches(wanted, generator):
            with hub_access(self.access):
                cond = condition(student.teacher, part).to(self.device)
            half = self.dtype != torch.float32
            with torch.autocast(self.device.type, self.dtype, enabled=half):
                tokens.append(student.tokens(cond, drawn_by, steps=steps, **sampling))
            conds.append(cond)
        latents = torch.cat(tokens)
        if callback_on_step_end is not None:
            names = callback_on_step_end_tensor_inputs
            latents = self.after_step(latents, callback_on_step_end, names)
        found = latents if output_type == "latent" else self.paint(latents, conds, output_type)
        return ImagePipelineOutput(images=found) if return_dict else (found,)

    def wanted(
        self,
        prompt: str | Sequence[str] | None,
        class_labels: int | str | Sequence[int | str] | Tensor | Numpy | None,
    ) -> list[str] | list[int]:
        """The prompts or class numbers that are asked for."""
        teacher = self.student.teacher
        kind, other = (
            ("prompt", class_labels) if teacher.takes_prompts else ("class_labels", prompt)
        )
        asked = prompt if teacher.takes_prompts else class_labels
        if asked is None and other is None:
            what = '`prompt="two red circles"`' if kind == "prompt" else "`class_labels=7`"
            raise SpecError(
                f"There is no `{kind}`: a student of `{teacher.name}` has to be told what to draw.",
                f"Give one, for example {what}.",
            )
        if other is not None or asked is None:
            takes = "prompts, not classes" if teacher.takes_prompts else "classes, not prompts"
            raise SpecError(f"A student of `{teacher.name}` takes {takes}.", f"Give `{kind}`.")
        if isinstance(asked, Tensor | np.ndarray | np.generic):
            asked = asked.flatten().tolist()
        items = [asked] if isinstance(asked, str | int) else list(asked)
        if not items:
            raise SpecError(f"`{kind}` is empty.", "Give one at least.")
        if teacher.takes_prompts:
            return [str(item) for item in items]
        return [find_class(str(item), teacher, "class_labels") for item in items]

    def batches(
        self,
        wanted: list[str] | list[int],
        generator: torch.Generator | Sequence[torch.Generator] | None,
    ) -> Iterator[tuple[list[str] | list[int], torch.Generator]]:
        """What is drawn at once, and by which generator: batches as `dimo sample` has them."""
        size = images_at_once(self.student.teacher)
        if generator is None:
            seed = int(torch.randint(2**31, ()))
            generator = torch.Generator(self.device).manual_seed(seed)
        if not isinstance(generator, torch.Generator):
            generators, size = list(generator), 1
            if len(generators) != len(wanted):
                raise SpecError(
                    f"There are {len(generators)} generators for {len(wanted)} images.",
                    "Give one for each image, or a single one for all.",
                )
        else:
            generators = [generator] * len(wanted)
        for start in range(0, len(wanted), size):
            yield wanted[start : start + size], generators[start]

    def after_step(self, latents: Tensor, callback: Callback, names: Sequence[str]) -> Tensor:
        """Show the tokens to the callback, which may replace them by others."""
        for name in names:
            if name not in self._callback_tensor_inputs:
                hint = did_you_mean(name, self._callback_tensor_inputs)
                raise SpecError(f"`callback_on_step_end_tensor_inputs` names {name!r}.", hint)
        shown = {"latents": latents} if "latents" in names else {}
        found = (callback(self, 0, 0, shown) or {}).get("latents", latents)
        codes = self.student.teacher.space.codes
        if found.shape != latents.shape or found.dtype != latents.dtype:
            raise SpecError(
                f"The callback returned `latents` {found.dtype} {list(found.shape)} for tokens "
                f"{latents.dtype} {list(latents.shape)}."
            )
        if found.min() < 0 or found.max() >= codes:
            raise SpecError(f"The callback returned tokens outside of 0 to {codes - 1}.")
        return found.to(latents.device)

    def paint(self, latents: Tensor, conds: Sequence[Cond], output_type: str) -> Any:
        """The images of tokens, in the batches they were drawn in."""
        parts = zip(latents.split([len(cond) for cond in conds]), conds, strict=True)
        images = torch.cat([self.student.decode(tokens, cond).float() for tokens, cond in parts])
        if output_type == "pil":
            return [Image.fromarray(pixels) for pixels in to_pixels(images)]
        images = (images / 2 + 0.5).clamp(0, 1)
        return images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy()


def at_revision(target: str, revision: str | None) -> str:
    """A Hub id at a revision; what is on this machine has none."""
    if revision is None:
        return target
    if target in BUILTIN or not (match := hub_id(target)):
        raise SpecError(
            f"`revision` is {revision!r}, but `{target}` is no Hub id.", "Leave it out."
        )
    if match["revision"]:
        raise SpecError(f"`{target}` names a revision already.", "Leave out `revision`.")
    return f"{target}@{revision}"


def chosen_steps(student: Student, steps: int | None, by_diffusers: int | None) -> int | None:
    """In how many steps to draw, by either name; refused where the student cannot."""
    if steps is not None and by_diffusers not in (None, steps):
        raise SpecError(
            f"`steps` is {steps}, and `num_inference_steps` is {by_diffusers}.",
            "They mean the same: give one of them.",
        )
    steps = by_diffusers if steps is None else steps
    if steps is not None and steps not in student.manifest.step_counts:
        raise untrained_steps(steps, student.manifest.step_counts)
    return steps


def check_no_guidance(negative_prompt: Any, guidance: float) -> None:
    """Refuse what only guidance could follow."""
    if negative_prompt is not None:
        raise SpecError(
            "`negative_prompt` is not for a student: it draws without the guidance "
            "that a negative prompt steers.",
            "Leave it out, and say in the prompt what you want.",
        )
    if guidance > 1:
        raise SpecError(
            f"`guidance_scale` is {guidance}: a student has its teacher's guidance built in.",
            "Leave it out.",
        )


def repeated(wanted: list[Any], count: int) -> list[Any]:
    """Each of them `count` times in a row, as diffusers has it."""
    if count < 1:
        raise SpecError(f"`num_images_per_prompt` is {count}: it must be at least 1.")
    return [item for item in wanted for _ in range(count)]


def started_from(student: Student, image: Image.Image) -> Student:
    """The student with the tokens of an image as its image tokens (supplement, E.6)."""
    return dataclasses.replace(student, source=picture_tokens(student, image, "image"))
