/** DOM nodes from data. Text only ever becomes text, never markup: much of it was written by a model. */

export function element(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, ...plain } = properties;
  const node = Object.assign(document.createElement(tag), plain);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  node.append(...children); // strings become text nodes
  return node;
}

/** A bar that is `share` (0 to 1) full. */
export function bar(share) {
  const fill = element("i");
  fill.style.width = `${100 * share}%`;
  return element("span", { className: "bar", aria: { hidden: "true" } }, fill);
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}
