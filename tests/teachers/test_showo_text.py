"""Prompts of Show-o as token ids: cut, padded, kept as they are, and exported."""

import pytest
import torch
from tokenizers import Tokenizer

from dimo_cli.errors import MissingError
from dimo_cli.hub.store import HubStore
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.showo.architecture import SPECIAL, Architecture
from dimo_cli.teachers.showo.text import WORDS, load_text
from tests.helpers.published import publish_showo, showo_words

IDS, LENGTH, END = 40, 9, 38
PROMPTS = ("a fox", "", "a very long text that nobody will ever read to its end", "<|endoftext|>a")


@pytest.fixture
def arch():
    return Architecture(num_vq_tokens=16, llm_vocab_size=IDS, max_seq_length=LENGTH)


@pytest.fixture
def text(fake_hub, arch):
    """The text encoder of a published file."""
    words = showo_words({"llm_vocab_size": IDS, "golden": {"eos_token_id": END}})
    fake_hub.add(WORDS.repo, WORDS.path, words.to_str().encode())
    return load_text(arch, HubStore())


def test_a_prompt_stands_on_the_right_between_the_task_and_the_end(text, arch):
    fox, nothing, long, begun = text.tokens(PROMPTS).tolist()
    pad, task, end = arch.special("[PAD]"), arch.special("<|t2i|>"), END
    letters = {letter: text.words.token_to_id(letter) for letter in "afox"}
    words = [letters["a"], text.words.token_to_id("Ġ"), *(letters[letter] for letter in "fox")]
    assert fox == [pad] * (arch.text_length - 8) + [task, end, *words, end]
    assert nothing == [pad] * (arch.text_length - 3) + [task, end, end]
    assert (long[:2], long[-1]) == ([task, end], end)
    assert pad not in long
    assert begun == [pad] * (arch.text_length - 4) + [task, end, letters["a"], end]


def test_added_tokens_have_the_published_ids_in_the_published_order(text, arch):
    ids = [text.words.token_to_id(name) for name in SPECIAL]
    assert ids == [arch.special(name) for name in SPECIAL]
    assert ids == list(range(arch.llm_vocab_size, arch.first_code))


def test_an_exported_tokenizer_makes_the_same_ids(text):
    alone = Tokenizer.from_str(text.tokenizer_json())
    assert [alone.encode(prompt).ids for prompt in PROMPTS[:3]] == text.tokens(PROMPTS[:3]).tolist()


def test_ids_are_cached_as_whole_numbers(arch, text, tmp_path):
    """In half precision the ids of image codes would be others."""

    def conditioner():
        return PromptConditioner({"ids": (arch.text_length,)}, lambda: text, "words", tmp_path)

    for _ in range(2):
        found = conditioner().prompts(PROMPTS).tensors["ids"]
        assert torch.equal(found, text.tokens(PROMPTS))
    text.states = lambda ids: {"ids": ids + 58_497}
    cond = conditioner().prompts(["another"])
    assert torch.equal(cond.tensors["ids"], text.tokens(["another"]) + 58_497)


def test_the_null_condition_is_the_empty_prompt(fake_hub, golden):
    architecture = publish_showo(fake_hub, golden)
    conditioner = load_teacher(TeacherSource(name="showo", architecture=architecture)).conditioner
    nothing = conditioner.encoder().tokens(["", ""])
    assert torch.equal(conditioner.null(2).tensors["ids"], nothing)


def test_a_tokenizer_of_another_model_is_refused(arch, text):
    other = arch.model_copy(update={"llm_vocab_size": arch.llm_vocab_size + 1})
    with pytest.raises(MissingError, match=f"`{WORDS}` has {arch.llm_vocab_size} ids"):
        load_text(other, HubStore())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(fake_hub, arch, content):
    fake_hub.add(WORDS.repo, WORDS.path, content)
    with pytest.raises(MissingError, match=str(WORDS)):
        load_text(arch, HubStore())
