"""What a command line cannot mean is refused before anything is loaded, in a sentence."""

import pytest

REFUSED = {
    "a limit twice": ("eval fid digits --max fid=0.0001 --max fid=1000", "`--max` is given twice"),
    "a reward twice": ("tteo shapes --reward shapes_clip=1 --reward shapes_clip=2", "given twice"),
    "no weight": ("tteo shapes --reward shapes_clip=", "not of the form NAME=WEIGHT"),
    "an image over the grid": ("sample --out x --grid x/00000.png", "where `--out` puts an image"),
    "a grid over the input": ("sample --init x.png --grid ./x.png", "`x.png` is an input"),
    "an image over an end": (
        "sample --interpolate x/00003.png random --out x",
        "`x/00003.png` is an input",
    ),
    "a digit that is no number": ("sample --class ²", "There is no class `²`"),
    "more digits than a number": (f"sample --class {'9' * 5000}", "There is no class"),
    "no time at all": ("arena --budget 0s", "--budget must be a number"),
    "more time than there is": (f"arena --also {'9' * 400}h", "--also must be a number"),
    "a seed too large": (f"eval fidelity shapes --seed {2**70}", "'--seed'"),
    "images without end": (f"eval fidelity shapes -n {2**70}", "'--samples'"),
    "json before a metric": ("eval --json fid digits", "dimo eval fid ... --json"),
    "quiet before a metric": ("eval -q fid digits", "dimo eval fid ... --quiet"),
    "a metric that is not compared": ("eval --compare a b fid digits", "`--compare` measures"),
    "no such teacher": ("spec check s.yaml --set teacher.name=../../etc", "not a known teacher"),
    "no such objective": ("spec check s.yaml --set objectives=[foo]", "foo"),
    "a key twice in a list": (
        "spec check s.yaml --set objectives=[{kind:~dimo,kind:~idlm}]",
        "set twice",
    ),
    "an octal number": ("spec check s.yaml --set train.steps=010", "'010'"),
    "a number of sixties": ("spec check s.yaml --set train.steps=1:30", "'1:30'"),
    "a machine of none": ("distill --preset digits --node 1", "`--node` is 1"),
    "nobody to reach": ("distill --preset digits --main host:1", "`--main` needs `--nodes`"),
    "no such port": ("distill --preset digits --gpus 1 --nodes 2 --main host:0", "from 1 to 65535"),
    "another preset": ("spec check s.yaml --preset shapes", "over the preset `digits`"),
    "a curve of one": ("eval fid digits --plot x.png", "`--plot` is the curve of `--sweep`"),
    "a folder for a file": ("presets cp digits . --force", "`.` is a folder"),
}


@pytest.mark.parametrize(("line", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused(dimo, tmp_path, line, words):
    (tmp_path / "s.yaml").write_text("preset: digits\n")
    refused = dimo(*(word.replace("~", " ") for word in line.split()))
    assert refused.exit_code == 2, refused.output
    assert words in " ".join(refused.stderr.split())
    (tmp_path / "s.yaml").unlink()
    assert not list(tmp_path.iterdir())
