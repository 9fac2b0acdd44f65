from __future__ import annotations

from service.engine import EngineDeathBell
from service.lifecycle import Lifecycle


def test_ready_only_between_the_start_and_the_end() -> None:
    closed: list[str] = []
    lifecycle = Lifecycle()
    assert lifecycle.not_ready_because == "The engine is starting"
    lifecycle.serving(lambda: closed.append("closed"))
    assert lifecycle.not_ready_because is None
    lifecycle.stop()
    lifecycle.stop()
    assert lifecycle.not_ready_because == "The service is stopping"
    assert closed == ["closed"]
    assert lifecycle.exit_code == 0


def test_the_engines_death_is_no_success() -> None:
    closed: list[str] = []
    lifecycle = Lifecycle()
    lifecycle.serving(lambda: closed.append("closed"))
    bell = EngineDeathBell(lifecycle.engine_died)
    bell.should_exit = False
    assert lifecycle.not_ready_because is None
    bell.should_exit = True
    bell.should_exit = True
    assert lifecycle.not_ready_because == "The engine died"
    assert (closed, lifecycle.exit_code) == (["closed"], 1)


def test_an_engine_that_ends_because_we_stop_did_not_die() -> None:
    lifecycle = Lifecycle()
    lifecycle.serving(lambda: None)
    lifecycle.stop()
    lifecycle.engine_died()
    assert lifecycle.exit_code == 0
