"""Another bundle on a running server: without a failed request, without a mixed answer, or not at all.

The server is everybody's, so every test puts its first bundle back.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from bundle.manifest import Manifest
from bundle.read import Bundle
from tests.stand_ins.http_answers import check_error, samples
from tests.stand_ins.live_server import ADMIN_KEY, LiveServer
from tests.stand_ins.other_versions import (
    MARK,
    claiming,
    copy_of,
    make_current,
    next_version,
    other_base,
    recorded_on,
    seal,
    with_a_zeroed_adapter,
    with_chat_template,
    with_swapped_experts,
    with_template_mark,
)

KEY = {"authorization": f"Bearer {ADMIN_KEY}"}
WAIT_SECONDS = 300


def reload(http: httpx.Client) -> httpx.Response:
    """Reload, once the version before the present one has left."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        answer = http.post("/admin/reload", headers=KEY, timeout=WAIT_SECONDS)
        if "last answers" not in answer.text or time.monotonic() > deadline:
            return answer
        time.sleep(0.2)


@pytest.fixture
def current(served_link: Path, bundle: Bundle, http: httpx.Client) -> Iterator[Path]:
    """The link that the server was started with; whatever a test puts there, it is gone again afterwards."""
    yield served_link
    make_current(served_link, bundle.folder.resolve())
    assert reload(http).json()["bundle"] == bundle.digest


@pytest.fixture(scope="module")
def following(bundle: Bundle, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return next_version(bundle, base, tmp_path_factory.mktemp("next") / "bundle")


class Load:
    """Clients that ask all the time, and check of every answer that one version gave the whole of it."""

    def __init__(self, url: str, versions: list[Manifest], digests: list[str], prompts: list[str]) -> None:
        self.url = url
        self.prompts = prompts
        self.of_digest = {
            digest: {record.name: record.engine_name for record in manifest.adapters}
            | {manifest.base.name: manifest.base.name}
            for digest, manifest in zip(digests, versions, strict=True)
        }
        self.seen: Counter[tuple[str, str]] = Counter()
        self.enough = threading.Event()
        self.failed = False
        self.base_name = versions[0].base.name
        self.said_by_base: set[str] = set()

    def asks(self) -> list[Callable[[httpx.Client], None]]:
        return [
            self.chat,
            self.named,
            self.base,
            self.stream,
            self.prompt_list,
            self.streamed_list,
            self.ready,
        ]

    def chat(self, http: httpx.Client) -> None:
        body = {"messages": [{"role": "user", "content": self.prompts[0]}], "max_tokens": 4}
        answer = http.post("/v1/chat/completions", json=body)
        self.check("chat", answer, [self.ok(answer).json()["model"]])

    def named(self, http: httpx.Client) -> None:
        body = {"model": "expert-0", "prompt": "Once upon a time", "max_tokens": 4}
        answer = http.post("/v1/completions", json=body)
        self.check("named", answer, [self.ok(answer).json()["model"]])

    def base(self, http: httpx.Client) -> None:
        """What the base says is the same in any company: no adapter of the batch has a part in it."""
        body = {"model": self.base_name, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        answer = http.post("/v1/completions", json=body)
        self.check("base", answer, [self.ok(answer).json()["model"]])
        self.said_by_base.add(answer.json()["choices"][0]["text"])

    def stream(self, http: httpx.Client) -> None:
        """A long one: it begins with the version before the switch and ends after it."""
        body = {"model": "expert-0", "prompt": "Once upon a time", "max_tokens": 100, "ignore_eos": True}
        last = self.events(http, "stream", body | {"stream_options": {"include_usage": True}})
        assert last["usage"]["completion_tokens"] == 100

    def prompt_list(self, http: httpx.Client) -> None:
        answer = http.post("/v1/completions", json={"prompt": self.prompts, "max_tokens": 4})
        assert len(self.ok(answer).json()["choices"]) == len(self.prompts)
        self.check("list", answer, None)

    def streamed_list(self, http: httpx.Client) -> None:
        self.events(http, "streamed list", {"prompt": self.prompts, "max_tokens": 8, "ignore_eos": True})

    def ready(self, http: httpx.Client) -> None:
        self.ok(http.get("/health/ready"))
        time.sleep(0.05)

    def events(self, http: httpx.Client, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the last event."""
        models = []
        with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            self.status_of(answer)
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    assert "error" not in event, event
                    models.append(event["model"])
                    last = event
        self.check(kind, answer, models)
        return last

    def status_of(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.read()

    def ok(self, answer: httpx.Response) -> httpx.Response:
        self.status_of(answer)
        return answer

    def check(self, kind: str, answer: httpx.Response, models: list[str] | None) -> None:
        digest = answer.headers["x-gradientspace-bundle"]
        names = answer.headers["x-gradientspace-expert"].split(",")
        if models is not None:
            assert set(models) == {self.of_digest[digest][name] for name in names}
        self.seen[kind, digest] += 1

    def keep_asking(self, ask: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self.url, timeout=WAIT_SECONDS) as http:
            while not self.enough.is_set():
                try:
                    ask(http)
                except BaseException:
                    self.failed = True
                    raise

    @contextmanager
    def running(self) -> Iterator[None]:
        asks = self.asks()
        with ThreadPoolExecutor(len(asks)) as pool:
            running = [pool.submit(self.keep_asking, ask) for ask in asks]
            try:
                yield
            finally:
                self.enough.set()
            for one in running:
                one.result()

    def wait_for(self, digest: str, times: int = 2) -> None:
        """Until every kind of request was answered so often by this version."""
        kinds = ("chat", "named", "base", "stream", "list", "streamed list")
        deadline = time.monotonic() + WAIT_SECONDS
        while any(self.seen[kind, digest] < times for kind in kinds):
            assert time.monotonic() < deadline, self.seen
            if self.failed:
                return  # what failed is raised when the load ends
            time.sleep(0.1)


def test_under_load_every_answer_is_of_one_version_and_none_fails(
    http: httpx.Client,
    server: LiveServer,
    bundle: Bundle,
    following: Bundle,
    base: Path,
    prompt_for: dict[str, str],
    current: Path,
) -> None:
    def counted(result: str) -> float:
        return samples(http)["gradientspace_reloads_total", frozenset({("result", result)})]

    switched = counted("switched")
    load = Load(
        server.url,
        [bundle.manifest, following.manifest],
        [bundle.digest, following.digest],
        list(prompt_for.values()),
    )
    load.base(http)  # alone
    with load.running():
        load.wait_for(bundle.digest)
        make_current(current, following.folder)
        answer = reload(http)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["before"], told["bundle"], told["changed"]) == (bundle.digest, following.digest, True)
        load.wait_for(following.digest)

    assert len(load.said_by_base) == 1
    # The new version, and nothing else: its experts, its chat template, its digest.
    models = {card["id"] for card in http.get("/v1/models?versions=true").json()["data"]}
    new, old = following.manifest.experts[0].engine_name, bundle.manifest.experts[0].engine_name
    assert new in models
    assert old not in models
    assert http.post("/v1/completions", json={"model": old, "prompt": "x"}).status_code == 404
    rendered = http.post("/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()["tokens"]
    assert AutoTokenizer.from_pretrained(base).decode(rendered).endswith(MARK)
    info = [dict(labels) for name, labels in samples(http) if name == "gradientspace_bundle_info"]
    assert [labels["digest"] for labels in info] == [following.digest]
    assert counted("switched") == switched + 1
    again = reload(http).json()
    assert (again["changed"], again["bundle"]) == (False, following.digest)


def test_the_first_bundle_is_back_as_it_was(
    http: httpx.Client, bundle: Bundle, following: Bundle, current: Path
) -> None:
    """There and back: the shared adapters stayed, the others went and came."""
    asked = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "ignore_eos": True}

    def said() -> dict[str, str]:
        texts = {}
        for expert in bundle.manifest.experts:
            answer = http.post("/v1/completions", json=asked | {"model": expert.name})
            texts[expert.name] = answer.json()["choices"][0]["text"]
        return texts

    before = said()
    make_current(current, following.folder)
    assert reload(http).status_code == 200
    between = said()
    assert between["expert-0"] != before["expert-0"]
    assert between | {"expert-0": ""} == before | {"expert-0": ""}
    make_current(current, bundle.folder.resolve())
    assert reload(http).json()["changed"] is True
    assert said() == before


def test_a_bundle_that_was_replaced_where_it_lies(
    http: httpx.Client, following: Bundle, base: Path, current: Path, tmp_path: Path
) -> None:
    """Training does so: the same path, another bundle."""
    folder = copy_of(following, tmp_path / "bundle")
    make_current(current, folder)
    assert reload(http).json()["bundle"] == following.digest
    replaced = with_template_mark(folder, base, " Be brief.")
    assert reload(http).json()["bundle"] == replaced.digest
    rendered = http.post("/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()["tokens"]
    assert AutoTokenizer.from_pretrained(base).decode(rendered).endswith("Be kind. Be brief.")


def flipped(bundle: Bundle, base: Path, folder: Path) -> None:
    path = copy_of(bundle, folder) / "experts" / "expert-1" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


REFUSED: list[tuple[Callable[[Bundle, Path, Path], object], list[str]]] = [
    (flipped, ["experts/expert-1/adapter_model.safetensors", "its bytes changed"]),
    (lambda b, base, to: to.mkdir(), ["there is no bundle.json in it"]),
    (
        lambda b, base, to: with_swapped_experts(b, to),
        ["'adapters.expert-0'", "nats away", "it says what expert-1 should say", "as if they were swapped"],
    ),
    (
        lambda b, base, to: with_a_zeroed_adapter(b, to),
        ["'adapters.expert-1'", "nats away", "it says what the base model says, so the adapter does nothing"],
    ),
    (
        lambda b, base, to: recorded_on(b, other_base(base, to.with_name("base")), to),
        ["'base'", "the base model is", "nats away", "Give the base model that the bundle was trained on"],
    ),
    (
        lambda b, base, to: claiming(b, other_base(base, to.with_name("base")), to),
        ["It is for the base model", "Restart the service"],
    ),
    (
        lambda b, base, to: with_chat_template(b, to, "{% for message in messages %}"),
        ["chat_template.jinja: line 1", "Give a chat template in Jinja"],
    ),
    (
        lambda b, base, to: seal(copy_of(b, to), lambda content: content["base"].update(dtype="float16")),
        ["in float16", "Restart the service"],
    ),
]


@pytest.mark.parametrize(("damage", "reasons"), REFUSED)
def test_a_bundle_that_is_not_right_is_refused_and_the_one_before_goes_on(
    http: httpx.Client,
    bundle: Bundle,
    base: Path,
    current: Path,
    tmp_path: Path,
    damage: Callable[[Bundle, Path, Path], object],
    reasons: list[str],
) -> None:
    refused = frozenset({("result", "refused")})
    assert reload(http).json()["changed"] is False  # a version that was leaving has left
    before = samples(http)["gradientspace_reloads_total", refused]
    damage(bundle, base, tmp_path / "bundle")
    make_current(current, tmp_path / "bundle")
    error = check_error(reload(http), 409, "ConflictError")
    for reason in ("the one before is served on", *reasons):
        assert reason in str(error["message"])
    assert "Traceback" not in str(error)
    assert samples(http)["gradientspace_reloads_total", refused] == before + 1
    answer = http.post("/v1/completions", json={"model": "expert-0", "prompt": "x", "max_tokens": 1})
    assert answer.json()["model"] == bundle.manifest.experts[0].engine_name
    assert answer.headers["x-gradientspace-bundle"] == bundle.digest


def test_a_signal_reloads_and_its_result_stands_in_the_log(
    http: httpx.Client, server: LiveServer, bundle: Bundle, following: Bundle, current: Path, tmp_path: Path
) -> None:
    def hang_up_until(text: str) -> None:
        said = server.err.read_text().count(text)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + WAIT_SECONDS
        while server.err.read_text().count(text) == said:
            assert time.monotonic() < deadline, server.err.read_text()
            time.sleep(0.1)

    assert reload(http).json()["changed"] is False  # a version that was leaving has left
    make_current(current, following.folder)
    hang_up_until(f"Reload: switched, bundle {bundle.digest} -> {following.digest}")
    assert http.get("/v1/experts").json()["bundle"] == following.digest
    (tmp_path / "empty").mkdir()
    make_current(current, tmp_path / "empty")
    reload(http)
    hang_up_until("Reload refused: The bundle was not loaded, the one before is served on.")
    assert http.get("/v1/experts").json()["bundle"] == following.digest


def test_of_two_at_once_the_second_is_refused(
    server: LiveServer, http: httpx.Client, following: Bundle, current: Path
) -> None:
    assert reload(http).status_code == 200
    make_current(current, following.folder)
    with ThreadPoolExecutor(2) as pool:
        post = lambda _: httpx.post(f"{server.url}/admin/reload", headers=KEY, timeout=WAIT_SECONDS)  # noqa: E731
        answers = list(pool.map(post, range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert "under way" in refused.text or "last answers" in refused.text


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong-key"}, {"authorization": ADMIN_KEY}, {"x-admin-key": ADMIN_KEY}],
)
def test_without_the_admin_key_nothing_is_reloaded(
    http: httpx.Client, bundle: Bundle, headers: dict[str, str]
) -> None:
    check_error(http.post("/admin/reload", headers=headers), 401, "AuthenticationError")


@pytest.mark.parametrize("body", [b'{"bundle": "/tmp/mine"}', b'["/tmp/mine"]', b"/tmp/mine"])
def test_no_client_names_what_is_loaded(http: httpx.Client, body: bytes) -> None:
    check_error(http.post("/admin/reload", headers=KEY, content=body), 400, "BadRequestError")
