"""The Inception network of the FID, from either of the two files that carry its weights.

It is TensorFlow's network of December 2015: 1008 classes, average pools that leave the padding
out, and a max pool in its last block. torchvision's `inception_v3` is another network.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception as torchvision_inception  # type: ignore[import-untyped]
from torchvision.models.inception import Inception3  # type: ignore[import-untyped]

from dimo_cli.errors import MissingError
from dimo_cli.files.reading import check_regular
from dimo_cli.files.untrusted import ARCHIVE_ERRORS
from dimo_cli.files.writing import file_sha256, whole_file
from dimo_cli.hub.access import dimo_cache, is_offline
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.hub.published import StateDict
from dimo_cli.hub.weights import read_pickle, state_dict_in, strip_wrappers
from dimo_cli.metrics.protocol import FeatureNetwork, Features
from dimo_cli.metrics.resize import check_mode, resized_parts

NAME, DIMENSIONS, CLASSES = "inception-2015-12-05", 2048, 1008
STATE_DICT, SCRIPT = "pt_inception-2015-12-05-6726825d.pth", "inception-2015-12-05.pt"
VARIABLE = "DIMO_INCEPTION"

# Where the authors publish each file, and its hash. The first is preferred: it holds nothing but
# numbers, while the second holds a program as well.
PUBLISHED = {
    STATE_DICT: (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + STATE_DICT,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    SCRIPT: (
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + SCRIPT,
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    ),
}


def average(x: Tensor) -> Tensor:
    """Mean of the neighbors, of those that exist."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(torchvision_inception.InceptionA):
    """A block at 35 x 35."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return [self.branch1x1(x), five, double, self.branch_pool(average(x))]


class BlockC(torchvision_inception.InceptionC):
    """A block at 17 x 17."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [self.branch1x1(x), seven, double, self.branch_pool(average(x))]


class BlockE(torchvision_inception.InceptionE):
    """A block at 8 x 8; the last one of the network takes the maximum where others average."""

    is_last = False

    def _forward(self, x: Tensor) -> list[Tensor]:
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.is_last else average(x)
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(pooled),
        ]


class LastBlock(BlockE):
    """The last block."""

    is_last = True


class FidInception(Inception3):
    """torchvision's network with the differences of 2015; names are those of the state dict."""

    def __init__(self) -> None:
        super().__init__(num_classes=CLASSES, aux_logits=False, init_weights=False)
        self.Mixed_5b = BlockA(192, pool_features=32)
        self.Mixed_5c = BlockA(256, pool_features=64)
        self.Mixed_5d = BlockA(288, pool_features=64)
        self.Mixed_6b = BlockC(768, channels_7x7=128)
        self.Mixed_6c = BlockC(768, channels_7x7=160)
        self.Mixed_6d = BlockC(768, channels_7x7=160)
        self.Mixed_6e = BlockC(768, channels_7x7=192)
        self.Mixed_7b = BlockE(1280)
        self.Mixed_7c = LastBlock(2048)

    def trunk(self) -> nn.Sequential:
        """Everything up to the pooled features."""
        named = dict(self.named_children())
        return nn.Sequential(*(part for name, part in named.items() if name not in HEAD))


HEAD = ("AuxLogits", "dropout", "fc")


class InceptionFeatures(FeatureNetwork):
    """Pooled features [B, 2048] and logits [B, 1008] without bias."""

    name, dimensions, classes = NAME, DIMENSIONS, CLASSES

    def __init__(self, trunk: nn.Module, to_logits: Tensor, resize: str, sha256: str) -> None:
        """`to_logits` [1008, 2048] makes logits of features."""
        super().__init__()
        self.trunk, self.resize, self.sha256 = trunk, resize, sha256
        self.register_buffer("to_logits", to_logits.detach())
        self.to_logits: Tensor
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        parts = [self._vectors(pixels) for pixels in resized_parts(images, self.resize)]
        vectors = torch.cat(parts)
        return Features(vectors, F.linear(vectors, self.to_logits))

    def _vectors(self, pixels: Tensor) -> Tensor:
        # Both map bytes to about -1..1; they differ by half a gray level, and so do published FIDs.
        pixels = pixels / 127.5 - 1 if self.resize == "legacy_pytorch" else (pixels - 128) / 128
        return self.trunk(pixels).flatten(1)


def load_inception(
    resize: str = "clean",
    path: Path | None = None,
    download: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> InceptionFeatures:
    """The network with published weights; only with `download` is the network asked for them."""
    check_mode(resize)
    found = find_file(path) or (download_file(say) if download else None)
    if found is None:
        raise MissingError(
            f"The Inception network of the FID is not on this machine: neither `{STATE_DICT}` "
            f"nor `{SCRIPT}`.",
            f"Name either file with `--inception PATH` or {VARIABLE}=PATH, or copy it to "
            f"{download_folder()}.",
        )
    check_regular(found)
    sha256 = file_sha256(found)
    try:
        if is_script(found):
            check_script(found, sha256)
            trunk, classes = read_script(found)
        else:
            network = fill_state_dict(found)
            trunk, classes = network.trunk(), network.fc.weight
    except (pickle.UnpicklingError, *ARCHIVE_ERRORS) as error:
        reason = re.sub(r"\s+", " ", str(error))[:160]
        raise MissingError(
            f"`{found}` is no Inception network of the FID, or is truncated ({reason}).",
            f"Get `{STATE_DICT}` or `{SCRIPT}` again.",
        ) from error
    return InceptionFeatures(trunk, classes, resize, sha256)


def download_folder() -> Path:
    """The folder that downloads go to."""
    return dimo_cache() / "metrics"


def find_file(path: Path | None) -> Path | None:
    """The file that is named, or that some program left in its cache; None if there is none."""
    variable = os.environ.get(VARIABLE)
    named = path or (Path(variable) if variable else None)
    if named is not None:
        named = named.expanduser()
        folder_files = [named / name for name in PUBLISHED] if named.is_dir() else [named]
        found = next((file for file in folder_files if file.is_file()), None)
        if found is None:
            origin = "`--inception`" if path else VARIABLE
            raise MissingError(
                f"{origin} is `{named}`, where there is no Inception network.",
                f"Name `{STATE_DICT}` or `{SCRIPT}`, or a folder that has either.",
            )
        return found
    folders = (download_folder(), Path(torch.hub.get_dir()) / "checkpoints")
    files = (folder / name for name in PUBLISHED for folder in folders)
    return next((file for file in files if file.is_file()), None)


def download_file(say: Callable[[str], None]) -> Path:
    """Fetch the state dict into the cache, completely and with the right hash, or not at all."""
    url, sha256 = PUBLISHED[STATE_DICT]
    target = download_folder() / STATE_DICT
    by_hand = f"Copy `{STATE_DICT}` or `{SCRIPT}` here and name it with `--inception PATH`."
    if is_offline():
        raise MissingError(
            f"Neither `{STATE_DICT}` nor `{SCRIPT}` is on this machine, and HF_HUB_OFFLINE is set.",
            by_hand,
        )
    say(f"Downloading {url} (91 MiB) ...")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as temporary:
            with urllib.request.urlopen(url, timeout=30) as source, temporary.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)
            if file_sha256(temporary) != sha256:
                problem = f"`{STATE_DICT}` arrived damaged, or {url} has changed."
                raise MissingError(problem, by_hand)
    except OSError as error:  # of the network or of the disk
        raise MissingError(f"Cannot get `{STATE_DICT}` from {url}: {error}.", by_hand) from error
    return target


def is_script(path: Path) -> bool:
    """Whether a file holds a program beside its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def check_script(path: Path, sha256: str) -> None:
    """Refuse every program but the published one: loading a program can run it."""
    url, known = PUBLISHED[SCRIPT]
    if sha256 != known:
        raise MissingError(
            f"`{path}` holds a program, and not that of the published `{SCRIPT}`: its SHA-256 "
            f"starts with {sha256[:12]}, not {known[:12]}. dimo runs no other.",
            f"Get it from {url}, or `{STATE_DICT}`, which holds numbers only, from "
            f"{PUBLISHED[STATE_DICT][0]}.",
        )


def read_script(path: Path) -> tuple[nn.Module, Tensor]:
    """The layers up to the pooled features, and the weights of the classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop this format; the other file stays
        script = torch.jit.load(str(path), map_location="cpu")
    classes = script.state_dict().get("output.weight")
    if classes is None or classes.shape[-1] != DIMENSIONS or not hasattr(script, "layers"):
        raise RuntimeError("its script has no `layers` and `output`")
    return script.layers, classes


def fill_state_dict(path: Path) -> FidInception:
    """The network with the weights of a state dict, strictly."""
    weights = {
        strip_wrappers(name): tensor
        for name, tensor in state_dict_in(read_pickle(path), None).items()
    }
    network = on_meta(FidInception)
    hint = f"torchvision's own `inception_v3` is another network: get `{STATE_DICT}` or `{SCRIPT}`."
    try:
        return fill(network, {**counters(network), **weights}, f"`{path}`")
    except MissingError as error:
        raise MissingError(error.message, hint) from None


def counters(network: nn.Module) -> StateDict:
    """How often a norm was trained: nothing reads it any more, and old files lack it."""
    names = (name for name in network.state_dict() if name.endswith(".num_batches_tracked"))
    return {name: torch.tensor(0) for name in names}
