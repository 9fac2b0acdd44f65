"""Everything a run needs, read and checked before the first weight moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from training.errors import RowsError
from training.models.base_model import BaseModel, find_base
from training.models.encoder import Encoder, load_encoder
from training.models.reporters import reporters
from training.progress import Narrator
from training.recipe import Recipe, resolved_values
from training.rows.reading import FileRead, HowToRead, Row, Unusable, read_rows
from training.rows.rendering import TokenRow, render, use_chat_template
from training.rows.split import Repeats, Split, count_repeats, prompt_key, split_rows


@dataclass(frozen=True)
class Inputs:
    """What a run is made of. `texts` are the rows' words, prompt and answer, for the report."""

    recipe: Recipe
    base: BaseModel
    tokenizer: PreTrainedTokenizerBase
    chat_template: str
    encoder: Encoder
    rows: Sequence[TokenRow]
    texts: Sequence[str]
    unusable: Sequence[Unusable]
    held_out: Sequence[TokenRow]
    """Rows of `data.held_out`: none of them, nor their prompts, is among `rows`."""
    split: Split
    files: Sequence[FileRead]
    """What of each file was used."""
    repeats: Repeats
    digest: str
    """Of all that training computes with."""
    origins_digest: str
    """Of what the report alone says: where rows came from, and which were left out."""
    held_out_digest: str
    """Of the rows of `data.held_out`."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of every row [N]."""
        return [len(row.input_ids) for row in self.rows]

    def words(self, row: int) -> tuple[str, str]:
        """A row's prompt and answer as people read them, without the template's special tokens."""
        return self.words_of(self.rows[row])

    def words_of(self, row: TokenRow) -> tuple[str, str]:
        """As `words`, of a row that may be a held-out one."""
        ids, prompt = row.input_ids, row.prompt_length
        decode = self.tokenizer.decode
        return (
            str(decode(list(ids[:prompt]), skip_special_tokens=True)),
            str(decode(list(ids[prompt:]), skip_special_tokens=True)),
        )

    def pick(self, places: Sequence[int]) -> list[TokenRow]:
        """The rows at these places."""
        return [self.rows[place] for place in places]


def read_inputs(recipe: Recipe, narrator: Narrator) -> Inputs:
    """Read and check all inputs: what is wrong with them is said before any training.

    Raises:
        TrainingError: a bad recipe, base, encoder, or too many unusable rows.

    """
    _, no_curves = reporters(recipe.train.report_to)
    if no_curves:
        narrator.warn(no_curves)
    base = find_base(recipe.base)
    encoder = load_encoder(recipe.router.encoder)
    encoder.tokens(recipe.router.max_tokens)  # refused now, not after every expert is trained
    tokenizer = base.tokenizer()
    template = use_chat_template(tokenizer, recipe.base.chat_template)
    max_length = min(recipe.data.max_length, base.max_positions)
    rendering = _Rendering(recipe, tokenizer, max_length, narrator)
    rows, texts, unusable, files = rendering.of(recipe.data.files)
    held_out = _held_out(recipe, rendering, rows, narrator)
    prompts = [prompt_key(row.routed_text) for row in rows]
    repeats = count_repeats(prompts, [tuple(row.input_ids[row.prompt_length :]) for row in rows])
    if said := repeats.line():
        narrator.say(said)
    split = split_rows(len(rows), recipe.split, recipe.seed, prompts)
    narrator.say(
        f"{len(rows):,} rows: {len(split.train):,} to train on (warm-up {len(split.warmup):,}, probe "
        f"{len(split.probe):,} of them), {len(split.validation) + len(held_out):,} held out"
    )
    for key, value, tag, _ in resolved_values(recipe):
        narrator.say(f"    {key} = {value}  ({tag})")
    return Inputs(
        recipe=recipe,
        base=base,
        tokenizer=tokenizer,
        chat_template=template,
        encoder=encoder,
        rows=rows,
        texts=texts,
        unusable=tuple(unusable),
        held_out=held_out,
        split=split,
        files=files,
        repeats=repeats,
        digest=_digest_of_inputs(rows, base, template),
        origins_digest=_digest_of_origins(rows, unusable),
        held_out_digest=_digest_of_inputs(held_out, base, template),
    )


@dataclass(frozen=True)
class _Rendering:
    """Reads files and renders their rows, all of them in the same way."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    narrator: Narrator

    def of(self, files: tuple[str, ...]) -> tuple[list[TokenRow], list[str], list[Unusable], list[FileRead]]:
        """Return the rows, their words, what can't be used, and what of each file was; raises where too little was."""
        told: list[FileRead] = []
        read, unusable = read_rows(files, HowToRead.of(self.recipe.data), told)
        for file in told:
            for line in file.lines():
                self.narrator.say(line)
        rows: list[TokenRow] = []
        texts: list[str] = []
        with self.narrator.bar("rendering", len(read), "rows") as advance:
            for row in read:
                rendered = render(self.tokenizer, row, self.recipe.router.routed_text, self.max_length)
                if isinstance(rendered, TokenRow):
                    rows.append(rendered)
                    texts.append(_text_of(row))
                else:
                    unusable.append(rendered)
                advance(1)
        _judge_unusable(unusable, len(rows), self.recipe.data.max_unusable, self.narrator)
        return rows, texts, unusable, told


def _held_out(
    recipe: Recipe, rendering: _Rendering, rows: Sequence[TokenRow], narrator: Narrator
) -> list[TokenRow]:
    """Read `data.held_out`, but for rows whose prompt the router would know."""
    if not recipe.data.held_out:
        return []
    seen = {prompt_key(row.routed_text) for row in rows}
    read, *_ = rendering.of(recipe.data.held_out)
    unseen = [row for row in read if prompt_key(row.routed_text) not in seen]
    if not unseen:
        raise RowsError("data.held_out: the prompt of every row stands in data.files too. Give other rows.")
    if len(unseen) < len(read):
        narrator.warn(
            f"left out {len(read) - len(unseen):,} rows of data.held_out: their prompts stand in data.files too"
        )
    return unseen


def _text_of(row: Row) -> str:
    return "\n".join([*(message["content"] for message in row.prompt), row.completion])


def _judge_unusable(unusable: list[Unusable], used: int, limit: float, narrator: Narrator) -> None:
    if not unusable:
        return
    total = used + len(unusable)
    for row in unusable[:20]:
        narrator.warn(f"left out {row.origin}: {row.reason}")
    if len(unusable) > 20:
        narrator.warn(f"... and {len(unusable) - 20} more; all of them stand in the report")
    if len(unusable) / total > limit:
        raise RowsError(
            f"{len(unusable)} of {total} rows can't be used, more than data.max_unusable = {limit:.0%}. "
            f"The first: {unusable[0].origin}: {unusable[0].reason}. Mend the rows, or raise the limit."
        )


def _digest_of_inputs(rows: Sequence[TokenRow], base: BaseModel, template: str) -> str:
    digest = hashlib.sha256(base.record.weights_sha256.encode() + template.encode())
    for row in rows:
        digest.update(json.dumps([*row.parts, row.routed_text]).encode())
    return digest.hexdigest()


def _digest_of_origins(rows: Sequence[TokenRow], unusable: Sequence[Unusable]) -> str:
    said = [[(row.origin, row.source) for row in rows], [(row.origin, row.reason) for row in unusable]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
