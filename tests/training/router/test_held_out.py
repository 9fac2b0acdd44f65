"""What each held-out row is used for."""

from __future__ import annotations

from training.router.held_out import drawn_uses


def test_a_third_of_the_further_rows_teaches_and_the_rest_is_in_halves() -> None:
    use = drawn_uses(20, 100, seed=3)
    assert (use[:20] != "teach").all()
    assert [(use == part).sum() for part in ("teach", "fit", "judge")] == [33, 43, 44]
    assert (use == drawn_uses(20, 100, seed=3)).all()
    other = drawn_uses(20, 100, seed=4)
    assert all(((use == part) != (other == part)).any() for part in ("teach", "fit"))
    assert set(drawn_uses(20, 0, seed=3)) == {"fit", "judge"}
