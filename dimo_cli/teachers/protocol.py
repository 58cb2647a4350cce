"""The teacher protocol: everything the engine ever knows about a masked diffusion model.

A teacher is a `backbone` (tokens to logits), a `tokenizer` (tokens to images and back) and a
`conditioner` (labels or prompts to tensors), over one `TokenSpace`. The engine works on these
interfaces alone, so a new family is a new file in this folder and nothing else.

Shapes: B batch, L positions, G groups of a token, V classes of a group, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_cli.errors import SpecError
from dimo_cli.specs.tteo import RENO_WEIGHTS, TteoSpec
from dimo_cli.teachers.attention import allow_cudnn

allow_cudnn(False)  # before any network is built; a run may allow it (`train.cudnn_attention`)


@dataclass(frozen=True, slots=True)
class TokenSpace:
    """The discrete space a family generates in."""

    length: int
    """Number of token positions L."""
    groups: int
    """Number of independent parts G of one token."""
    vocab: int
    """Number of logits V of each group (may include the mask id)."""
    codes: int
    """Number of image codes: ids 0 to codes - 1 can be decoded."""
    mask_id: int
    """Id of the mask token."""
    image_size: int
    """Side of the decoded image in pixels."""
    grid: tuple[int, int] | None
    """Rows and columns of the token grid; None where tokens have no place in the plane."""
    class_ids: range | None = None
    """Ids of class tokens in the embedding table, where a family has them."""


@dataclass(frozen=True, slots=True)
class Cond:
    """What a backbone is conditioned on: named tensors that share their first dimension."""

    tensors: Mapping[str, Tensor]
    texts: tuple[str, ...] = ()
    """The same in words, one a sample, for rewards that read; empty where nobody reads."""

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(iter(self.tensors.values())).device

    def __getitem__(self, rows: slice) -> Cond:
        tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return Cond(tensors, self.texts[rows])

    def to(self, device: torch.device | str) -> Cond:
        """Move every tensor to `device`."""
        tensors = {
            name: moved(tensor, torch.device(device)) for name, tensor in self.tensors.items()
        }
        return Cond(tensors, self.texts)

    def at(self, time: float | None) -> Cond:
        """The same condition at a time of the sampler, for backbones that look at `time`."""
        if time is None:
            return self
        first = next(iter(self.tensors.values()))
        times = torch.full((len(self),), time, dtype=torch.float32, device=first.device)
        return Cond({**self.tensors, "time": times}, self.texts)

    def times(self, count: int) -> Cond:
        """A condition of one sample, `count` times, without a copy."""
        tensors = {name: t.expand(count, *t.shape[1:]) for name, t in self.tensors.items()}
        return Cond(tensors, self.texts * count)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Stack several conditions along the batch."""
        names = conds[0].tensors.keys()
        tensors = {name: torch.cat([cond.tensors[name] for cond in conds]) for name in names}
        return Cond(tensors, tuple(text for cond in conds for text in cond.texts))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on another device; on its way to a GPU, nobody waits for it.

    What is expanded is written out first: pinning copies into memory of the same strides, where
    several elements would be one.
    """
    has_memory = type(tensor) is Tensor  # a rehearsal's stand-ins have none that could be pinned
    if device.type == "cuda" and tensor.device.type == "cpu" and has_memory:
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True)
class LastLinear:
    """Where a head ends in one linear map: what goes in [n, D], and weight [G V, D] and bias."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None = None


# Parts of names that families give to attention and to feed-forward networks.
ATTENTION = r"attn\d?|\w+_attn|attention|mha|qkv|out|[qkv]_proj|attn_out"
MLP = (
    r"mlp|ff|ffn|ff_context|feed_forward|net|intermediate|output|up|down|fc[12]|ff_proj|up_proj|"
    r"gate_proj|down_proj|ff_out|proj_mlp|proj_out"
)


def call_plainly(block: Callable[..., Any], *inputs: Any) -> Any:
    """A block, run as it is written."""
    return block(*inputs)


LATENT = "latent"
"""The name of a student's latent: a number of its condition, and the network that reads it."""


class Backbone(nn.Module, ABC):
    """A bidirectional network from token embeddings to logits, split where the engine needs it.

    `hidden` and `head` are apart so that only the positions that matter are ever projected to the
    vocabulary.
    """

    gradient_checkpointing = False
    takes_latent = False
    """Whether the sequence has room for a latent's token, by `with_latent`."""
    call_block: Callable[..., Any] = staticmethod(call_plainly)
    """How a block is run; `compiling.compile_blocks` puts a compiled call here."""
    lora_targets: ClassVar[Mapping[str, str]] = {
        # Whatever is in a module of attention, whose linear maps stand in the block itself if not.
        "attention": rf"(?:.*\.)?(?:{ATTENTION})(?:\..+)?",
        "mlp": rf"(?!(?:.*\.)?(?:{ATTENTION})(?:\.|$))(?:.*\.)?(?:{MLP})(?:\..+)?",
        "all": ".+",
    }
    """The linear maps of blocks by group, as regular expressions of their whole names."""

    def run_block(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Run one block, recomputing its activations in the backward pass if asked to."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self.call_block, block, *inputs, use_reentrant=False)
        return self.call_block(block, *inputs)

    @property
    def has_latent(self) -> bool:
        """Whether it reads a latent."""
        return LATENT in self._modules

    def with_latent(self, sequence: Tensor, cond: Cond) -> Tensor:
        """A sequence [B, S, D] with the token of the latent behind it, if there is one."""
        if not self.has_latent or LATENT not in cond.tensors:
            return sequence
        token = self.get_submodule(LATENT)(cond.tensors[LATENT])
        return torch.cat([sequence, token[:, None].to(sequence.dtype)], dim=1)

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens [B, L, G] as [B, L, D], before any position is added."""

    @abstractmethod
    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed probabilities [B, L, G, V] as [B, L, D]; equals `embed` on one-hots (Eq. 3).

        Where `mask` [B, L, G] is true the slot is embedded as the mask token instead.
        """

    def prepared(self, cond: Cond) -> Cond:
        """The condition with all that a frozen network makes of it before it sees an image.

        It is for this network alone, and for its weights as they are: passes that share a condition
        share that work. Most networks mix image and condition at once, and prepare nothing.
        """
        return cond

    @abstractmethod
    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Last hidden state [B, L, D]; with `taps`, also the outputs of those layers."""

    @abstractmethod
    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        """Project hidden states [..., D] to logits [..., G, V].

        `positions` says which token position each row of a flat `hidden` [N, D] came from;
        None means that `hidden` holds all positions in order.
        """

    def last_linear(self, hidden: Tensor) -> LastLinear | None:
        """The last map of the head for rows [n, D], to send gradients through it without logits.

        A bias that is not trained may be left out. None: the head has no such end.
        """
        return None

    @abstractmethod
    def embedding_parameters(self) -> list[nn.Parameter]:
        """The parameters that stay frozen when the token embedding is fixed."""

    def forward(self, tokens: Tensor, cond: Cond) -> Tensor:
        """Logits [B, L, G, V] of every position: the plain call, for small cases and tests."""
        hidden = self.hidden(self.embed(tokens), cond)
        assert isinstance(hidden, Tensor)
        return self.head(hidden)


class Tokenizer(nn.Module, ABC):
    """A frozen map between images in [-1, 1] and tokens."""

    fast_decode: Callable[[Tensor, Cond | None], Tensor] | None = None
    """`decode`, compiled; `decoding.compile_decoder` puts it here."""
    is_laid_out = False
    """Whether its convolutions are laid out as CUDA likes them."""
    decode_in_tiles: Callable[[Tensor], Tensor] | None = None
    """For images too large to be decoded whole: tokens [1, L, G] to an image, a part at a time."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to tokens [B, L, G]."""

    @abstractmethod
    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        """Tokens [B, L, G] to images [B, 3, H, W]; `cond` is for decoders that read the prompt."""

    @abstractmethod
    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        """Probabilities [B, L, G, V] to images, differentiable; equals `decode` on one-hots."""


class Conditioner(ABC):
    """Turns what a person asks for into a `Cond`: classes or prompts, as the family has it."""

    def labels(self, labels: Tensor) -> Cond:
        """The condition of class labels [B]."""
        raise SpecError("This teacher takes prompts, not classes.", "Use `--prompt`.")

    def prompts(self, prompts: Sequence[str]) -> Cond:
        """The condition of prompts."""
        raise SpecError("This teacher takes classes, not prompts.", "Use `--class`.")

    def left_out(self, prompt: str) -> tuple[str, ...]:
        """The words of a prompt that this teacher reads past."""
        return ()

    @abstractmethod
    def null(self, count: int) -> Cond:
        """The condition of the unconditional half of guidance, `count` times."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Cond:
        """`count` random conditions from the condition dataset."""

    def draw_rows(self, count: int, generator: torch.Generator, rows: slice) -> Cond:
        """Only some `rows` of what `draw` would return; override it where that saves work."""
        return self.draw(count, generator)[rows]

    @abstractmethod
    def blank(self, count: int) -> Cond:
        """A condition of the right shapes and no meaning, for planning without any weights."""

    def to(self, device: torch.device | str) -> Conditioner:
        """Move whatever computes conditions to `device`; most have nothing to move."""
        return self


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a parallel sampler: what is drawn, and what of it stays."""

    masked_after: int
    """Slots that are still masked when the step is over."""
    guidance: float = 1.0
    """s of z_u + s (z_c - z_u)."""
    temperature: float = 1.0
    """Divides the guided logits."""
    token_noise: float = 1.0
    """Factor on the Gumbel noise of the token draw: 1 draws from the softmax, 0 takes the best."""
    choice: Literal["log_prob", "logit", "prob", "random", "halton", "rolled_halton"] = "log_prob"
    """What decides which drawn tokens stay: the highest score does.

    Halton's order is the same for all samples, or rolled: each begins somewhere else in it.
    """
    choice_noise: float = 0.0
    """Factor on the Gumbel noise of that score."""
    time: float | None = None
    """What a backbone with a time input is told; None where it has none."""


Plan = Callable[[int, int, float, float], list[Step]]
"""plan(steps, slots, guidance, choice_noise) -> the steps of a family's published sampler."""


@dataclass(frozen=True, slots=True)
class SamplerDefaults:
    """A family's published sampler, and its settings when nobody says otherwise.

    `guidance` is s of z_u + s (z_c - z_u) for every family, at its largest where it grows.
    """

    steps: int
    guidance: float
    plan: Plan
    choice_noise: float = 0.0
    schedule: str = "arccos"


@dataclass(frozen=True, slots=True)
class TteoDefaults:
    """What test-time optimization begins with when nobody says otherwise: the paper's settings."""

    rewards: Mapping[str, float] = field(default_factory=lambda: dict(RENO_WEIGHTS))
    learning_rate: float = TteoSpec.model_fields["learning_rate"].default
    """Step size, which goes with the length of the embeddings and the scale of the rewards."""


@dataclass(frozen=True)
class Teacher:
    """A frozen masked diffusion model, and the facts that its students carry along."""

    name: str
    family: str
    revision: str
    license: str
    space: TokenSpace
    backbone: Backbone
    tokenizer: Tokenizer
    conditioner: Conditioner
    sampler: SamplerDefaults
    class_names: tuple[str, ...] = field(default=())
    class_ids: tuple[str, ...] = field(default=())
    """WordNet ids of the classes, where they have any."""
    takes_prompts: bool = False
    tteo: TteoDefaults = field(default_factory=TteoDefaults)

    def to(self, device: torch.device | str) -> Teacher:
        """Move both networks to `device` and return the teacher itself."""
        self.backbone.to(device)
        self.tokenizer.to(device)
        self.conditioner.to(device)
        return self
