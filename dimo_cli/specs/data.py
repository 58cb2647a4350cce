"""What a folder of real images as tokens is, and what a call that makes one is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dimo_cli.specs.base import Flag, Int, Spec


class Recipe(Spec):
    """How images became tokens: two folders of one recipe may be used alike."""

    teacher: str = Field(..., description="Whose tokenizer it was")
    revision: str = Field(..., description="Commit of its weights")
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="What differs from the published architecture"
    )
    image_size: Int = Field(
        ..., ge=1, description="Side of the images that were encoded, in pixels"
    )
    resize: str = Field(..., description="How they got that size")
    length: Int = Field(..., ge=1, description="Token positions of an image")
    groups: Int = Field(..., ge=1, description="Parts of a token")
    codes: Int = Field(..., ge=1, description="Ids go from 0 to codes - 1")
    condition: Literal["labels", "captions"] = Field(..., description="What belongs to each image")
    shard_size: Int = Field(..., ge=1, description="Images of a shard")
    flips: bool = Field(False, description="Whether each image is there mirrored as well")


class ShardEntry(Spec):
    """One finished shard."""

    file: str = Field(..., pattern=r"^[\w-][\w.-]*$", description="Its name in the folder")
    images: Int = Field(..., ge=1, description="How many images it holds")
    sha256: str = Field(..., description="Hash of the file")
    captions_sha256: str | None = Field(
        None, description="Hash of the file with its captions, where images have these"
    )


class DatasetIndex(Spec):
    """The `index.json` of a finished folder."""

    format: Literal[1] = 1
    dimo: str = Field(..., description="Version of dimo that wrote it")
    source: str = Field(..., description="Where the images came from")
    images: Int = Field(..., description="Images of all shards")
    skipped: Int = Field(0, ge=0, description="Images of the source that could not be encoded")
    recipe: Recipe
    classes: dict[str, int] = Field(
        default_factory=dict, description="Class of each word that the source names its classes by"
    )
    shards: tuple[ShardEntry, ...] = Field(..., min_length=1)


class EncodeSpec(Spec):
    """One call of `dimo data encode`."""

    source: Annotated[str, Flag(is_argument=True)] = Field(
        ...,
        min_length=1,
        description="Folder with a subfolder per class, or with captions (name.txt or "
        "captions.jsonl); .tar files; or a dataset of the Hub: hub:OWNER/NAME:COLUMN, "
        "where COLUMN has the classes or captions",
    )
    batch: Int = Field(32, ge=1, le=65_536, description="Images encoded at once")
    shard_size: Int = Field(10_000, ge=1, le=10_000_000, description="Images per shard")
    flips: bool = Field(
        False,
        description="Also encode each image mirrored, left to right: twice as much to train on. "
        "Not where captions tell sides, or images show letters",
    )
    strict: bool = Field(
        False, description="Stop at the first image that cannot be encoded; otherwise skip it"
    )
    processes: Int = Field(1, ge=1, le=1024, description="Processes that share the shards")
