"""Prompts are encoded once ever; what is cached is what was encoded."""

import pytest
import torch

from dimo_cli.errors import SpecError
from dimo_cli.teachers import conditioning
from dimo_cli.teachers.conditioning import ClassConditioner, PromptConditioner, TextEncoder


class Letters(TextEncoder):
    """Counts letters; remembers what it was asked."""

    def __init__(self, asked):
        self.asked = asked

    def encode(self, prompts):
        self.asked.append(list(prompts))
        counts = [[p.count(letter) / 3 for letter in "abc"] for p in prompts]
        return {"text": torch.tensor(counts)}

    def to(self, device):
        pass


@pytest.fixture
def asked():
    return []


def conditioner(asked, cache=None, key="letters", **settings):
    constants = {"micro": torch.tensor([1.0, 2.0])}
    return PromptConditioner(
        {"text": (3,)}, lambda: Letters(asked), key, cache, constants, **settings
    )


def test_prompts_become_rows_with_the_constants_of_the_family(asked):
    cond = conditioner(asked).prompts(["aab", "c", "aab"])
    assert len(cond) == 3
    assert torch.equal(cond.tensors["text"][0], cond.tensors["text"][2])
    torch.testing.assert_close(
        cond.tensors["text"][:2], torch.tensor([[2, 1, 0], [0, 0, 1]]) / 3, atol=1e-3, rtol=0
    )
    assert cond.tensors["micro"].tolist() == [[1.0, 2.0]] * 3
    assert asked == [["aab", "c"]]


def test_a_cached_prompt_is_never_encoded_again_and_reads_the_same(asked, tmp_path):
    first = conditioner(asked, tmp_path).prompts(["abc", "cab"])
    again = conditioner(asked, tmp_path).prompts(["cab", "abc"])
    assert asked == [["abc", "cab"]]
    assert torch.equal(first.tensors["text"].flip(0), again.tensors["text"])


def test_another_encoder_has_a_cache_of_its_own(asked, tmp_path):
    conditioner(asked, tmp_path).prompts(["abc"])
    conditioner(asked, tmp_path, key="other").prompts(["abc"])
    assert len(asked) == 2


def test_a_damaged_cache_entry_is_encoded_again(asked, tmp_path):
    conditioner(asked, tmp_path).prompts(["abc"])
    (entry,) = tmp_path.rglob("*.safetensors")
    entry.write_bytes(b"not tensors")
    conditioner(asked, tmp_path).prompts(["abc"])
    conditioner(asked, tmp_path).prompts(["abc"])
    assert len(asked) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_of_one_number_do_not_write_one_cache_entry(asked, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(conditioning, "save_file", lambda row, path: written.append(path))
    for _ in range(2):
        conditioner(asked, tmp_path).prompts(["abc"])
    assert len(set(written)) == 2


def test_null_is_the_negative_prompt_encoded_once(asked):
    prompts = conditioner(asked, negative_prompt="b")
    for count in (1, 4):
        null = prompts.null(count)
        assert len(null) == count
        torch.testing.assert_close(
            null.tensors["text"][0], torch.tensor([0, 1, 0]) / 3, atol=1e-3, rtol=0
        )
    assert asked == [["b"]]


def test_prompts_are_drawn_from_the_dataset_by_the_runs_generator(asked, generator):
    prompts = conditioner(asked)
    with pytest.raises(SpecError, match="the run has none"):
        prompts.draw(2, generator)
    prompts.dataset = ["a", "b", "c"]
    first = prompts.draw(20, torch.Generator().manual_seed(1)).tensors["text"]
    same = prompts.draw(20, torch.Generator().manual_seed(1)).tensors["text"]
    assert torch.equal(first, same)
    assert len(first.unique(dim=0)) == 3


def test_a_blank_condition_has_the_shapes_of_a_real_one_and_needs_no_encoder(asked):
    prompts = conditioner(asked)
    blank = {name: t.shape for name, t in prompts.blank(5).tensors.items()}
    assert asked == []
    assert blank == {name: t.shape for name, t in prompts.prompts(["a"] * 5).tensors.items()}


def test_classes_refuse_prompts_and_prompts_refuse_classes(asked):
    with pytest.raises(SpecError, match="takes classes"):
        ClassConditioner(10).prompts(["a"])
    with pytest.raises(SpecError, match="takes prompts"):
        conditioner(asked).labels(torch.tensor([1]))


def test_a_condition_at_a_time_carries_it_for_every_sample(asked):
    cond = ClassConditioner(10).labels(torch.tensor([1, 2]))
    assert cond.at(None) is cond
    assert cond.at(7.0).tensors["time"].tolist() == [7.0, 7.0]


def test_the_latest_prompts_stay_in_memory(asked, monkeypatch):
    monkeypatch.setattr("dimo_cli.teachers.conditioning.KEPT", 2)
    kept = conditioner(asked)
    first = kept.prompts(["a", "b"])
    again = kept.prompts(["b", "a"])
    assert asked == [["a", "b"]]
    assert torch.equal(first.tensors["text"].flip(0), again.tensors["text"])
    kept.prompts(["c"])  # in the place of `b`, which waited longest
    kept.prompts(["a"])
    assert asked == [["a", "b"], ["c"]]
    kept.prompts(["b"])
    assert asked == [["a", "b"], ["c"], ["b"]]
