"""What is read of a text that is longer than the encoder may read."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing

from bundle.manifest import Kept
from router.tokens import TextTokens, head_and_tail

WORDS = {word: place for place, word in enumerate(("?", "[", "]", "a", "b", "c", "d", "e", "f", "g"))}


def tokenizer(*, special: bool) -> Tokenizer:
    made = Tokenizer(WordLevel(WORDS, unk_token="?"))
    made.pre_tokenizer = Whitespace()
    if special:
        made.post_processor = BertProcessing(("]", 2), ("[", 1))
    return made


def read(text: str, max_tokens: int, keeps: Kept, *, special: bool = True) -> str:
    [(_, ids, mask)] = TextTokens(tokenizer(special=special), max_tokens, keeps).batches([text])
    assert mask.all()
    names = {place: word for word, place in WORDS.items()}
    return "".join(names[token] for token in ids[0].tolist())


@pytest.mark.parametrize(
    ("text", "max_tokens", "keeps", "expected"),
    [
        ("a b c", 5, "head_and_tail", "[abc]"),
        ("a b c d e f g", 6, "head_and_tail", "[abfg]"),
        ("a b c d e f g", 7, "head_and_tail", "[abcfg]"),
        ("a b c d e f g", 3, "head_and_tail", "[a]"),
        ("a b c d e f g", 6, "head", "[abcd]"),
        ("", 6, "head_and_tail", "[]"),
    ],
)
def test_special_tokens_stay_and_the_odd_token_is_the_heads(
    text: str, max_tokens: int, keeps: Kept, expected: str
) -> None:
    assert read(text, max_tokens, keeps) == expected


def test_without_special_tokens_the_same_rule_holds() -> None:
    assert read("a b c d e f g", 4, "head_and_tail", special=False) == "abfg"
    assert read("a b c d e f g", 5, "head", special=False) == "abcde"


@pytest.mark.parametrize(("keeps", "expected"), [("head", "[a]"), ("head_and_tail", "[ag]")])
def test_a_long_text_is_cut_before_all_of_it_is_tokenised(keeps: Kept, expected: str) -> None:
    # 4 tokens of 16 characters: what lies between is never seen, however few tokens it would make.
    assert read("a" + " " * 40 + "b" + " " * 100_000 + "g", 4, keeps).replace("b", "") == expected
    assert "c" not in read("a" + " " * 40 + "c" + " " * 100_000 + "g", 4, "head_and_tail")


def test_a_text_is_cut_by_characters_from_both_ends() -> None:
    assert head_and_tail("abcdef", 6) == "abcdef"
    assert head_and_tail("abcdefgh", 6) == "abc gh"
    assert head_and_tail("abcdefgh", 5) == "ab gh"
