/** The page: reads the form, keeps the turns, and watches whether the service is ready. */

import { send, useKey } from "./api.js";
import { load } from "./experts.js";
import { Turn } from "./turn.js";

const READY_EVERY_MS = 5000;
const byId = (id) => document.getElementById(id);
const [form, prompt, go, stop, ready, side, key] = ["ask", "prompt", "go", "stop", "ready", "side", "key"].map(byId);
const turns = [];

/** The messages before turn number `place`, as the answers of this column gave them. */
function history(place, column) {
  if (!byId("remember").checked) return [];
  return turns.slice(0, place).flatMap((turn) => {
    const answer = turn.answers[column] ?? turn.answers[0];
    if (!answer?.complete) return [];
    return [{ role: "user", content: turn.prompt }, { role: "assistant", content: answer.words }];
  });
}

function showRunning() {
  const running = turns.some((turn) => turn.running);
  go.hidden = running;
  stop.hidden = !running;
}

function ask() {
  if (!prompt.value.trim()) return;
  const place = turns.length;
  const options = { temperature: byId("temperature").valueAsNumber, maxTokens: byId("max-tokens").valueAsNumber };
  const earlier = [0, 1].map((column) => history(place, column)); // as it is now, also for a later comparison
  const turn = new Turn(prompt.value, earlier, options, showRunning);
  turns.push(turn);
  byId("empty").hidden = true;
  byId("turns").append(turn.node);
  turn.route();
  turn.ask(0, byId("first").value);
  if (byId("second").value) turn.ask(1, byId("second").value);
  prompt.value = "";
  prompt.focus();
  following = turn.node;
  growth.disconnect();
  growth.observe(following);
}

// A turn that grows stays in sight, until its top is at the top of the page or somebody scrolls.
let following = null;
const growth = new ResizeObserver(() => following?.scrollIntoView({ block: "nearest" }));
for (const scrolling of ["wheel", "touchmove"]) {
  document.addEventListener(scrolling, () => { following = null; }, { passive: true });
}

function stopAll() {
  for (const turn of turns) turn.stop();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!go.hidden) ask();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopAll();
});
stop.addEventListener("click", stopAll);
key.addEventListener("change", () => {
  useKey(key.value);
  load();
});

const wide = matchMedia("(min-width: 60rem)");
const unfold = () => { side.open = wide.matches; };
wide.addEventListener("change", unfold);
unfold();

let wasReady = false;
async function watch() {
  try {
    await send("health/ready");
    ready.dataset.state = "ready";
    ready.textContent = "Ready";
    if (!wasReady) await load();
    wasReady = true;
  } catch (error) {
    ready.dataset.state = "not-ready";
    ready.textContent = `Not ready: ${error.message}`;
    if (!wasReady) await load();
    wasReady = false;
  }
  setTimeout(watch, READY_EVERY_MS);
}
watch();
