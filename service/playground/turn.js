/** One prompt: the router's probabilities, and one or two answers side by side. */

import { send } from "./api.js";
import { Answer } from "./answer.js";
import { bar, element, percent } from "./element.js";
import { base, tone } from "./experts.js";

export class Turn {
  /** `earlier` has the messages before this turn for each column; `onChange` is called when answers start and end. */
  constructor(prompt, earlier, options, onChange) {
    this.prompt = prompt;
    this.earlier = earlier;
    this.options = options;
    this.onChange = onChange;
    this.answers = [];
    this.router = element("div", { className: "router" }, element("p", { className: "note" }, "Asking the router…"));
    this.columns = element("div", { className: "columns" });
    this.node = element(
      "article",
      { className: "turn", aria: { label: "Turn" } },
      element("p", { className: "prompt" }, element("span", { className: "hidden" }, "You asked: "), prompt),
      this.router,
      this.columns,
    );
  }

  get running() {
    return this.answers.some((answer) => answer.node.dataset.state === "running");
  }

  stop() {
    for (const answer of this.answers) answer.stop();
  }

  /** Have `model` answer in a column; who answered there before makes room. */
  async ask(column, model) {
    this.answers[column]?.stop();
    const answer = new Answer(model);
    this.answers[column] = answer;
    this.columns.replaceChildren(...this.answers.map((each) => each.node));
    this.onChange();
    await answer.run(this.messages(column), this.options);
    this.onChange();
  }

  /** Show where the router would send the prompt, whoever was asked. */
  async route() {
    try {
      const answer = await send("v1/route", { body: { messages: this.messages(0) } });
      const decision = (await answer.json()).data[0];
      if (decision.reason === "router_error") {
        this.noBars("The router failed, so there are no probabilities; the fallback answers.");
      } else {
        this.bars(decision);
      }
    } catch (error) {
      this.noBars(`No probabilities: ${error.message}`);
    }
  }

  messages(column) {
    return [...this.earlier[column], { role: "user", content: this.prompt }];
  }

  noBars(why) {
    this.router.replaceChildren(element("p", { className: "note", role: "status" }, why));
  }

  bars(decision) {
    const rows = Object.entries(decision.probabilities).map(([name, probability]) =>
      element("li", {}, this.again(
        name,
        `bar-row ${tone(name)}${name === decision.expert ? " chosen" : ""}`,
        { name, probability },
        `${name}, ${percent(probability)}. Ask it too`,
        element("span", { className: "name" }, name),
        bar(probability),
        element("span", { className: "figure" }, percent(probability)),
      )),
    );
    const list = element("ul", { className: "bars", aria: { label: "The router's probabilities" } }, ...rows);
    const hint = element("p", { className: "note" }, "Select a bar to hear that expert too, or ");
    if (base()) {
      hint.append(this.again(base(), "link", {}, `Ask the base model ${base()} too`, "ask the base model"), ".");
    }
    this.router.replaceChildren(list, hint);
  }

  again(model, className, data, label, ...children) {
    const button = element("button", { type: "button", className, data, title: label, aria: { label } }, ...children);
    button.addEventListener("click", () => this.ask(1, model));
    return button;
  }
}
