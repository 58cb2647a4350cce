"""YAML without what lets a few lines stand for billions, or keep a reader busy for minutes."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_VALUES = 20_000  # keys, values and containers; every setting there is takes hundreds
MOST_NUMBER = 1_000  # characters of what is no text; reading a number takes their square
MISREAD = re.compile(r"[-+]?0[0-9_]+$|.*:")  # octal and in sixties, of YAML 1.1 alone
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TEXT = "tag:yaml.org,2002:str"


class PlainLoader(yaml.SafeLoader):
    """Reads so many plain values, and no aliases: each could stand for a thousand others."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next value, if it is a plain one."""
        self.values += 1
        if self.check_event(yaml.AliasEvent):
            raise ValueError("anchors and aliases (`&x`, `*x`) are not supported")
        if self.values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} keys and values")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.tag != TEXT and len(node.value) > MOST_NUMBER:
            raise ValueError(f"it has a number of {len(node.value):,} characters")
        if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and MISREAD.match(node.value):
            raise ValueError(
                f"`{node.value}` is no decimal number: write it without leading zeros and colons"
            )
        return node


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """The values of a YAML document, and the nodes they came from, which know their lines.

    One that cannot be read is a YAMLError, a ValueError or a RecursionError.
    """
    loader = PlainLoader(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    finally:
        loader.dispose()
