"""The networks of `emoji`: what they read, and that sure soft tokens are hard ones."""

import random

import pytest
import torch

from dimo_cli.errors import SpecError
from dimo_cli.teachers.emoji import random_caption
from dimo_cli.teachers.emoji.network import (
    SUMMARY,
    WIDTH,
    WORDS,
    EmojiBackbone,
    EmojiText,
    EmojiTextEncoder,
    left_out,
    words_to_ids,
)
from dimo_cli.teachers.emoji.tokenizer import CODES, EmojiTokenizer
from dimo_cli.teachers.protocol import Cond


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return EmojiBackbone().eval(), EmojiTokenizer().eval(), EmojiText().eval()


def test_soft_embeddings_and_soft_decoding_equal_the_hard_ones_on_one_hots(networks):
    backbone, tokenizer, _ = networks
    tokens = torch.randint(CODES, (2, 64, 1))
    sure = torch.nn.functional.one_hot(tokens, CODES).float()
    torch.testing.assert_close(backbone.embed_probs(sure), backbone.embed(tokens))
    torch.testing.assert_close(
        tokenizer.decode_probs(sure), tokenizer.decode(tokens), atol=1e-5, rtol=1e-4
    )


def test_a_text_changes_every_token_even_before_the_first_block(networks):
    backbone, _, text = networks
    embeds = backbone.embed(torch.full((2, 64, 1), CODES))
    states = text(words_to_ids(["a red apple", "a rocket on blue"]))
    assert states.shape == (2, SUMMARY, WIDTH)
    one, other = backbone.placed(embeds, Cond({"text": states}))
    assert ((one - other).abs().amax(-1) > 0).all()


def test_a_flat_patch_has_one_code_wherever_it_is(networks):
    codes = networks[1].encode(torch.full((1, 3, 32, 32), 0.3))
    assert len(codes.unique()) == 1


def test_words_that_say_nothing_are_left_out_of_what_is_encoded():
    assert words_to_ids(["a red fox in the snow"]).equal(words_to_ids(["a fox"]))
    assert left_out("a red fox in the snow") == ("red", "snow")
    with pytest.raises(SpecError, match="no drawing of anything"):
        left_out("a sofa in the snow")


def test_a_prompt_of_nothing_known_is_refused_with_the_nearest_names():
    with pytest.raises(
        SpecError, match="no drawing of anything in the prompt 'a rokcet'"
    ) as caught:
        words_to_ids(["a fox", "a rokcet"])
    assert caught.value.hint.startswith("Did you mean `rocket`? It knows ")
    assert "--preset meissonic --teacher" in caught.value.hint


def test_of_a_long_prompt_an_error_shows_the_beginning():
    with pytest.raises(SpecError) as caught:
        left_out("a sofa " * 500)
    assert len(caught.value.message) < 200


def test_no_words_at_all_are_the_null_text():
    assert not words_to_ids(["", " "]).any()


def test_every_caption_fits():
    rng = random.Random(0)
    ids = words_to_ids([random_caption(rng) for _ in range(300)])
    assert ids.shape == (300, WORDS)
    assert not ids[:, -1].any()  # there is room for a gap


def test_the_tokenizer_of_exported_files_makes_the_same_numbers():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(EmojiTextEncoder(EmojiText()).tokenizer_json())
    rng = random.Random(0)
    captions = ["A Red Apple, on GREY!", "an ant", *(random_caption(rng) for _ in range(50))]
    made = [encoded.ids for encoded in tokenizer.encode_batch(captions)]
    assert made == words_to_ids(captions).tolist()
