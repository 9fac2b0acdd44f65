"""What is refused before anything is loaded, and what the engine is told."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from bundle.errors import BundleError
from bundle.read import Bundle
from service.engine.arguments import engine_args, engine_rank
from service.engine.base_model import checked_base
from service.engine.environment import prepare_environment
from service.errors import UsageError
from tests.stand_ins.live_server import COMMAND, ROOT, environment


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )


def test_a_missing_bundle_is_one_sentence(tmp_path: Path) -> None:
    done = serve(str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_said_before_the_long_start(demo_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve(str(demo_bundle), "--port", str(port))
    assert done.returncode == 2
    assert f"Port {port} on 127.0.0.1 can't be opened" in done.stderr
    assert "loading vLLM" not in done.stderr


def test_a_base_that_is_nowhere(demo_bundle: Path, tmp_path: Path) -> None:
    done = serve(str(demo_bundle), "--base-model", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "--base-model" in done.stderr
    assert "Traceback" not in done.stderr
    assert "loading vLLM" not in done.stderr


def test_a_wrong_base_is_refused_before_anything_is_loaded(
    demo_bundle: Path, base: Path, tmp_path: Path
) -> None:
    weights: dict = {}
    for file in sorted(base.glob("*.safetensors")):
        weights |= load_bfloat16(file)
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name] = weights[name].copy()
    weights[name].view("uint16")[0] ^= 1  # the smallest change there is
    save_file(weights, tmp_path / "model.safetensors")
    done = serve(str(demo_bundle), "--base-model", str(tmp_path))
    assert done.returncode == 2
    assert "weights_sha256" in done.stderr
    assert "loading vLLM" not in done.stderr


def load_bfloat16(file: Path) -> dict:
    import ml_dtypes  # noqa: F401 - teaches numpy bfloat16

    return load_file(file)


def test_a_base_of_other_shapes_is_refused_by_name(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    weights = {
        name: tensor for file in sorted(base.glob("*.safetensors")) for name, tensor in load(file).items()
    }
    target = next(
        name for name in weights if name.endswith(f"{bundle.manifest.lora.target_modules[0]}.weight")
    )
    weights[target] = torch.cat([weights[target]] * 2, dim=1)
    save(weights, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match="does not fit") as caught:
        checked_base(bundle, str(tmp_path))
    assert target in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--dtype", "auto"], "--dtype"),
        (["--dtype=bfloat16"], "--dtype"),
        (["--model", "other"], "--model"),
        (["other"], "other"),
        (["--served_model_name", "auto"], "--served-model-name"),
        (["--max-lora-rank", "64"], "--max-lora-rank"),
        (["--max-loras", "1"], "--max-loras"),
        (["--no-enable-lora"], "--enable-lora"),
        (["--lora-modules", "x=/tmp"], "--lora-modules"),
        (["--chat-template", "x"], "--chat-template"),
        (["--generation-config", "auto"], "--generation-config"),
        (["--override-generation-config", '{"temperature": 0}'], "--override-generation-config"),
        (["--override-generation-config.temperature", "0"], "--override-generation-config"),
        (["--quantization", "fp8"], "--quantization"),
        (["--hf-overrides", "{}"], "--hf-overrides"),
        (["--api-key", "secret"], "--api-key"),
        (["--port", "1"], "--port"),
        (["--shutdown-timeout", "9"], "--shutdown-timeout"),
        (["--ssl-keyfile", "x"], "--ssl-keyfile"),
        (["--enable-auto-tool-choice"], "--tool-call-parser"),
        (["--max-model-len", "64", "--dtype", "half"], "--dtype"),
    ],
)
def test_engine_flags_that_contradict_the_bundle_are_refused(
    bundle: Bundle, base: Path, flags: list[str], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        engine_args(bundle, base, flags)
    assert named in str(caught.value)


@pytest.mark.parametrize("flags", [["--max-modl-len", "5"], ["--max-model-len", "many"]])
def test_flags_that_vllm_does_not_know_are_one_sentence(
    bundle: Bundle, base: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=flags[0]):
        engine_args(bundle, base, flags)
    assert "usage:" not in capsys.readouterr().err


def test_a_flag_in_a_config_file_is_refused_too(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    config = tmp_path / "vllm.yaml"
    config.write_text("dtype: bfloat16\n")
    with pytest.raises(UsageError, match="--dtype"):
        engine_args(bundle, base, ["--config", str(config)])


def test_what_the_engine_is_told(bundle: Bundle, base: Path) -> None:
    args = engine_args(bundle, base, ["--max-model-len", "512", "--seed", "7"])
    manifest = bundle.manifest
    adapters = len(manifest.experts) + 1
    assert (args.max_model_len, args.seed) == (512, 7)
    assert args.served_model_name == [manifest.base.name]
    assert (args.model, args.dtype) == (str(base), manifest.base.dtype)
    assert args.generation_config == "vllm"
    assert args.chat_template == bundle.chat_template.read_text()
    assert args.enable_lora is True
    assert args.max_lora_rank >= manifest.lora.rank
    assert args.max_loras == adapters
    assert args.max_cpu_loras >= 2 * adapters
    assert {module.name: module.path for module in args.lora_modules} == {
        record.engine_name: str(bundle.folder.resolve() / record.folder) for record in manifest.adapters
    }
    assert args.api_key is None


def test_answers_without_a_length_end_at_the_limit(bundle: Bundle, base: Path) -> None:
    assert engine_args(bundle, base, [], 7).override_generation_config == {"max_new_tokens": 7}
    assert not engine_args(bundle, base, []).override_generation_config


@pytest.mark.parametrize(("rank", "set_to"), [(1, 1), (2, 8), (8, 8), (9, 16), (48, 64), (300, 320)])
def test_ranks_are_rounded_up_to_what_vllm_allows(bundle: Bundle, rank: int, set_to: int) -> None:
    lora = bundle.manifest.lora.model_copy(update={"rank": rank})
    assert engine_rank(bundle.manifest.model_copy(update={"lora": lora})) == set_to


def test_a_rank_above_all_is_refused(bundle: Bundle) -> None:
    lora = bundle.manifest.lora.model_copy(update={"rank": 1024})
    with pytest.raises(UsageError, match="1024"):
        engine_rank(bundle.manifest.model_copy(update={"lora": lora}))


def test_the_environment_of_the_engine() -> None:
    small: dict[str, str] = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    prepare_environment(small, verbose=False, cores=2)
    assert small["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"
    assert (small["OMP_NUM_THREADS"], small["VLLM_ENABLE_V1_MULTIPROCESSING"]) == ("1", "0")
    assert small["VLLM_LOGGING_LEVEL"] == "ERROR"
    large: dict[str, str] = {}
    prepare_environment(large, verbose=True, cores=16)
    assert "OMP_NUM_THREADS" not in large
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in large
    with pytest.raises(UsageError, match="VLLM_API_KEY"):
        prepare_environment({"VLLM_API_KEY": "x"}, verbose=False, cores=2)


def test_the_ready_lines_can_be_pasted() -> None:
    import shlex

    from service.console import ready_lines

    line, command = ready_lines("0.0.0.0", 8000, 31.4).splitlines()
    assert "ready after 31 s on http://127.0.0.1:8000" in line
    words = shlex.split(command)
    assert words[2] == "http://127.0.0.1:8000/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "auto"
    assert "http://[::1]:8000" in ready_lines("::", 8000, 1)
