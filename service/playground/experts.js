/** Who can be asked: the list at the side, the two selects, and one colour for each everywhere. */

import { send } from "./api.js";
import { bar, element, percent } from "./element.js";

const AUTO = "auto";
const COLOURS = 10; // as many as style.css names

const list = document.getElementById("experts");
const note = document.getElementById("experts-note");
const about = document.getElementById("about");
const first = document.getElementById("first");
const second = document.getElementById("second");

let known = { bundle: "", base: "", data: [] };

/** The class that colours a bar or a badge: the experts' by their label, none for base and fallback. */
export function tone(name) {
  const label = known.data.findIndex((expert) => expert.name === name);
  return label < 0 ? "tone-none" : `tone-${label % COLOURS}`;
}

export function base() {
  return known.base;
}

/** Ask who there is. What goes wrong is said at the side; the page goes on without. */
export async function load() {
  try {
    const answer = await send("v1/experts");
    known = await answer.json();
  } catch (error) {
    note.textContent = error.status === 401 ? `${error.message}. Give it below.` : error.message;
    note.hidden = false;
    if (!first.options.length) choices();
    return;
  }
  note.textContent = known.data.length ? "" : "This bundle lists no experts.";
  note.hidden = known.data.length > 0;
  const count = known.data.length === 1 ? "1 expert" : `${known.data.length} experts`;
  about.textContent = `${count} on ${known.base} · bundle ${known.bundle}`;
  list.replaceChildren(...known.data.map(entry));
  choices();
}

/** Ask again if an answer came from another bundle than the one on show. */
export function noticeBundle(headers) {
  const bundle = headers.get("x-gradientspace-bundle");
  if (bundle && known.bundle && bundle !== known.bundle) load();
}

function entry(expert) {
  const terms = expert.top_terms.length ? expert.top_terms.join(", ") : "no typical words known";
  return element(
    "li",
    { className: tone(expert.name), title: `${expert.rows} training rows, ${expert.model}` },
    element("span", { className: "name" }, expert.name),
    element("span", { className: "figure" }, element("span", { className: "hidden" }, "trained on "), percent(expert.share),
      element("span", { className: "hidden" }, " of the rows: ")),
    bar(expert.share),
    element("span", { className: "terms" }, terms),
  );
}

function choices() {
  const named = [
    ...(known.base ? [new Option(`${known.base} (base)`, known.base)] : []),
    ...known.data.map((expert) => {
      const terms = expert.top_terms.slice(0, 3).join(", ");
      return new Option(terms ? `${expert.name} (${terms})` : expert.name, expert.name);
    }),
  ];
  fill(first, [new Option("auto (router)", AUTO), ...named.map((option) => option.cloneNode(true))]);
  fill(second, [new Option("nobody", ""), new Option("auto", AUTO), ...named]);
}

function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options);
  if (options.some((option) => option.value === chosen)) select.value = chosen;
}
