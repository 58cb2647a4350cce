"""Prompts as Show-o reads them: token ids of phi-1.5 in a fixed number of places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import described_by
from dimo_cli.hub.published import HubFile, Store
from dimo_cli.teachers.conditioning import PromptConditioner, TextEncoder, TextTower
from dimo_cli.teachers.showo.architecture import SPECIAL, Architecture

WORDS = HubFile("microsoft/phi-1_5", "tokenizer.json")
END = "<|endoftext|>"  # begins a text as well
PAD, TASK = "[PAD]", "<|t2i|>"


def text_part(words: Sequence[int], end: int, arch: Architecture) -> list[int]:
    """The ids of a text between the task's and its end, padded on the left or cut on the right."""
    begun = list(words) if words and words[0] == end else [end, *words]
    ids = [arch.special(TASK), *begun, end]
    if len(ids) > arch.text_length:
        return [*ids[: arch.text_length - 1], end]
    return [arch.special(PAD)] * (arch.text_length - len(ids)) + ids


class ShowoText(TextTower):
    """Token ids, and nothing more: what they mean is up to the transformer."""

    def __init__(self, words: Any, arch: Architecture) -> None:
        """`words` cut text into ids: a `Tokenizer` of the package `tokenizers`."""
        super().__init__(nn.Identity())
        self.words, self.arch = words, arch
        self.end: int = words.token_to_id(END)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        cut = self.words.encode_batch(list(prompts), add_special_tokens=False)
        return torch.tensor([text_part(words.ids, self.end, self.arch) for words in cut])

    def states(self, ids: Tensor) -> dict[str, Tensor]:
        return {"ids": ids}

    def tokenizer_json(self) -> str:
        from tokenizers import Tokenizer, processors

        alone = Tokenizer.from_str(self.words.to_str())
        alone.post_processor = processors.TemplateProcessing(
            single=f"{TASK} {END} $A {END}",
            special_tokens=[(TASK, self.arch.special(TASK)), (END, self.end)],
        )
        length, pad = self.arch.text_length, self.arch.special(PAD)
        alone.enable_truncation(length)
        alone.enable_padding(direction="left", length=length, pad_id=pad, pad_token=PAD)
        return str(alone.to_str())


def load_text(arch: Architecture, store: Store) -> ShowoText:
    """The published tokenizer, with the tokens that Show-o adds."""
    from tokenizers import Tokenizer

    with described_by(WORDS):
        words = Tokenizer.from_file(str(store.folder((WORDS,)) / WORDS.path))
    known = words.get_vocab_size()
    if known != arch.llm_vocab_size or words.token_to_id(END) is None:
        raise MissingError(
            f"`{WORDS}` has {known} ids, and this teacher was trained with {arch.llm_vocab_size} "
            f"and with {END} among them.",
            "Is it the file of phi-1.5? For a model of your own, set "
            "`teacher.architecture.llm_vocab_size`.",
        )
    words.add_special_tokens(list(SPECIAL))
    return ShowoText(words, arch)


def build_conditioner(arch: Architecture, store: Store | None) -> PromptConditioner:
    """Prompts as they are, the empty one as null."""

    def load_encoder() -> TextEncoder:
        assert store is not None, "a blank conditioner encodes no prompts"
        return load_text(arch, store)

    origin = store.origin() if store else "nowhere"
    return PromptConditioner(
        {"ids": (arch.text_length,)},
        load_encoder,
        key=f"{WORDS}, {arch.llm_vocab_size} ids and those of Show-o, from {origin}",
        cache=store.prompt_cache() if store else None,
    )
