"""What each held-out row is used for."""

from __future__ import annotations

from training.router.held_out import drawn_uses


def test_a_third_of_the_further_rows_teaches_and_the_rest_is_in_halves() -> None:
    texts = [f"text {number}" for number in range(120)]
    use = drawn_uses(texts, 20, seed=3)
    assert (use[:20] != "teach").all()
    assert [(use == part).sum() for part in ("teach", "fit", "judge")] == [33, 43, 44]
    assert (use == drawn_uses(texts, 20, seed=3)).all()
    other = drawn_uses(texts, 20, seed=4)
    assert all(((use == part) != (other == part)).any() for part in ("teach", "fit"))
    assert set(drawn_uses(texts[:20], 20, seed=3)) == {"fit", "judge"}


def test_rows_of_one_text_have_one_use() -> None:
    texts = [f"{'Text' if number % 2 else 'text'}  {number % 30}" for number in range(120)]
    use = drawn_uses(texts, 60, seed=3)
    for part in (range(60), range(60, 120)):
        uses: dict[str, set[str]] = {}
        for place in part:
            uses.setdefault(texts[place].lower(), set()).add(use[place])
        assert all(len(own) == 1 for own in uses.values())
    assert set(use) == {"teach", "fit", "judge"}
