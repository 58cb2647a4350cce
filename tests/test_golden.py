"""Golden numbers come out as they were recorded, and the repository that holds them is small."""

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.helpers import golden
from tests.helpers.golden import HERE, load_golden, main, packed, read_golden, unpacked

ROOT = Path(__file__).parents[1]
MOST_TRACKED = 48_000_000
MOST_PLAIN = 100_000
FILES = {
    "config.json": b'{"depth": 2}',
    "io.safetensors": save({"odd": torch.tensor([True]), "logits": torch.randn(5, 3)}),
    "vqvae/weights.safetensors": save({"weight": torch.arange(7.0)}),
}


@pytest.fixture
def recorded(tmp_path):
    """A golden folder `ours` as a recorder leaves it."""
    for name, content in FILES.items():
        path = tmp_path / "ours" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


@pytest.fixture
def only_packed(recorded):
    """The same, packed into one file."""
    (recorded / "ours.packed").write_bytes(packed(recorded / "ours"))
    shutil.rmtree(recorded / "ours")
    return recorded


def test_every_byte_comes_out_as_it_went_in(only_packed):
    assert unpacked(only_packed / "ours.packed") == FILES
    for name, content in FILES.items():
        assert read_golden(f"ours/{name}", only_packed) == content


def test_tensors_and_documents_are_read_alike_from_a_folder_and_from_a_packed_one(recorded):
    plain = {name: load_golden(f"ours/{name}", recorded) for name in FILES}
    (recorded / "ours.packed").write_bytes(packed(recorded / "ours"))
    shutil.rmtree(recorded / "ours")
    for name, expected in plain.items():
        found = load_golden(f"ours/{name}", recorded)
        assert found.keys() == expected.keys()
        assert all(torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key]))
                   for key in expected)  # fmt: skip


def test_a_test_may_change_what_it_read(only_packed):
    name = "ours/vqvae/weights.safetensors"
    load_golden(name, only_packed)["weight"].zero_()
    assert load_golden(name, only_packed)["weight"].any()


def test_a_plain_file_goes_before_a_packed_one(only_packed):
    (only_packed / "ours").mkdir()
    (only_packed / "ours" / "config.json").write_text('{"depth": 3}')
    assert load_golden("ours/config.json", only_packed) == {"depth": 3}


@pytest.mark.parametrize("name", ["ours/no.json", "theirs/config.json", "no.json"])
def test_what_was_not_recorded_is_named(only_packed, name):
    with pytest.raises(FileNotFoundError) as caught:
        read_golden(name, only_packed)
    assert caught.value.filename == str(only_packed / name)


def test_a_folder_packs_into_the_same_bytes_wherever_and_whenever(recorded, tmp_path_factory):
    copy = tmp_path_factory.mktemp("elsewhere") / "theirs"
    shutil.copytree(recorded / "ours", copy, copy_function=shutil.copyfile)
    assert packed(copy) == packed(recorded / "ours")


def test_numbers_take_less_than_xz_alone_needs(tmp_path):
    content = save({"weight": torch.randn(40_000)})
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert len(packed(tmp_path)) < 0.86 * len(content) < len(lzma.compress(content, preset=9))


def test_a_folder_is_packed_and_unpacked_from_the_command_line(recorded, monkeypatch):
    monkeypatch.setattr(golden, "HERE", recorded)
    main("pack", str(recorded / "ours"))
    main("unpack", "ours", str(recorded / "again"))
    for name, content in FILES.items():
        assert (recorded / "again" / name).read_bytes() == content


def test_large_golden_files_are_packed():
    plain = [path for path in HERE.rglob("*") if path.is_file() and path.suffix != ".packed"]
    assert plain
    assert not [path for path in plain if path.stat().st_size > MOST_PLAIN]


def test_the_repository_stays_small():
    if not shutil.which("git"):
        pytest.skip("there is no git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if not listed.stdout:
        pytest.skip("this is no checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0")[:-1]]
    total = sum(path.stat().st_size for path in paths if path.is_file())
    assert total <= MOST_TRACKED, f"tracked files take {total:,} bytes, of {MOST_TRACKED:,}"
