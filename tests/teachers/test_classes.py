"""Classes go by number, WordNet id or any of their names."""

from dataclasses import replace

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.teachers import imagenet
from dimo_cli.teachers.classes import find_class, short_name


@pytest.fixture
def imagenet_teacher(teacher):
    names, ids = imagenet.class_names(), imagenet.class_ids()
    return replace(teacher, class_names=names, class_ids=ids)


def test_there_are_a_thousand_classes_in_the_usual_order():
    names, ids = imagenet.class_names(), imagenet.class_ids()
    assert len(names) == len(ids) == len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    assert (short_name(names[0]), short_name(names[207]), short_name(names[999])) == (
        "tench",
        "golden retriever",
        "toilet tissue",
    )


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("207", 207),
        ("n02099601", 207),
        ("golden retriever", 207),
        ("Golden Retriever", 207),
        ("Tinca tinca", 0),
        ("tench, Tinca tinca", 0),
        ("white shark", 2),
        ("bathroom tissue", 999),
        ("partridge", 86),  # a first name goes before another class's second
    ],
)
def test_a_class_is_found_by_any_of_its_names(imagenet_teacher, word, number):
    assert find_class(word, imagenet_teacher) == number


def test_a_name_of_two_classes_is_refused_with_both_numbers(imagenet_teacher):
    with pytest.raises(SpecError, match="names 2 classes") as caught:
        find_class("crane", imagenet_teacher)
    assert "134" in caught.value.hint
    assert "517" in caught.value.hint


@pytest.mark.parametrize(
    ("word", "words"),
    [("golden retreiver", "golden retriever"), ("1000", "0 to 999"), ("-1", "0 to 999")],
)
def test_a_class_that_does_not_exist_is_refused_with_a_way_on(imagenet_teacher, word, words):
    with pytest.raises(SpecError) as caught:
        find_class(word, imagenet_teacher)
    assert words in f"{caught.value.message} {caught.value.hint}"
