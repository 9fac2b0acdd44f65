from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from router.tokens import TextTokens


def test_a_long_text_is_cut_before_all_of_it_is_tokenised() -> None:
    tokenizer = Tokenizer(WordLevel({"?": 0, "near": 1, "far": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokens = TextTokens(tokenizer, 4)
    [(places, ids, mask)] = tokens.batches(["near" + " " * 200 + "far", "near" + " " * 300 + "far"])
    assert dict(zip(places.tolist(), mask.sum(1).tolist(), strict=True)) == {0: 2, 1: 1}
    [(places, ids, mask)] = tokens.batches(["near far near far near"])
    assert (places.tolist(), ids.tolist(), mask.tolist()) == ([0], [[1, 2, 1, 2]], [[1, 1, 1, 1]])
