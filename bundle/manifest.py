"""What `bundle.json` says: every field of the manifest, typed, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bundle.gate import GateRecord

FORMAT_VERSION = 1
MANIFEST_FILE = "bundle.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
ROUTER_FOLDER = "router"
FALLBACK_FOLDER = "fallback"
FALLBACK_NAME = "fallback"
OTHER_ROUTERS_FOLDER = "report/routers"
"""`<kind>.safetensors` of each kind that could have been served: Table 3 compares them."""
HELD_OUT_FILE = "report/held_out.parquet"
GATE_FILE = "report/gate.parquet"
"""What decided who answers: each held-out row's loss under every adapter, and the router's probabilities."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

# A name stands in headers (where commas part names), in metrics, in URLs, in `model`, and as a folder.
EXPERT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
RESERVED_NAMES = ("auto", FALLBACK_NAME, "none")
"""What `model` and metrics call other things than experts."""

RoutedTextRule = Literal["last_user", "first_user", "all_user"]
RouterKind = Literal["semantic", "embedding", "keyword"]
ENCODING_KINDS: tuple[RouterKind, ...] = ("semantic", "embedding")
"""Those that read a prompt through a text encoder."""
Precision = Literal["float32", "int8"]
Kept = Literal["head", "head_and_tail"]


CONFIDENCE_BINS = 10
Bins = Annotated[tuple[float, ...], Field(min_length=CONFIDENCE_BINS, max_length=CONFIDENCE_BINS)]
_SUM_TOLERANCE = 1e-3


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseRecord(_Record):
    """The one base model whose weights every adapter was trained on."""

    id: str = Field(description="hub id or folder, as training was given it")
    name: str = Field(
        pattern=r"^[^\x00-\x1f\x7f]+$",  # it stands in headers and in log lines
        description="what clients call it: the hub id, or the folder's last part",
    )
    revision: str | None = None
    dtype: str = Field(description="dtype it was trained and must be served in, e.g. float32")
    weights_sha256: str
    license: str | None = None


class AnswerEnd(_Record):
    """What a trained answer ends with: the engine stops there, whatever else a client gives to stop at."""

    token_ids: tuple[int, ...] = Field(
        min_length=1, description="each of them ends an answer, and is not shown"
    )
    text: str | None = Field(
        default=None,
        min_length=1,
        description="what the template writes before it in ordinary tokens; not shown",
    )


class LoraRecord(_Record):
    """The shape of an adapter, or what every adapter of the bundle fits into."""

    rank: int = Field(ge=1, description="the largest, where modules or adapters differ")
    alpha: int | float | None = Field(description="None: adapters differ")
    target_modules: tuple[str, ...]


class ExpertRecord(_Record):
    """One cluster's adapter, under the name that the router's label has."""

    name: str = Field(pattern=EXPERT_NAME)
    folder: str
    digest: str = Field(description="sha256 over the adapter's config and weights")
    lora: LoraRecord | None = Field(default=None, description="its own shape; None: the bundle's")
    rows: int = Field(ge=0)
    share: float = Field(ge=0, le=1)
    top_terms: tuple[str, ...] = ()

    @property
    def engine_name(self) -> str:
        """The name inside the engine: it changes with the weights, so no cached prefix outlives them."""
        return f"{self.name}@{self.digest[:12]}"


class FallbackRecord(_Record):
    """The adapter that answers when the router can't or should not choose: one of its own, or an expert's."""

    kind: Literal["warmup", "everything", "adapter", "expert"] = Field(
        description="warmup: Stage I's; everything: trained on all rows; adapter: one that was given for it; "
        "expert: one of the experts"
    )
    expert: str | None = Field(default=None, description="the expert's name, if it is one")
    folder: str = FALLBACK_FOLDER
    digest: str
    lora: LoraRecord | None = Field(default=None, description="as an expert's")

    @property
    def name(self) -> str:
        """What headers and metrics call it."""
        return self.expert or FALLBACK_NAME

    @property
    def engine_name(self) -> str:
        """The name inside the engine, which changes with the weights."""
        return f"{self.name}@{self.digest[:12]}"


class CascadeRecord(_Record):
    """A linear model over hashed words that answers in the encoder's place where it surely agrees with it."""

    threshold: float = Field(gt=0, lt=1, description="its confidence from which on it answers")
    share: float = Field(ge=0, le=1, description="held-out rows that it answers")
    agreement: float = Field(ge=0, le=1, description="of those, the rows on which the encoder says the same")
    rows: int = Field(ge=1, description="held-out rows these two are of; none of them chose the threshold")


class UnfamiliarRecord(_Record):
    """From which distance on a prompt is unlike anything in training, and who answers it."""

    by: Literal["encoding", "word_pairs"] = Field(
        description="encoding: the distance of the encoder's output from training's; word_pairs: of a router "
        "without an encoder, the share of pairs of neighbouring words that no prompt of training has"
    )
    answers: Literal["fallback", "base"]
    threshold: float = Field(ge=0, description="the distance up to which a prompt is familiar")
    quantile: float = Field(gt=0, lt=1, description="of held-out rows' distances that the threshold is")
    most_unknown: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of unknown pairs of words up to which a cascade's linear model answers; None: it has none",
    )
    caught: float = Field(ge=0, le=1, description="held-out rows that are caught, all of them wrongly")
    rows: int = Field(ge=1, description="held-out rows this is of; none of them chose the threshold")


class RouterRecord(_Record):
    """The router's kind, what its encoder was, and what makes it fast."""

    kind: RouterKind
    encoder: str | None = Field(description="None: a kind that reads words")
    encoder_sha256: str | None
    encoder_license: str | None = None
    hidden: int = Field(ge=1, description="columns of the head's W: an embedding's width, or keywords")
    precision: Precision = Field(default="float32", description="of the encoder's weights")
    cascade: CascadeRecord | None = Field(default=None, description="None: the encoder answers everything")
    unfamiliar: UnfamiliarRecord | None = Field(
        default=None, description="None: every prompt is routed, however strange"
    )

    @model_validator(mode="after")
    def _encoders_are_for_kinds_that_encode(self) -> RouterRecord:
        encodes = self.kind in ENCODING_KINDS
        if encodes != (self.encoder is not None):
            raise ValueError(f"encoder: it is {self.encoder!r}, and the router's kind is {self.kind!r}")
        faster = self.cascade is not None or self.precision != "float32"
        if not encodes and faster:
            raise ValueError(f"kind: a {self.kind!r} router has no encoder to make faster")
        if self.unfamiliar is not None and encodes != (self.unfamiliar.by == "encoding"):
            raise ValueError(f"unfamiliar.by: it is {self.unfamiliar.by!r}, and the kind is {self.kind!r}")
        return self


class RoutedText(_Record):
    """Which text of a request the router reads, the same in training and in serving."""

    rule: RoutedTextRule = "last_user"
    max_tokens: int = Field(ge=8)
    keeps: Kept = Field(default="head", description="what is kept of a longer text; see router/tokens.py")


class Calibration(_Record):
    """How far the router's probabilities can be believed, measured on held-out rows as it is served."""

    temperature: float = Field(gt=0)
    held_out_rows: int = Field(ge=0, description="rows that the figures below are of")
    fitted_rows: int | None = Field(
        default=None, ge=0, description="other held-out rows, which temperature and thresholds were fitted on"
    )
    agreement: float | None = Field(
        ge=0, le=1, description="share of held-out rows routed to their label; None: there were no rows"
    )
    macro_f1: float | None = Field(default=None, ge=0, le=1)
    ece: float | None = Field(default=None, ge=0, le=1, description="expected calibration error, ten bins")
    confidence: Bins | None = Field(
        default=None, description="share of rows whose top probability lies in each tenth of [0, 1]"
    )
    shares: tuple[float, ...] | None = Field(default=None, description="share of rows routed to each label")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="below it the fallback answers; None: never"
    )
    target_agreement: float | None = Field(
        default=None, gt=0, lt=1, description="asked of the rows that are not left to the fallback"
    )
    coverage: float | None = Field(default=None, ge=0, le=1, description="rows at or above the threshold")
    covered_agreement: float | None = Field(default=None, ge=0, le=1, description="agreement on those")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Calibration:
        for name in ("confidence", "shares"):
            shares = getattr(self, name)
            if shares is not None and (min(shares) < 0 or abs(sum(shares) - 1) > _SUM_TOLERANCE):
                raise ValueError(f"{name}: shares of one whole must sum to 1, these to {sum(shares):.3f}")
        return self


class Manifest(_Record):
    """The whole of `bundle.json`."""

    format_version: int = FORMAT_VERSION
    created: str
    base: BaseRecord
    lora: LoraRecord
    label_order: tuple[str, ...] = Field(min_length=1, description="what the router's outputs are called")
    experts: tuple[ExpertRecord, ...] = Field(
        description="in label order; a label without one is answered by the fallback"
    )
    fallback: FallbackRecord
    router: RouterRecord
    routed_text: RoutedText
    answer_end: AnswerEnd | None = Field(
        default=None,
        description="None: an older bundle's, of which only the base's end-of-text token is known",
    )
    calibration: Calibration
    gate: GateRecord | None = Field(
        default=None, description="None: nothing was measured, and every label has an expert that answers"
    )
    data_licenses: tuple[str, ...] = ()
    recipe: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None = None
    files: dict[str, str] = Field(description="sha256 of every other file of the bundle, by path")
    seal: str = Field(default="", description="sha256 of this manifest without the seal")

    @model_validator(mode="after")
    def _labels_name_the_experts(self) -> Manifest:
        names = tuple(expert.name for expert in self.experts)
        answering = self.label_order
        if self.gate is not None:
            if len(self.gate.labels) != len(self.label_order):
                raise ValueError(
                    f"gate.labels: {len(self.gate.labels)} of them for {len(self.label_order)} labels of the router"
                )
            gated = zip(self.label_order, self.gate.labels, strict=True)
            answering = tuple(name for name, label in gated if label.threshold is not None)
        elif not names:
            raise ValueError("experts: a bundle without a gate needs at least one expert")
        if names != answering:
            raise ValueError(
                f"label_order: the experts must stand in the order of the router's labels, one for each that an "
                f"expert answers ({list(answering)}), but they stand as {list(names)}"
            )
        return self

    @model_validator(mode="after")
    def _the_router_knows_every_label(self) -> Manifest:
        shares = self.calibration.shares
        if shares is not None and len(shares) != len(self.label_order):
            raise ValueError(
                f"calibration.shares: {len(shares)} shares for {len(self.label_order)} labels of the router"
            )
        return self

    @model_validator(mode="after")
    def _names_can_be_told_apart(self) -> Manifest:
        taken = {name.casefold() for name in (*RESERVED_NAMES, self.base.name)}
        for name in self.label_order:
            if name.casefold() in taken:
                raise ValueError(f"experts: the name {name!r} is taken, letters' case aside")
            taken.add(name.casefold())
        return self

    @model_validator(mode="after")
    def _the_fallback_is_what_it_says(self) -> Manifest:
        its = self.fallback
        if (its.kind == "expert") != (its.expert is not None):
            raise ValueError(f"fallback.expert: it is {its.expert!r}, and fallback.kind is {its.kind!r}")
        same = [(e.folder, e.digest) for e in self.experts if e.name == its.expert]
        if its.expert is not None and same != [(its.folder, its.digest)]:
            raise ValueError(
                f"fallback.expert: no expert {its.expert!r} has the fallback's folder and digest"
            )
        return self

    @model_validator(mode="after")
    def _the_largest_rank_is_the_bundles(self) -> Manifest:
        ranks = [adapter.lora.rank for adapter in self.adapters if adapter.lora]
        if max(ranks, default=0) > self.lora.rank:
            raise ValueError(f"lora.rank: it is {self.lora.rank}, and an adapter has {max(ranks)}")
        return self

    @model_validator(mode="after")
    def _every_adapter_has_its_own_folder(self) -> Manifest:
        folders = [adapter.folder for adapter in self.adapters]
        if len(set(folders)) != len(folders):
            raise ValueError(f"experts: two adapters share one folder in {folders}")
        return self

    @property
    def adapters(self) -> tuple[ExpertRecord | FallbackRecord, ...]:
        """Every adapter of the bundle: the experts in label order, then the fallback if it is none of them."""
        return self.experts if self.fallback.kind == "expert" else (*self.experts, self.fallback)

    @property
    def label_shares(self) -> dict[str, float]:
        """The share of the training rows that each of the router's labels has, in label order."""
        if self.gate is None:
            return {expert.name: expert.share for expert in self.experts}
        return {name: label.share for name, label in zip(self.label_order, self.gate.labels, strict=True)}

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with anything in the bundle."""
        return self.seal[:12]

    def sealed(self) -> Manifest:
        """Return the same manifest with its seal set."""
        return self.model_copy(update={"seal": self._seal_of_content()})

    def seal_holds(self) -> bool:
        """Whether nothing in the manifest changed since it was sealed.

        A seal is of the fields that its bundle has: one of an older version lacks those that came later.
        """
        return self.seal in (self._seal_of_content(), self._seal_of_content(of_all=False))

    def _seal_of_content(self, of_all: bool = True) -> str:
        content = self.model_dump(mode="json", exclude={"seal"}, exclude_unset=not of_all)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
