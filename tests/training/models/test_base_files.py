"""What is no base, or not all of one, is said in a sentence that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from training.errors import RecipeError
from training.models.base_model import find_base
from training.recipe import BaseSection

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_the_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def point(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(POINTER)


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def config(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def one_file_of_two(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut, r"model\.safetensors is not whole"),
        (cut_in_the_header, r"model\.safetensors is not whole"),
        (point("model.safetensors"), r"model\.safetensors is a Git LFS pointer"),
        (point("config.json"), r"config\.json is a Git LFS pointer"),
        (no_tokenizer, r"has no tokenizer"),
        (one_file_of_two, r"lacks model-00002-of-00002\.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json can't be read as JSON"),
        (config(model_type="mine", auto_map={"AutoConfig": "c.C"}), r"code of its own \(auto_map"),
        (config(model_type="mine"), r"knows no model of the kind"),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"is quantised \(gptq\)"),
    ],
)
def test_it_is_a_sentence(
    change: Callable[[Path], object], said: str, base_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "base"))
    change(folder)
    with pytest.raises(RecipeError, match=said) as caught:
        find_base(BaseSection(model=str(folder)))
    assert "\n" not in str(caught.value)


def test_the_code_of_a_base_is_never_run(base_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "base"))
    config(model_type="mine", auto_map={"AutoConfig": "code.Mine"})(folder)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(RecipeError, match="never run here"):
        find_base(BaseSection(model=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_package_or_gguf_file_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"'no-such-package' is not installed\. pip install"):
        find_base(BaseSection(model="package:no-such-package"))
    with pytest.raises(RecipeError, match=r"there is no file 'nowhere\.gguf'"):
        find_base(BaseSection(model="nowhere.gguf"))
