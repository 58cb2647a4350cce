"""The one training loop: order, averaging, recovery, checkpoints, and word to whoever watches."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from dimo_cli.engine.checkpoint import CheckpointFolder, random_state, restore_random_state
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.memory import peak_memory
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.schedules import ema_decay
from dimo_cli.engine.watcher import Watcher
from dimo_cli.errors import DivergedError, MissingError, SpecError
from dimo_cli.files import write_whole_text
from dimo_cli.ranks import own_rank
from dimo_cli.specs.distill import DistillSpec, TrainSpec
from dimo_cli.teachers.protocol import Backbone, Teacher


class Interrupted(Exception):
    """The run was asked to stop by a signal; its checkpoint is written."""

    def __init__(self, signal_number: int, step: int, checkpoint: Path) -> None:
        super().__init__(f"Interrupted at step {step}")
        self.exit_code = 128 + signal_number
        self.step, self.checkpoint = step, checkpoint


@dataclass
class Progress:
    """The counters of a run; saved in every checkpoint."""

    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0
    best_fid: float | None = None
    best_step: int | None = None


def make_accelerator(
    spec: TrainSpec, tracker: str = "none", folder: Path | None = None
) -> Accelerator:
    """The accelerator of a spec: device, autocast and tracker.

    Several processes are refused before any of them waits for the others.
    """
    refuse_several(own_rank()[1])
    if tracker != "none" and find_spec(tracker) is None:
        raise MissingError(
            f"`monitor.tracker` is {tracker}, but its package is not installed.",
            f"Install it with `pip install 'dimo-cli[{tracker}]'` or "
            f"`pipx inject dimo-cli {tracker}`.",
        )
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            "`train.device` is cuda, but no CUDA device is visible.",
            "Use `--set train.device=auto`, or run `dimo doctor` to see why.",
        )
    on_cuda = torch.cuda.is_available() and spec.device != "cpu"
    if spec.precision == "bf16" and not on_cuda:
        raise SpecError(
            "`train.precision` is bf16, but the run would be on a CPU, where bf16 is very slow.",
            "Use `--set train.precision=fp32`.",
        )
    bf16 = spec.precision == "bf16" or (spec.precision == "auto" and on_cuda)
    accelerator = Accelerator(
        cpu=spec.device == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
    )
    refuse_several(accelerator.num_processes)
    return accelerator


def refuse_several(processes: int) -> None:
    """Refuse to train in more than one process."""
    if processes > 1:
        raise SpecError(
            "Training in several processes is not supported yet.",
            "Run one process and raise `train.accumulate` instead.",
        )


class Trainer:
    """Runs a distillation from its first step, or from its newest checkpoint, to its last."""

    def __init__(
        self,
        spec: DistillSpec,
        teacher: Teacher,
        folder: Path,
        watcher: Watcher,
        method: Callable[..., Distillation] | None = None,
    ) -> None:
        """`method` builds what is trained: Di[M]O alone, or a refinement."""
        self.spec, self.folder, self.watcher = spec, folder, watcher
        self.accelerator = make_accelerator(spec.train, spec.monitor.tracker, folder)
        device = self.accelerator.device
        self.generator = torch.Generator(device)
        self.generator.manual_seed(spec.train.seed + self.accelerator.process_index)
        torch.manual_seed(spec.train.seed + self.accelerator.process_index)
        teacher.to(device)
        build = method or Distillation
        self.distillation = build(teacher, spec, self.generator, self.accelerator.autocast)
        self.ema = Ema(copy.deepcopy(self.distillation.student), self.distillation.student)
        self.checkpoints = CheckpointFolder(folder / "checkpoints")
        self.progress = Progress()
        self.stop_signal: int | None = None
        if spec.train.compile:
            for backbone in (
                teacher.backbone,
                self.distillation.student,
                self.distillation.auxiliary,
            ):
                backbone.hidden = torch.compile(backbone.hidden)  # type: ignore[method-assign]

    def networks(self) -> dict[str, nn.Module]:
        """The networks whose weights change."""
        return {**self.distillation.networks(), "ema": self.ema.network}

    def frozen(self) -> dict[str, nn.Module]:
        """The networks whose weights stay as they were loaded."""
        teacher = self.distillation.teacher
        return {"teacher": teacher.backbone, "tokenizer": teacher.tokenizer}

    def unsound(self) -> list[str]:
        """The networks that have a weight that is not finite; no step ever heals one."""
        return names_of_unsound({**self.frozen(), **self.networks()})

    def begin(self, resume: bool) -> None:
        """Be at the first step, or where a run stopped."""
        if damaged := names_of_unsound(self.frozen()):
            raise MissingError(
                f"The {' and the '.join(damaged)} of `{self.distillation.teacher.name}` has weights"
                " that are not finite: its file is damaged.",
                "Copy or download it again.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints.tidy()
        if resume and (self.checkpoints.steps() or (self.folder / "log.jsonl").exists()):
            self.restore()
            return
        if resume:
            self.watcher.on_note("It was stopped before its first checkpoint: it starts again.")
        self.watcher.look(0, self.averaged)
        self.save()

    def run(self, resume: bool = False) -> Backbone:
        """Train to the last step and return the averaged student."""
        self.begin(resume)
        self.accelerator.init_trackers("dimo")
        self.watcher.on_start(self.progress.step)
        try:
            with self.catch_signals():
                while self.progress.step < self.spec.train.steps:
                    self.train_one_step()
                    if self.stop_signal is not None:
                        self.save_sound()
                        step = self.checkpoints.steps()[-1]
                        raise Interrupted(self.stop_signal, step, self.checkpoints.path(step))
                    reason = self.watcher.should_stop()
                    if reason is not None and self.save_sound():
                        self.watcher.on_note(reason)
                        break
        finally:
            self.distillation.teacher.backbone.eval()  # its dropout may have been on
        self.accelerator.end_training()
        return self.averaged

    def train_one_step(self) -> None:
        """One step of Algorithm 1 and everything that is due after it."""
        train, monitor, progress = self.spec.train, self.spec.monitor, self.progress
        started = time.perf_counter()
        done = progress.step + 1
        last = done == train.steps
        log_due = done % train.log_every == 0 or last
        report = self.distillation.step(progress.step, measure=log_due)
        if report.skipped:
            if self.note_skipped(report.skipped):
                return  # rolled back: nothing of this step is left
        else:
            progress.skipped_in_row = 0
            self.ema.update(
                ema_decay(progress.step, self.spec.student.ema.decay, self.spec.student.ema.warmup)
            )
        progress.step = done
        seconds = time.perf_counter() - started
        save_due = done % train.checkpoint_every == 0 or last
        values = dict(report.values)
        if monitor.fid_every and (done % monitor.fid_every == 0 or last):
            values["fid"] = self.watcher.measure_fid(done, self.averaged)
            best = math.inf if progress.best_fid is None else progress.best_fid
            if values["fid"] < best:
                progress.best_fid, progress.best_step = values["fid"], done
                save_due = True
        looked = self.watcher.look(done, self.averaged)
        values |= looked
        if log_due or looked or "fid" in values:
            self.log(values, seconds)
        if done % monitor.preview_every == 0 or last:
            self.watcher.on_preview(done, self.averaged)
        if save_due:
            self.save_sound()

    @property
    def averaged(self) -> Backbone:
        """The generator as it stands: the averaged student."""
        return self.ema.network  # type: ignore[return-value]

    def note_skipped(self, network: str) -> bool:
        """Count a step whose numbers were not finite; roll back where skipping will not help.

        Returns whether it rolled back: then `self.progress` is that of the checkpoint.
        """
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_row += 1
        unsound = self.unsound()
        causes = [f"weights of the {name}" for name in unsound] + self.distillation.suspects()
        cause = f" Not finite are: {', '.join(causes)}." if causes else ""
        self.watcher.on_note(
            f"Step {progress.step + 1} skipped: the {network}'s loss or gradient is not finite "
            f"({progress.skipped_in_row} in a row).{cause}"
        )
        if not unsound and progress.skipped_in_row < self.spec.recovery.max_skipped:
            return False
        self.roll_back(network, unsound, cause)
        return True

    def save_sound(self) -> bool:
        """Save, if every weight is finite; else roll back and return False."""
        unsound = self.unsound()
        if not unsound:
            self.save()
            return True
        cause = f" Not finite are: {', '.join(f'weights of the {name}' for name in unsound)}."
        self.roll_back(unsound[0], unsound, cause)
        return False

    def roll_back(self, network: str, unsound: Sequence[str], cause: str) -> None:
        """Go back to the newest checkpoint with lower rates; give up where that cannot help."""
        progress, recovery = self.progress, self.spec.recovery
        failed_at, rollbacks, skipped = progress.step + 1, progress.rollbacks, progress.skipped
        if lost := [name for name in unsound if name in self.frozen()]:
            raise DivergedError(
                f"Weights of the {' and the '.join(lost)} turned into numbers that are not finite "
                f"by step {failed_at}, though training never changes them.",
                "Continue with `--resume`, which loads them again; if it comes back, check the "
                f"memory of this machine. The last good checkpoint is in {self.checkpoints.root}.",
            )
        if rollbacks >= recovery.max_rollbacks:
            raise DivergedError(
                f"Training diverged: after {rollbacks} rollbacks the {network} is still "
                f"not finite at step {failed_at}.{cause}",
                f"Lower `{optimizer_path(network)}.learning_rate` (it had fallen to "
                f"{self.distillation.student_optimizer.scale:g} of its value), set "
                f"`{optimizer_path(network)}.clip_norm=1`, or move `loss.divergence` towards fkl. "
                f"The last good checkpoint is kept in {self.checkpoints.root}.",
            )
        scale = self.distillation.student_optimizer.scale * recovery.learning_rate_factor
        self.restore()
        self.progress.rollbacks, self.progress.skipped = rollbacks + 1, skipped
        for optimizer in self.distillation.optimizers().values():
            optimizer.scale = scale
        # The same draws would meet the same end: go on with fresh ones.
        self.generator.manual_seed(self.spec.train.seed + 1_000_003 * (rollbacks + 1))
        self.save()
        self.watcher.on_note(
            f"Rolled back from step {failed_at} to step {self.progress.step}; learning rates are "
            f"now {scale:g} of the spec's."
        )

    def save(self) -> Path:
        """Write a checkpoint of this moment and delete those no longer needed."""
        state = {
            "progress": asdict(self.progress),
            **{
                f"{name}_optimizer": optimizer.state_dict()
                for name, optimizer in self.distillation.optimizers().items()
            },
            "method": self.distillation.state(),
            "watcher": self.watcher.state(),
            "random": random_state(self.generator),
        }
        path = self.checkpoints.save(self.progress.step, self.networks(), state)
        self.checkpoints.prune(self.spec.train.keep_checkpoints, self.progress.best_step)
        return path

    def restore(self) -> None:
        """Continue from the newest readable checkpoint."""
        step, state, damaged = self.checkpoints.load_newest(self.networks())
        for told in damaged:
            self.watcher.on_note(f"Checkpoint {told} is damaged; going on from step {step}.")
        self.progress = Progress(**state["progress"])
        if self.progress.step > self.spec.train.steps:
            raise SpecError(
                f"`train.steps` is {self.spec.train.steps}, but the run is at step "
                f"{self.progress.step} already.",
                "Give a larger `--set train.steps=`, or start a new run.",
            )
        for name, optimizer in self.distillation.optimizers().items():
            optimizer.load_state_dict(state[f"{name}_optimizer"])
        self.distillation.load_state(state.get("method", {}))
        self.watcher.load_state(state.get("watcher", {}))
        restore_random_state(state["random"], self.generator)
        self.truncate_log()

    def log(self, values: dict[str, float], seconds: float) -> None:
        """Append a line to log.jsonl and show it."""
        samples = (
            self.spec.train.batch_size * self.spec.train.accumulate * self.accelerator.num_processes
        )
        record = {
            "step": self.progress.step,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "images_per_second": samples / seconds,
            "peak_memory_gib": peak_memory(self.accelerator.device) / 2**30,
            "skipped": self.progress.skipped,
            "rollbacks": self.progress.rollbacks,
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        numbers = {name: value for name, value in record.items() if value is not None}
        self.accelerator.log(numbers, step=self.progress.step)
        self.watcher.on_log(record)

    def truncate_log(self) -> None:
        """Drop log lines of steps after the checkpoint: they will be written again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= self.progress.step]
            write_whole_text(path, "".join(f"{line}\n" for line in kept))

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the current step first; a second SIGINT ends it at once."""

        def remember(number: int, frame: object) -> None:
            if self.stop_signal is not None:
                raise KeyboardInterrupt
            self.stop_signal = number

        try:
            previous = {s: signal.signal(s, remember) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever runs us handles signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def names_of_unsound(networks: Mapping[str, nn.Module]) -> list[str]:
    """Those with a weight that is not finite."""
    return [
        name
        for name, network in networks.items()
        if not all(parameter.isfinite().all() for parameter in network.parameters())
    ]


def optimizer_path(network: str) -> str:
    """Where a network's optimizer is in the spec."""
    paths = {"discriminator": "gan.optimizer", "ema": "student.optimizer"}
    return paths.get(network, f"{network}.optimizer")


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf  # a line cut short by a crash
