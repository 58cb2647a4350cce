"""The one training loop: order, averaging, recovery, checkpoints, and word to whoever watches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dimo_cli.console.next_steps import resume
from dimo_cli.distributed.lifeline import announce_last_checkpoint
from dimo_cli.distributed.ranks import as_first_says, from_all, is_first, largest
from dimo_cli.engine import fused
from dimo_cli.engine.capture import CapturedStep, is_small, obstacle
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.lora import (
    frozen_part,
    has_adapters,
    new_adapters,
    own_copy,
    shared_view,
    trained_part,
)
from dimo_cli.engine.objective import StepReport
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.roles import store_early
from dimo_cli.engine.schedules import ema_decay
from dimo_cli.engine.sharding import gather, shard_blocks, sharding_plugin
from dimo_cli.engine.share import divide, halved, local_train, mean_values
from dimo_cli.errors import DivergedError, MissingError, SpecError
from dimo_cli.run_folder.effort import rate
from dimo_cli.run_folder.log import RunLog
from dimo_cli.run_folder.state import is_refinement
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import leaves
from dimo_cli.teachers.compiling import compile_blocks
from dimo_cli.teachers.protocol import Backbone, Teacher
from dimo_cli.teachers.spread import make_whole
from dimo_cli.teachers.stored import plain_copy
from dimo_cli.training.accelerator import make_accelerator, peak_memory
from dimo_cli.training.checkpoint import (
    CheckpointFolder,
    is_of_this_device,
    random_state,
    restore_random_state,
)
from dimo_cli.training.power_averages import PowerAverages
from dimo_cli.training.precision import store_in_bf16, tf32
from dimo_cli.training.progress import Progress, check_goes_on
from dimo_cli.training.soundness import names_of_unsound, optimizer_path
from dimo_cli.training.stopping import Interrupted, StopRequests
from dimo_cli.training.tracking import Tracking
from dimo_cli.training.watcher import Bystander, Watcher

if TYPE_CHECKING:
    from accelerate import FullyShardedDataParallelPlugin


COMPILING = (
    "Compiling the networks' blocks in the first step, which takes up to some minutes; later runs "
    "find them in the cache."
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
        may_cut: bool = False,
    ) -> None:
        """`method` builds what is trained: Di[M]O alone, or a refinement.

        `may_cut`: where memory runs out, go on with smaller passes.
        """
        self.may_cut = may_cut
        self.spec, self.folder = spec, folder
        self.watcher = watcher if is_first() else Bystander(watcher)
        self.accelerator = make_accelerator(spec.train, spec.monitor.tracker, folder)
        device, world = self.accelerator.device, self.accelerator.num_processes
        self.rank = self.accelerator.process_index
        share = divide(spec.train, self.rank, world, spec.least_pass)
        own_spec = spec.model_copy(update={"train": local_train(spec.train, share)})
        plugin = sharding_plugin(spec)
        # The same in every rank, as samples get the same draws whichever rank computes them.
        self.generator = torch.Generator(device).manual_seed(spec.train.seed)
        torch.manual_seed(spec.train.seed)
        store_early(teacher, spec, plugin is not None)
        teacher.to(device)
        self.distillation = (method or Distillation)(
            teacher, own_spec, self.generator, self.accelerator.autocast, share
        )
        if self.rank:
            torch.manual_seed(spec.train.seed + self.rank)  # of dropout, which is each rank's own
        average = own_copy(self.distillation.student)
        if plugin is not None:
            self.shard(average, plugin)
        home = "cpu" if spec.student.ema.offload else None
        self.ema = Ema(average, self.distillation.student, home)
        self.power = PowerAverages(spec.student.ema, self.distillation.student, folder)
        self.is_sharded = plugin is not None
        self.restore_teacher = lambda: None
        if self.accelerator.mixed_precision == "bf16":
            self.restore_teacher = store_in_bf16(teacher.backbone)
        self.checkpoints = CheckpointFolder(folder / "checkpoints")
        self.tracking = Tracking(spec.monitor, self.accelerator, folder)
        self.run_log = RunLog(folder / "log.jsonl")
        self.progress = Progress()
        self.busy = (0, 0.0)
        """Steps since the last line of the log, and the seconds they took."""
        self.requests = StopRequests(is_alone=world == 1)
        self.compiles = spec.train.compiles(device.type == "cuda", self.is_sharded)
        if self.compiles:
            for backbone in self.distillation.backbones():
                compile_blocks(backbone, self.watcher.on_note)

        self.stepper = self.choose_stepper()

    def choose_stepper(self) -> Distillation | CapturedStep:
        """Who carries out steps: the distillation itself, or a recording of it."""
        wanted, reason = self.spec.train.capture, obstacle(self.distillation)
        if self.is_sharded:
            reason = "its blocks are gathered from several processes"
        if wanted is True and reason is not None:
            raise SpecError(
                f"`train.capture` is true, but this step cannot be captured: {reason}.",
                "Use `--set train.capture=auto`, which captures where it can.",
            )
        if reason is not None or not wanted:
            return self.distillation
        on_trial = wanted == "auto" and not is_small(self.distillation)
        return CapturedStep(self.distillation, self.watcher.on_note, on_trial)

    def shard(self, average: Backbone, plugin: FullyShardedDataParallelPlugin) -> None:
        """Spread student, auxiliary and average over all ranks, before any step."""
        distillation = self.distillation
        for backbone in {distillation.student, distillation.auxiliary, average}:
            shard_blocks(backbone, plugin, frozen_part(backbone))
        distillation.student_optimizer.follow(distillation.student)
        if distillation.uses_auxiliary:
            distillation.auxiliary_optimizer.follow(distillation.auxiliary)

    def networks(self) -> dict[str, nn.Module]:
        """The networks whose weights change, as far as they do."""
        averages = {"ema": trained_part(self.ema.network), **self.power.networks()}
        return {**self.distillation.networks(), **averages}

    def frozen(self) -> dict[str, nn.Module]:
        """The networks whose weights stay as they were loaded."""
        teacher = self.distillation.teacher
        return {"teacher": teacher.backbone, "tokenizer": teacher.tokenizer}

    def unsound(self) -> list[str]:
        """The networks that have a weight that is not finite, in whichever rank.

        No step ever heals one.
        """
        found = from_all(names_of_unsound({**self.frozen(), **self.networks()}))
        return list(dict.fromkeys(name for names in found for name in names))

    def begin(self, resume: bool) -> None:
        """Be at the first step, or where a run stopped."""
        if damaged := names_of_unsound(self.frozen()):
            raise MissingError(
                f"The {' and the '.join(damaged)} of `{self.distillation.teacher.name}` has weights"
                " that are not finite: its file is damaged.",
                "Copy or download it again.",
            )
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.checkpoints.tidy()
        has_begun = bool(self.checkpoints.steps() or self.run_log.path.exists())
        if resume and as_first_says(has_begun):
            self.restore()
            return
        if resume:
            self.watcher.on_note("It was stopped before its first checkpoint: it starts again.")
        if self.watcher.looks_at(0):
            self.watcher.look(0, self.averaged)
        self.save()

    def run(self, resume: bool = False) -> Backbone:
        """Train to the last step and return the averaged student."""
        self.begin(resume)
        config = {leaf.path: leaf.value for leaf in leaves(self.spec)}
        self.tracking.start(config, self.progress.step, self.watcher.on_note)
        self.watcher.on_start(self.progress.step)
        if self.compiles:
            self.watcher.on_note(COMPILING)
        try:
            with self.requests.caught():
                while self.progress.step < self.spec.train.steps:
                    self.train_one_step()
                    reason = self.watcher.should_stop()
                    pauses = self.watcher.should_pause()
                    number, is_paused, is_over = largest(
                        self.requests.signal_number(), int(pauses), int(reason is not None)
                    )
                    if number or is_paused:
                        announce_last_checkpoint()
                        self.save_sound()
                        step = self.checkpoints.steps()[-1]
                        raise Interrupted(number, step, self.checkpoints.path(step))
                    if is_over and self.save_sound():
                        self.watcher.on_note(reason or "")
                        break
        finally:
            self.distillation.teacher.backbone.eval()  # its dropout may have been on
            self.restore_teacher()
            if is_first():
                make_whole(self.distillation.teacher.backbone)
            self.tracking.finish()
        return self.averaged

    def train_one_step(self) -> None:
        """One step of Algorithm 1 and everything that is due after it."""
        train, monitor, progress = self.spec.train, self.spec.monitor, self.progress
        started = time.perf_counter()
        done = progress.step + 1
        last = done == train.steps
        log_due = done % train.log_every == 0 or last
        save_due = done % train.checkpoint_every == 0 or last
        preview_due = done % monitor.preview_every == 0 or last
        metric_due = bool(monitor.fid_every) and (done % monitor.fid_every == 0 or last)
        look_due = self.watcher.looks_at(done)
        waits = log_due or save_due or preview_due or metric_due or look_due
        report = self.step_within_memory(measure=log_due)
        if report is None:
            return
        if report.skipped:
            progress.skipped_in_row += 1
            if self.note_skipped(report.skipped):
                return  # rolled back: nothing of this step is left
        else:
            progress.skipped_in_row = 0
            self.ema.update(
                ema_decay(progress.step, self.spec.student.ema.decay, self.spec.student.ema.warmup)
            )
        self.power.update(done)
        waits = waits or done % self.spec.recovery.max_skipped == 0
        if waits and self.note_skipped_on_card():
            return
        progress.step = done
        self.watcher.on_step(done)
        self.busy = self.busy[0] + 1, self.busy[1] + time.perf_counter() - started
        values = mean_values(report.values)
        draws = preview_due or metric_due or look_due
        if (draws or self.power.is_due(done, last)) and not self.is_sound():
            return
        self.power.keep(done, last)
        shown = self.averaged if draws else self.distillation.student
        if metric_due:
            value = as_first_says(self.watcher.measure_metric(done, shown))
            values[monitor.metric] = value
            save_due = progress.note_metric(monitor.metric, value) or save_due
        if look_due:
            values |= self.watcher.look(done, shown)
        if log_due or look_due or metric_due:
            self.log(values)
        if preview_due:
            self.tracking.show(self.watcher.on_preview(done, shown), done)
        if save_due:
            self.save_sound()

    def step_within_memory(self, measure: bool) -> StepReport | None:
        """Carry out the next step; None where memory ran out, and another one is next now."""
        try:
            with tf32(self.spec.train.tf32):
                return self.stepper.step(self.progress.step, measure)
        except torch.OutOfMemoryError:
            if not (self.has_recordings or self.can_cut_passes):
                raise
        # Not in the handler, whose traceback holds all that the step had computed.
        self.make_room()
        return None

    @property
    def averaged(self) -> Backbone:
        """The generator as it stands: the averaged student, whole in the first rank.

        Where it is sharded, every rank has to ask for it at the same time.
        """
        if not self.is_sharded:
            return self.ema.at(self.accelerator.device)  # type: ignore[return-value]
        backbone = self.distillation.teacher.backbone  # whose weights may be rounded
        if has_adapters(self.ema.network):
            base = shared_view(backbone)
            if is_first():
                make_whole(base)
            adapted = new_adapters(base, self.spec.student.lora, 0)
            gather(trained_part(self.ema.network), trained_part(adapted) if is_first() else None)
            return adapted.requires_grad_(False)
        whole = plain_copy(backbone).float().eval() if is_first() else None
        gather(self.ema.network, whole)
        return whole or backbone

    @property
    def has_recordings(self) -> bool:
        """Whether memory is held by recordings of steps, which can do without."""
        return isinstance(self.stepper, CapturedStep) and bool(self.stepper.recordings)

    @property
    def can_cut_passes(self) -> bool:
        """Whether passes can be of fewer samples.

        Not where they were asked for or are the smallest, nor with several processes, of which not
        all have run out of memory.
        """
        is_alone = self.accelerator.num_processes == 1
        smaller = halved(self.distillation.share, self.spec.least_pass)
        return self.may_cut and is_alone and smaller is not None

    def make_room(self) -> None:
        """Go back to the newest checkpoint and on from there with less in memory.

        What goes first are recordings, then half of the samples at a time.
        """
        if self.has_recordings:
            change = "steps run as they are written, without a recording."
        else:
            self.distillation.cut_passes()
            change = f"there are {self.distillation.share.batch} samples in it at a time."
        self.distillation.begin_anew()
        self.stepper = self.distillation
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        self.restore()
        self.watcher.on_note(f"Memory ran out: from step {self.progress.step} on {change}")

    def note_skipped_on_card(self) -> bool:
        """Learn of the steps that a card skipped since it was last asked; as `note_skipped`."""
        skipped, in_row = self.distillation.verdict.read()
        if not skipped:
            return False
        self.progress.skipped_in_row = in_row
        return self.note_skipped(skipped.most_common(1)[0][0], skipped.total())

    def note_skipped(self, network: str, count: int = 1) -> bool:
        """Count steps whose numbers were not finite; roll back where skipping will not help.

        `progress.skipped_in_row` has them already. Returns whether it rolled back: then
        `self.progress` is that of the checkpoint.
        """
        progress = self.progress
        progress.skipped += count
        which = f"Step {progress.step + 1}"
        if count > 1:
            which = f"{count} of the steps up to {progress.step + 1} were"
        unsound = self.unsound()
        causes = [f"weights of the {name}" for name in unsound] + self.distillation.suspects()
        cause = f" Not finite are: {', '.join(causes)}." if causes else ""
        self.watcher.on_note(
            f"{which} skipped: the {network}'s loss or gradient is not finite "
            f"({progress.skipped_in_row} in a row).{cause}"
        )
        if not unsound and progress.skipped_in_row < self.spec.recovery.max_skipped:
            return False
        self.roll_back(network, unsound, cause)
        return True

    def save_sound(self) -> bool:
        """Save, if every weight is finite; else roll back and return False."""
        if not self.is_sound():
            return False
        self.watcher.on_checkpoint(self.progress.step, self.save())
        return True

    def is_sound(self) -> bool:
        """Whether every weight is finite; if not, it has rolled back."""
        unsound = self.unsound()
        if not unsound:
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
                f"Continue with {resume(self.folder, is_refinement=is_refinement(self.folder))}, "
                "which loads them again; if it comes back, check the memory of this machine. The "
                f"last good checkpoint is in {self.checkpoints.root}.",
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
        self.distillation.reseed(self.spec.train.seed + 1_000_003 * (rollbacks + 1))
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
            "random": self.random_state(),
            "random_of_ranks": from_all(self.random_state()),
        }
        shards = {f"{n}_optimizer": o.shards() for n, o in self.distillation.optimizers().items()}
        path = self.checkpoints.save(self.progress.step, self.networks(), state, shards)
        if is_first():
            self.checkpoints.prune(self.spec.train.keep_checkpoints, self.progress.best_step)
        return path

    def restore(self) -> None:
        """Continue from the newest readable checkpoint."""
        step, state, damaged = self.checkpoints.load_newest(self.networks())
        for told in damaged:
            self.watcher.on_note(f"Checkpoint {told} is damaged; going on from step {step}.")
        self.progress = Progress.read(state["progress"])
        check_goes_on(self.progress.step, self.spec.train.steps)
        for name, optimizer in self.distillation.optimizers().items():
            moments = self.checkpoints.pieces(step, f"{name}_optimizer").moments
            optimizer.load_state_dict(state[f"{name}_optimizer"], moments)
        self.distillation.load_state(state.get("method", {}))
        self.distillation.verdict.go_on(self.progress.skipped_in_row)
        if isinstance(self.stepper, CapturedStep):
            self.stepper.forget()
        self.watcher.load_state(state.get("watcher", {}))
        self.restore_random(state)
        if is_first():
            self.run_log.truncate(self.progress.step)
            self.power.forget_after(self.progress.step)

    def random_state(self) -> dict[str, Any]:
        """The state of all that this rank draws from."""
        return random_state(self.generator, self.distillation.host)

    def restore_random(self, state: dict[str, Any]) -> None:
        """Draw on as before; with another number of ranks, only dropout is seeded anew.

        On a device of another kind everything is: no stream of one goes on in the other.
        """
        host = self.distillation.host
        known = state.get("random_of_ranks", [state["random"]])
        fresh = self.spec.train.seed + 1_000_003 * self.progress.step
        if not is_of_this_device(state["random"], self.generator):
            self.watcher.on_note(
                f"The checkpoint is from another kind of device: on this {self.generator.device} "
                "random numbers begin anew."
            )
            self.distillation.reseed(fresh)
        elif len(known) == self.accelerator.num_processes:
            restore_random_state(known[self.rank], self.generator, host)
            return
        else:
            restore_random_state(state["random"], self.generator, host)
        torch.manual_seed(fresh + self.rank)

    def log(self, values: dict[str, float]) -> None:
        """Append a line to log.jsonl and show it."""
        while fused.untold:
            self.watcher.on_note(fused.untold.pop())
        steps, seconds = self.busy
        self.busy = (0, 0.0)
        samples = steps * self.spec.train.batch_size * self.spec.train.accumulate
        record = {
            "step": self.progress.step,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "images_per_second": rate(samples, seconds),
            "peak_memory_gib": peak_memory(self.accelerator.device) / 2**30,
            "skipped": self.progress.skipped,
            "rollbacks": self.progress.rollbacks,
        }
        if is_first():
            self.run_log.append(record)
        numbers = {name: value for name, value in record.items() if value is not None}
        self.tracking.log(numbers, self.progress.step)
        self.watcher.on_log(record)
