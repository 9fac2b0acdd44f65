"""Flags, variables and the file: every setting can be given in each, and the first of them counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from service.errors import UsageError
from service.settings import SECRETS, Settings, flag_of, forget_secrets, resolve, variable_of

EXAMPLES: dict[str, Any] = {
    "bundle": "runs/x/bundle",
    "base_model": "org/base",
    "host": "0.0.0.0",
    "port": 9000,
    "metrics_port": 9001,
    "metrics_host": "0.0.0.0",
    "api_key": "one,two",
    "api_key_file": "keys.txt",
    "admin_key": "three",
    "admin_key_file": "admins.txt",
    "router_threads": 2,
    "router_seconds": 0.5,
    "router_queue": 64,
    "router_memory": 12,
    "max_in_flight": 7,
    "max_body_bytes": 1000,
    "body_seconds": 5.0,
    "send_seconds": 30.0,
    "keep_alive_seconds": 75.0,
    "cors_origins": "https://a.example, https://b.example:8443",
    "max_prompt_tokens": 100,
    "max_answer_tokens": 200,
    "max_choices": 3,
    "shutdown_seconds": 12.0,
    "engine_death_seconds": 3.0,
    "playground": False,
    "log_format": "json",
    "request_log": False,
    "otlp_endpoint": "http://127.0.0.1:4318",
    "verbose": True,
    "engine_flags": "--max-model-len 512 --seed '7'",
}


def printed(*arguments: str, **variables: str) -> str:
    """What `serve --print-config` says."""
    done = CliRunner(env=variables).invoke(app, ["serve", "--print-config", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_there_is_an_example_of_every_setting() -> None:
    assert set(EXAMPLES) == set(Settings.model_fields)
    for name, value in EXAMPLES.items():
        assert value != Settings.model_fields[name].default


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_setting_can_be_given_in_three_ways(name: str, tmp_path: Path) -> None:
    value = EXAMPLES[name]
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"bundle": "b", name: value}))
    bundle = [] if name == "bundle" else ["b"]
    ways = [
        (printed(*bundle, **{variable_of(name): str(value)}), variable_of(name)),
        (printed("--config", str(file)), str(file)),
        (printed(GRADIENTSPACE_CONFIG=str(file)), str(file)),
    ]
    if name == "bundle":
        ways.append((printed(value), "argument"))
    elif name == "engine_flags":
        ways.append((printed("b", "--", "--max-model-len", "512", "--seed", "7"), "arg"))
    elif name not in SECRETS:  # those have a file instead of a flag
        off = f"--no-{flag_of(name)[2:]}"
        arguments = {True: [flag_of(name)], False: [off]}.get(value, [flag_of(name), str(value)])  # type: ignore[call-overload]
        ways.append((printed(*bundle, *arguments), flag_of(name)))
    lines = [next(line for line in text.splitlines() if name + ":" in line) for text, _ in ways]
    shown = {line.rpartition("  # ")[0] for line in lines}
    assert len(shown) == 1, f"the ways do not agree: {lines}"
    for line, (_, origin) in zip(lines, ways, strict=True):
        assert line.rpartition("  # ")[2].startswith(origin)


def test_a_flag_comes_before_a_variable_and_a_variable_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("bundle: b\nport: 1\nhost: file\nrouter_threads: 3\n")
    environ = {"GRADIENTSPACE_PORT": "2", "GRADIENTSPACE_HOST": "variable", "OTHER": "x"}
    resolved = resolve({"port": 3, "host": None}, file, environ)
    settings = resolved.settings
    assert (settings.port, settings.host, settings.router_threads) == (3, "variable", 3)
    assert settings.shutdown_seconds == Settings.model_fields["shutdown_seconds"].default
    origins = [resolved.origins[name] for name in ("port", "host", "router_threads", "verbose")]
    assert origins == ["--port", "GRADIENTSPACE_HOST", str(file), "default"]


def test_what_is_printed_is_a_settings_file_without_the_secrets(tmp_path: Path) -> None:
    secret = "sk-very-secret"
    environ = {"GRADIENTSPACE_API_KEY": f"{secret},{secret}2", "GRADIENTSPACE_ADMIN_KEY": secret}
    resolved = resolve(EXAMPLES | {"api_key": None, "admin_key": None}, None, environ)
    text = resolved.as_yaml()
    assert secret not in text
    assert secret not in repr(resolved)
    assert "# api_key: 2 hidden  # GRADIENTSPACE_API_KEY" in text
    file = tmp_path / "again.yaml"
    file.write_text(text)
    assert resolve({}, file, environ).settings == resolved.settings


def test_unknown_names_are_refused_wherever_they_are(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("bundle: b\nprot: 1\n")
    with pytest.raises(UsageError, match=r"serve.yaml: prot: no such setting"):
        resolve({}, file, {})
    with pytest.raises(UsageError, match="GRADIENTSPACE_PROT: no such setting"):
        resolve({"bundle": "b"}, None, {"GRADIENTSPACE_PROT": "1"})
    done = CliRunner().invoke(app, ["serve", "b", "--prot", "1"])
    assert done.exit_code == 2
    assert "--prot" in done.output
    for_tests = {"GRADIENTSPACE_TEST_BUNDLE": "x", "GRADIENTSPACE_SHARED": "y"}
    assert resolve({"bundle": "b"}, None, for_tests).settings.bundle == Path("b")


def test_the_variables_that_kubernetes_makes_for_a_service_are_recognised() -> None:
    with pytest.raises(UsageError, match="enableServiceLinks"):
        resolve({"bundle": "b"}, None, {"GRADIENTSPACE_PORT": "tcp://10.0.0.1:80"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", "70000", "GRADIENTSPACE_PORT"),
        ("max_in_flight", "0", "GRADIENTSPACE_MAX_IN_FLIGHT"),
        ("router_seconds", "soon", "GRADIENTSPACE_ROUTER_SECONDS"),
        ("api_key", " , ", "there is no key"),
        ("metrics_port", "8000", "same as port"),
    ],
)
def test_an_impossible_value_is_one_sentence_that_says_where_it_is(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        resolve({"bundle": "b"}, None, {variable_of(name): value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\x00"])
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"serve.yaml"):
        resolve({"bundle": "b"}, file, {})
    with pytest.raises(UsageError, match="can't be read"):
        resolve({"bundle": "b"}, tmp_path / "missing.yaml", {})


def test_without_a_bundle_it_is_said_how_to_give_one() -> None:
    with pytest.raises(UsageError, match="GRADIENTSPACE_BUNDLE"):
        resolve({}, None, {})


def test_no_process_inherits_the_keys() -> None:
    environ = {"GRADIENTSPACE_API_KEY": "secret", "GRADIENTSPACE_ADMIN_KEY": "secret", "PATH": "/bin"}
    forget_secrets(environ)
    assert environ == {"PATH": "/bin"}
