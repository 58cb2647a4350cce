"""GenEval's own layout: what is written is read back, and results of the original tool count."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.metrics.geneval_folder import read_folder, read_results, save_batch, start_folder
from dimo_cli.metrics.geneval_requests import TAGS, Request
from dimo_cli.metrics.prompts import PromptSet, geneval_set

ROW = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}


def row(tag, n=0):
    """Metadata as the benchmark has it."""
    return {**ROW, "tag": tag, "prompt": f"{tag} {n}"}


@pytest.fixture
def prompts():
    """One prompt of every task, four images each."""
    requests = [Request.model_validate(row(tag)) for tag in TAGS]
    return geneval_set(requests, [f"{n:05d}" for n in range(len(TAGS))], 4)


@pytest.fixture
def images(prompts):
    generator = torch.Generator().manual_seed(0)
    shape = (prompts.num_images, 3, 6, 8)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path, prompts, images):
    """A folder as a generation leaves it, written by two ranks in turns."""
    path = tmp_path / "images"
    start_folder(path, prompts)
    for first in (5, 0, 10, 15, 20):
        part = images[first : first + 5]
        save_batch(path, prompts, Batch(part, first, prompts.prompts_of(first, len(part))))
    return path


def test_the_layout_is_that_of_the_original_tool(folder, prompts):
    assert sorted(path.name for path in folder.iterdir()) == list(prompts.keys)
    for number, tag in enumerate(TAGS):
        inner = folder / f"{number:05d}"
        assert json.loads((inner / "metadata.jsonl").read_text()) == row(tag)
        names = sorted(path.name for path in (inner / "samples").iterdir())
        assert names == ["0000.png", "0001.png", "0002.png", "0003.png"]


def test_what_was_written_is_read_back(folder, prompts, images):
    found, paths = read_folder(folder)
    assert found == prompts
    for path, image in zip(paths, images, strict=True):
        assert np.array_equal(np.array(Image.open(path)), image.permute(1, 2, 0).numpy())


def test_folders_and_images_are_in_the_order_of_their_numbers(tmp_path):
    for n in (10, 9, 100):
        samples = tmp_path / str(n) / "samples"
        samples.mkdir(parents=True)
        (tmp_path / str(n) / "metadata.jsonl").write_text(json.dumps(row("colors", n), indent=1))
        for name in ("10.png", "9.png", ".hidden"):
            (samples / name).touch()
    (tmp_path / "notes.txt").touch()
    found, paths = read_folder(tmp_path)
    assert found.prompts == ("colors 9", "colors 10", "colors 100")
    assert found.images_per_prompt == 2
    assert [path.name for path in paths] == ["9.png", "10.png"] * 3


def test_nothing_is_overwritten(folder, prompts):
    with pytest.raises(SpecError, match="is not empty"):
        start_folder(folder, prompts)


def test_a_file_is_no_folder(tmp_path, prompts):
    path = tmp_path / "images"
    path.touch()
    with pytest.raises(SpecError, match="is not empty"):
        start_folder(path, prompts)
    with pytest.raises(MissingError, match="no folder"):
        read_folder(path)


def test_other_prompts_have_no_such_folder(tmp_path):
    with pytest.raises(SpecError, match="not of `shapes`"):
        start_folder(tmp_path / "images", PromptSet("shapes", ("a circle",)))
    assert not (tmp_path / "images").exists()


def test_a_folder_without_numbers_is_refused(tmp_path):
    (tmp_path / "samples").mkdir()
    with pytest.raises(SpecError, match="no subfolder with a number"):
        read_folder(tmp_path)


def test_a_prompt_with_fewer_images_is_named(folder):
    (folder / "00003" / "samples" / "0002.png").unlink()
    with pytest.raises(SpecError, match=r"00003` has 3 images, .*00000` has 4"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["0004.jpg", "grid.png", "0004.part"])
def test_a_stranger_among_the_images_is_named(folder, name):
    (folder / "00002" / "samples" / name).touch()
    with pytest.raises(SpecError, match=f"{name}` is not an image of GenEval's layout"):
        read_folder(folder)


def test_a_prompt_without_metadata_or_images_is_named(folder):
    metadata = folder / "00001" / "metadata.jsonl"
    content = metadata.read_text()
    metadata.unlink()
    with pytest.raises(MissingError, match=r"no file .*00001/metadata\.jsonl"):
        read_folder(folder)
    metadata.write_text(content)
    samples = folder / "00001" / "samples"
    for path in samples.iterdir():
        path.unlink()
    with pytest.raises(SpecError, match=r"00001/samples` is empty"):
        read_folder(folder)
    samples.rmdir()
    with pytest.raises(MissingError, match=r"00001/samples"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"tag": "colors"', "Invalid JSON"),
        (json.dumps({**ROW, "tag": "colour"}), "`tag`"),
        (json.dumps({**ROW, "note": 1}), "`note`"),
    ],
)
def test_wrong_metadata_is_named(folder, content, match):
    (folder / "00001" / "metadata.jsonl").write_text(content)
    with pytest.raises(SpecError, match=rf"00001/metadata\.jsonl`: .*{match}"):
        read_folder(folder)


def result_lines():
    """Results as the original tool writes them: two prompts a task, two images each."""
    lines = []
    for number, tag in enumerate(TAGS):
        for prompt in range(2):
            for image in range(2):
                lines.append(
                    {
                        "filename": f"images/{2 * number + prompt:05d}/samples/{image:04d}.png",
                        "tag": tag,
                        "prompt": f"{tag} {prompt}",
                        "correct": prompt == 0 and image <= number % 2,
                        "reason": "",
                        "metadata": json.dumps(row(tag, prompt)),
                        "details": "{}",
                    }
                )
    return lines


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_results_of_the_original_tool_are_plain_geneval(tmp_path):
    overall, *tasks = read_results(write(tmp_path / "results.jsonl", result_lines()))
    assert overall.metric == "geneval"
    assert [task.metric for task in tasks] == [f"geneval_{tag}" for tag in TAGS]
    assert [task.value for task in tasks] == [0.25, 0.5] * 3
    assert overall.value == pytest.approx(0.375)
    assert overall.details["correct_images"] == pytest.approx(9 / 24)
    assert overall.details["correct_prompts"] == pytest.approx(6 / 12)
    assert (overall.protocol["images"], overall.protocol["prompts"]) == (24, 12)
    assert overall.protocol["detector"] == "the original tool's"
    assert len(overall.protocol["results_sha256"]) == 64


def test_overall_is_the_mean_of_tasks_not_of_images(tmp_path):
    lines = result_lines()
    more = [{**lines[0], "filename": f"more/{n}.png", "correct": True} for n in range(96)]
    overall, single, *_ = read_results(write(tmp_path / "results.jsonl", lines + more))
    assert single.value == pytest.approx(97 / 100)
    assert overall.value == pytest.approx((0.97 + 0.5 + 0.25 + 0.5 + 0.25 + 0.5) / 6)
    assert overall.details["correct_images"] == pytest.approx(105 / 120)


BAD_LINES = {
    "no verdict": (lambda line: line.pop("correct"), "`correct`"),
    "a verdict in words": (lambda line: line.update(correct="true"), "`correct`"),
    "another tag": (lambda line: line.update(tag="styles"), "`tag`"),
    "a tag of another prompt": (lambda line: line.update(tag="colors"), "its tag is colors"),
    "no metadata": (lambda line: line.pop("metadata"), "`metadata`"),
    "metadata that is no text": (lambda line: line.update(metadata=ROW), "`metadata`"),
    "metadata that is no JSON": (lambda line: line.update(metadata="{"), "Invalid JSON"),
    "an image twice": (
        lambda line: line.update(filename="images/00000/samples/0000.png"),
        "is on line 1 already",
    ),
}


@pytest.mark.parametrize("problem", BAD_LINES)
def test_a_wrong_line_of_results_is_named(tmp_path, problem):
    change, match = BAD_LINES[problem]
    lines = result_lines()
    change(lines[6])
    with pytest.raises(SpecError, match=rf"results\.jsonl`, line 7.*{match}"):
        read_results(write(tmp_path / "results.jsonl", lines))


def test_results_that_are_no_json_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("filename,correct\n")
    with pytest.raises(SpecError, match="line 1: Invalid JSON"):
        read_results(path)


def test_results_without_a_task_are_no_score(tmp_path):
    lines = [line for line in result_lines() if line["tag"] != "counting"]
    with pytest.raises(SpecError, match="no image of the task `counting`"):
        read_results(write(tmp_path / "results.jsonl", lines))


def test_missing_and_empty_results_are_refused(tmp_path):
    with pytest.raises(MissingError, match="no file"):
        read_results(tmp_path / "results.jsonl")
    with pytest.raises(SpecError, match="line 1: blank"):
        read_results(write(tmp_path / "results.jsonl", []))
