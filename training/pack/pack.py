"""Make a bundle of adapters that were trained elsewhere (`gradientspace pack`)."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from bundle.base_check import base_shapes
from bundle.manifest import (
    EXPERT_NAME,
    MANIFEST_FILE,
    RESERVED_NAMES,
    AnswerEnd,
    Calibration,
    RoutedText,
    RouterRecord,
)
from bundle.read import Bundle
from training.bundling.bundle import Expert, Fallback, Parts, write_bundle
from training.clusters.terms import top_terms
from training.errors import PackError
from training.models.base_model import BaseModel, find_base
from training.models.encoder import Encoder, load_encoder
from training.pack.adapter import GivenAdapter, read_adapter
from training.pack.head import read_head
from training.pack.hub import origin_of
from training.pack.labelled_rows import LabelledRows, read_labelled_rows
from training.progress import Narrator
from training.recipe import BaseSection
from training.router.export import write_router
from training.router.head import Head, calibrated, drawn_half, fit_head
from training.router.quality import said_of_agreement
from training.rows.answer_end import answer_end_of_template, described
from training.rows.files import is_file_name
from training.rows.rendering import prompt_ids, use_chat_template
from training.rows.split import count_repeats, prompt_key

_SEED = 0  # of the draw of held-out rows
_RULE = RoutedText.model_fields["rule"].default


@dataclass(frozen=True)
class Packing:
    """What is to be packed, as the command line was given it."""

    base: BaseSection
    adapters: Mapping[str, Path]
    """PEFT folders by the names that they will be served under."""
    rows: tuple[str, ...]
    label_column: str
    head: Path | None
    encoder: str
    max_tokens: int
    fallback: str | None
    """The name of one of the adapters, or the folder of another."""
    data_licenses: tuple[str, ...]
    output: Path


def pack(packing: Packing, narrator: Narrator) -> Bundle:
    """Check everything that was given, train or calibrate the router, write the bundle and return it.

    Raises:
        TrainingError: something the user can mend, said in one sentence; then nothing was written.

    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _check_names(packing)
    _check_output(packing.output)
    base = find_base(packing.base)
    _refuse_the_bases_name(packing, base)
    fallback, adapters = _read_adapters(packing, base)
    for adapter in adapters:
        _warn_of_another_base(adapter, base, narrator)
    template = _chat_template(packing, base, narrator)
    end = _answer_end(base, template, narrator)
    encoder = load_encoder(packing.encoder)
    encoder.tokens(packing.max_tokens)  # refused now if it can't read so many
    head, names = _given_head(packing, encoder)
    rows = read_labelled_rows(packing.rows, packing.label_column, names, _RULE) if packing.rows else None
    fitted, calibration = _router(packing, encoder, head, rows, names, narrator)
    experts = _experts(packing, names, rows)
    if fallback is None:
        fallback = Fallback("expert", expert=_most_rows(experts))
        narrator.say(f"Fallback: {fallback.expert}, the adapter with the most rows; --fallback names another")
    with tempfile.TemporaryDirectory() as scratch:
        router_folder = Path(scratch) / "router"
        samples = list(rows.texts[:16]) if rows else []
        write_router(router_folder, encoder, fitted, names, samples, packing.max_tokens)
        return write_bundle(
            packing.output,
            Parts(
                base=base,
                chat_template=template,
                labels=names,
                experts=experts,
                fallback=fallback,
                router_folder=router_folder,
                router=RouterRecord(
                    kind="semantic",
                    encoder=encoder.name,
                    encoder_sha256=encoder.sha256,
                    encoder_license=encoder.license,
                    hidden=encoder.hidden,
                ),
                routed_text=RoutedText(rule=_RULE, max_tokens=packing.max_tokens, keeps="head_and_tail"),
                answer_end=end,
                calibration=calibration,
                data=packing.rows,
                data_licenses=packing.data_licenses,
                recipe=_record(packing, names),
            ),
            narrator,
        )


def _check_names(packing: Packing) -> None:
    names = list(packing.adapters)
    if len(names) < 2:
        raise PackError(
            "--adapter: give two or more, as NAME=FOLDER; one needs no router, and vLLM serves it as it is."
        )
    for name in names:
        if not re.fullmatch(EXPERT_NAME, name):
            raise PackError(
                f"--adapter {name!r}: clients will ask for this name, so it may hold letters, digits, '.', '_' and '-' "
                "only, 63 at most, the first a letter or digit."
            )
        if name.casefold() in RESERVED_NAMES:
            raise PackError(
                f"--adapter {name}: the service means something else by this name. Choose another."
            )
    for name, count in Counter(name.casefold() for name in names).items():
        if count > 1:
            raise PackError(
                f"--adapter {name}: two names differ only in the case of letters. Choose another."
            )
    if not packing.rows and packing.head is None:
        raise PackError("Give --rows with labels to train the router on, or --head with a trained one.")


def _refuse_the_bases_name(packing: Packing, base: BaseModel) -> None:
    for name in packing.adapters:
        if name.casefold() == base.record.name.casefold():
            raise PackError(f"--adapter {name}: the base model is called so already. Choose another name.")


def _check_output(output: Path) -> None:
    # What stands there would be replaced, and only a bundle is ours to replace.
    if output.exists() and not (output / MANIFEST_FILE).is_file():
        if output.is_dir() and not any(output.iterdir()):
            return
        raise PackError(f"--output {output}: something that is no bundle is there. Give a new folder's name.")


def _read_adapters(packing: Packing, base: BaseModel) -> tuple[Fallback | None, list[GivenAdapter]]:
    """Return the fallback, if one was chosen, and every adapter of the bundle, all of them checked."""
    shapes = base_shapes(base.folder)
    adapters = [read_adapter(name, folder, shapes, base.folder) for name, folder in packing.adapters.items()]
    chosen = packing.fallback
    fallback: Fallback | None = None
    if chosen is not None and chosen in packing.adapters:
        fallback = Fallback("expert", expert=chosen)
    elif chosen is not None:
        if not Path(chosen).is_dir():
            raise PackError(
                f"--fallback {chosen}: it is neither one of the adapters ({', '.join(packing.adapters)}) nor a folder."
            )
        fallback = Fallback("adapter", adapter=Path(chosen))
        adapters.append(read_adapter("--fallback", Path(chosen), shapes, base.folder))
    first_of: dict[str, GivenAdapter] = {}
    for adapter in adapters:
        twin = first_of.setdefault(adapter.acts_like, adapter)
        if twin is not adapter:
            raise PackError(
                f"{twin.folder} and {adapter.folder}: these adapters are identical, so nobody could tell them apart. "
                "Give each only once."
            )
    return fallback, adapters


def _warn_of_another_base(adapter: GivenAdapter, base: BaseModel, narrator: Narrator) -> None:
    known = {packed.rstrip("/") for packed in (base.record.id, str(base.folder), str(base.folder.resolve()))}
    if adapter.base is not None and adapter.base.rstrip("/") not in known:
        narrator.warn(
            f"{adapter.folder} says it was trained on {adapter.base!r}, the base given is {base.record.id!r}. The "
            "shapes fit; whether the weights do, its answers will show"
        )


def _chat_template(packing: Packing, base: BaseModel, narrator: Narrator) -> str:
    tokenizer = base.tokenizer()
    chosen = packing.base.chat_template
    which = "the base tokenizer's own" if tokenizer.chat_template else "the one gradientspace trains with"
    narrator.say(f"Chat template: {chosen or which}")
    template = use_chat_template(tokenizer, chosen)
    try:
        prompt_ids(tokenizer, ({"role": "user", "content": "Hello"},))
    except Exception as error:  # a template is a program: it may raise anything
        raise PackError(
            f"The chat template can't render one user message ({error}). Give another with --chat-template."
        ) from error
    for name, folder in packing.adapters.items():
        own = folder / "chat_template.jinja"
        if own.is_file() and own.read_text(encoding="utf-8").strip() != template.strip():
            narrator.warn(
                f"{folder} holds another chat template. If {name} was trained with it, give it with --chat-template"
            )
    return template


def _answer_end(base: BaseModel, template: str, narrator: Narrator) -> AnswerEnd:
    tokenizer = base.tokenizer()
    tokenizer.chat_template = template
    end = answer_end_of_template(tokenizer)
    narrator.say(f"Answers end with {described(tokenizer, end)}, as the chat template says")
    return end


def _given_head(packing: Packing, encoder: Encoder) -> tuple[Head | None, tuple[str, ...]]:
    """Return the head that was given, if one was, and the adapters' names in label order."""
    names = tuple(packing.adapters)
    if packing.head is None:
        return None, names
    return read_head(packing.head, names, encoder.hidden, packing.encoder)


def _router(
    packing: Packing,
    encoder: Encoder,
    head: Head | None,
    rows: LabelledRows | None,
    names: tuple[str, ...],
    narrator: Narrator,
) -> tuple[Head, Calibration]:
    """Train the head as Stage III does, or take the one that was given; calibrate it on rows it has not seen."""
    if rows is None:
        assert head is not None
        return head, Calibration(temperature=1.0, held_out_rows=0, agreement=None)
    with narrator.bar("encoding prompts", len(rows.texts), "rows") as advance:
        embeddings = encoder.embed(rows.texts, packing.max_tokens, advance)  # [N, H]
    if head is None:
        train, held_out = rows.split(len(names), _SEED)
        head = fit_head(embeddings[train], rows.labels[train], len(names), _SEED)
    else:
        held_out = list(range(len(rows.texts)))
    fitted = drawn_half([rows.texts[place] for place in held_out], _SEED)
    calibration = calibrated(head, embeddings[held_out], rows.labels[held_out], fitted)
    said = said_of_agreement(calibration.agreement or 0.0, rows.labels[held_out][~fitted])
    agreed = f"{calibration.agreement:.1%} of {calibration.held_out_rows:,} held-out labels"
    narrator.say(f"The router agrees with {agreed} {said}".replace("cluster", "expert"))
    repeats = count_repeats([prompt_key(text) for text in rows.texts], rows.labels.tolist())
    if repeats.prompts < repeats.rows:
        narrator.say(
            f"{repeats.rows:,} rows hold {repeats.prompts:,} distinct prompts; rows of one prompt are held out together"
        )
    return head, calibration


def _experts(packing: Packing, names: tuple[str, ...], rows: LabelledRows | None) -> list[Expert]:
    k = len(names)
    if rows is None:
        return [Expert(name, packing.adapters[name], 0, 0.0, ()) for name in names]
    counts, terms = rows.counts(k), top_terms(rows.texts, rows.labels, k)
    return [
        Expert(name, packing.adapters[name], counts[label], counts[label] / sum(counts), terms[label])
        for label, name in enumerate(names)
    ]


def _most_rows(experts: list[Expert]) -> str:
    """The expert that most prompts are for; the first of them, where nobody knows."""
    return experts[int(np.argmax([expert.rows for expert in experts]))].name


def _record(packing: Packing, names: tuple[str, ...]) -> dict[str, object]:
    """What the manifest says of how the bundle was made: names of files, not where they lay."""
    return {
        "command": "pack",
        "adapters": {name: origin_of(packing.adapters[name]) for name in names},
        "rows": [Path(file).name if is_file_name(file) else file for file in packing.rows],
        "label_column": packing.label_column if packing.rows else None,
        "head": packing.head.name if packing.head else None,
        "seed": _SEED,
    }
