from __future__ import annotations

from service.engine.engine import ServerStandIn
from service.lifecycle.lifecycle import Lifecycle


def test_ready_only_between_the_start_and_the_end() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.not_ready_because == "The engine is starting"
    lifecycle.serving()
    assert lifecycle.not_ready_because is None
    assert not lifecycle.ending.is_set()
    lifecycle.stop()
    assert lifecycle.not_ready_because == "The service is stopping"
    assert lifecycle.ending.is_set()
    assert not lifecycle.stop_now.is_set()
    lifecycle.stop()
    assert lifecycle.stop_now.is_set()
    assert lifecycle.exit_code == 0


def test_the_engines_death_is_no_success() -> None:
    lifecycle = Lifecycle()
    lifecycle.serving()
    server = ServerStandIn(lifecycle.engine_died)
    server.should_exit = False
    assert lifecycle.not_ready_because is None
    server.should_exit = True
    server.should_exit = True
    assert lifecycle.not_ready_because == "The engine died"
    assert lifecycle.ending.is_set()
    assert not lifecycle.stop_now.is_set()
    assert lifecycle.exit_code == 1
    lifecycle.stop()  # somebody who does not want to wait for the stated time
    assert lifecycle.stop_now.is_set()
    assert lifecycle.exit_code == 1


def test_an_engine_that_ends_while_we_stop_leaves_nothing_to_wait_for() -> None:
    lifecycle = Lifecycle()
    lifecycle.serving()
    lifecycle.stop()
    lifecycle.engine_died()
    assert lifecycle.exit_code == 0
    assert lifecycle.stop_now.is_set()
