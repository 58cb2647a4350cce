"""The transformer of Show-o (Xie et al., 2024): phi with norms on queries and keys, over one row of
prompt and image.

A prompt is read from left to right and never sees the image; the image sees all. So a frozen
network reads each prompt once, whatever the image is (`prepared`); one in training reads it in each
pass. Attribute names are the published state dict's, without its first word. Shapes: B batch, T
places of the prompt, L image tokens, S = T + L + 2 places in all, h heads of width C, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.teachers.protocol import Backbone, Cond, LastLinear, call_plainly
from dimo_cli.teachers.showo.architecture import Architecture
from dimo_cli.teachers.showo.memory import PromptMemory

PAST = "past"  # of a condition: keys and values [B, layers, 2, h, T, C] of its prompts


def rotary_table(arch: Architecture, length: int, device: torch.device) -> Tensor:
    """Cosines and sines [2, S, R] of every place, for both halves of what is rotated."""
    index = torch.arange(0, arch.rotary_width, 2, dtype=torch.float32, device=device)
    frequencies = 1 / arch.rope_theta ** (index / arch.rotary_width)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """Heads [B, h, S, C], their first R channels turned by their places."""
    cosines, sines = table
    turned, still = x[..., : cosines.shape[-1]], x[..., cosines.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosines + torch.cat([-second, first], dim=-1) * sines
    return torch.cat([turned, still], dim=-1)


def text_mask(is_text: Tensor) -> Tensor:
    """Which places of a prompt [B, T, T] each of them sees: earlier ones, but no padding.

    Padding sees itself, so that no row is empty; nobody reads what it finds.
    """
    places = is_text.shape[1]
    earlier = torch.ones(places, places, dtype=torch.bool, device=is_text.device).tril()
    return earlier & (is_text[:, None] | ~is_text[..., None])


def image_mask(is_text: Tensor, rows: int) -> Tensor:
    """Which places [B, 1, S] the image sees: all but padding; `rows` are its own."""
    return F.pad(is_text, (0, rows), value=True)[:, None]


def whole_mask(is_text: Tensor, rows: int) -> Tensor:
    """Which places each sees [B, S, S]."""
    text = F.pad(text_mask(is_text), (0, rows), value=False)
    return torch.cat([text, image_mask(is_text, rows).expand(-1, rows, -1)], dim=1)


class Attention(nn.Module):
    """Attention whose queries and keys are normed, head by head, before they are rotated."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.hidden_size
        self.heads = arch.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.dense = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.q_layernorm, self.k_layernorm = (
            nn.LayerNorm(arch.head_width, arch.layer_norm_eps) for _ in range(2)
        )

    def forward(
        self, x: Tensor, rotary: Tensor, allowed: Tensor, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map [B, n, D] to the same shape; the second result are its keys and values.

        `past` [B, 2, h, m, C] are those of the m places before it, and `allowed` [B, n or 1, m + n]
        is what it sees.
        """
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = rotated(self.q_layernorm(q), rotary).to(v.dtype)
        own = torch.stack([rotated(self.k_layernorm(k), rotary).to(v.dtype), v], dim=1)
        k, v = (own if past is None else torch.cat([past, own], dim=3)).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
        return self.dense(attended.transpose(1, 2).flatten(2)), own


class FeedForward(nn.Module):
    """The MLP of a layer."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(arch.hidden_size, arch.intermediate_size)
        self.fc2 = nn.Linear(arch.intermediate_size, arch.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Layer(nn.Module):
    """Attention and MLP side by side, behind one norm."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(arch.hidden_size, arch.layer_norm_eps)
        self.self_attn = Attention(arch)
        self.mlp = FeedForward(arch)

    def forward(
        self, x: Tensor, rotary: Tensor, allowed: Tensor, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map [B, n, D] to the same shape; the second result are its keys and values."""
        normed = self.input_layernorm(x)
        attended, own = self.self_attn(normed, rotary, allowed, past)
        return x + attended + self.mlp(normed), own


class ShowoBackbone(Backbone):
    """Image tokens to logits over the image codes.

    Conditions are `ids` [B, T] of the prompt, padded on the left. Its table and its head have rows
    for all ids; an image takes those of the codes, behind which comes the mask.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch, self.memory = arch, PromptMemory()
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(arch.vocab_size, arch.hidden_size),
                "layers": nn.ModuleList(Layer(arch) for _ in range(arch.num_hidden_layers)),
                "final_layernorm": nn.LayerNorm(arch.hidden_size, arch.layer_norm_eps),
            }
        )
        self.lm_head = nn.Linear(arch.hidden_size, arch.vocab_size)
        self.codes = slice(arch.first_code, arch.first_code + arch.codebook_size)

    @property
    def table(self) -> Tensor:
        """The embedding of all ids."""
        weight = self.model["embed_tokens"].weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def layers(self) -> list[nn.Module]:
        """All layers."""
        return list(self.model["layers"].children())

    def embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens.squeeze(-1) + self.arch.first_code, self.table)

    def embed_probs(self, probs: Tensor, mask: Tensor | None = None) -> Tensor:
        embeds = probs.squeeze(-2) @ self.table[self.codes]
        return embeds if mask is None else torch.where(mask, self.table[-1], embeds)

    def prepared(self, cond: Cond) -> Cond:
        """The condition with keys and values of its prompts, each of which is read once.

        Of a network in training they change, and ranks that share one would wait for each other.
        """
        weights = list(self.parameters())
        if PAST in cond.tensors or any(w.requires_grad or is_shared(w) for w in weights):
            return cond
        ids = cond.tensors["ids"]
        if not cond.texts:
            past = self.read(ids)
        else:
            at_once = None if self.call_block is call_plainly else len(cond)
            state = state_of(weights, ids.device)
            past = self.memory.recall(state, cond.texts, ids, self.read, at_once)
        return replace(cond, tensors={**cond.tensors, PAST: past})

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        ids, length = cond.tensors["ids"].long(), embeds.shape[1]
        x = self.framed(embeds)
        rows, places = x.shape[1], ids.shape[1]
        rotary = rotary_table(self.arch, places + rows, x.device)
        past = cond.tensors.get(PAST)
        if past is not None:
            rotary, allowed = rotary[:, places:], image_mask(self.is_text(ids), rows)
        else:
            x = torch.cat([F.embedding(ids, self.table).to(x.dtype), x], dim=1)
            allowed = whole_mask(self.is_text(ids), rows)
        tapped = []
        for index, layer in enumerate(self.layers):
            before = None if past is None else past[:, index]
            x, _ = self.run_block(layer, x, rotary, allowed, before)
            if index in taps:
                tapped.append(x[:, -length - 1 : -1])
        x = self.model["final_layernorm"](x[:, -length - 1 : -1])
        return (x, tapped) if taps else x

    def framed(self, embeds: Tensor) -> Tensor:
        """Image tokens [B, L, D] between the tokens that begin and end an image."""
        ends = (self.table[self.arch.special(name)] for name in ("<|soi|>", "<|eoi|>"))
        start, end = (row.to(embeds.dtype).expand(embeds.shape[0], 1, -1) for row in ends)
        return torch.cat([start, embeds, end], dim=1)

    def is_text(self, ids: Tensor) -> Tensor:
        """Which places of a prompt are no padding."""
        return ids != self.arch.special("[PAD]")

    def read(self, ids: Tensor) -> Tensor:
        """Keys and values [n, layers, 2, h, T, C] of prompts [n, T]."""
        # What is first read while sampling must still serve a backward pass later.
        with torch.inference_mode(False), torch.no_grad():
            ids = ids.long().clone()
            x = F.embedding(ids, self.table)
            rotary = rotary_table(self.arch, ids.shape[1], ids.device)
            allowed, found = text_mask(self.is_text(ids)), []
            for layer in self.layers:
                x, own = self.run_block(layer, x, rotary, allowed, None)
                found.append(own)
            return torch.stack(found, dim=1)

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        last = self.last_linear(hidden)
        return F.linear(hidden, last.weight, last.bias)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        head = self.lm_head
        return LastLinear(hidden, head.weight[self.codes], head.bias[self.codes])

    def embedding_parameters(self) -> list[nn.Parameter]:
        # As in the recipe that it borrows, tokens and output alike; of both, few rows are images'.
        return [*self.model["embed_tokens"].parameters(), *self.lm_head.parameters()]


def is_shared(weight: Tensor) -> bool:
    """Whether several ranks hold parts of a weight, and must all ask for it."""
    return getattr(weight, "device_mesh", None) is not None


def state_of(weights: list[nn.Parameter], device: torch.device) -> tuple[Any, ...]:
    """What tells numbers that these weights make from those that they make once they changed."""
    kind = device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    versions = tuple((id(w), 0 if w.is_inference() else w._version) for w in weights)
    return versions, weights[0].dtype, device, precision
