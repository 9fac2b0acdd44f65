/** One answer as it streams: who gives it and why, its text, how fast it came, or what went wrong. */

import { send } from "./api.js";
import { element } from "./element.js";
import { events } from "./event_stream.js";
import { noticeBundle, tone } from "./experts.js";

export class Answer {
  /** `asked` is the name that goes into `model`. */
  constructor(asked) {
    this.asked = asked;
    this.words = "";
    this.complete = false;
    this.badge = element("span", { className: "badge tone-none" }, asked);
    this.why = element("span", { className: "why" });
    this.text = element("div", { className: "text", aria: { live: "polite", busy: "true" } });
    this.problem = element("p", { className: "problem", role: "alert", hidden: true });
    this.figures = element("p", { className: "figures" });
    this.node = element(
      "section",
      { className: "answer tone-none", data: { asked, state: "running" }, aria: { label: `Answer, asked ${asked}` } },
      element("header", {}, this.badge, this.why),
      this.text,
      this.problem,
      this.figures,
    );
    this.abort = new AbortController();
  }

  /** Ask, and show what comes. Never throws; `state` says how it ended: done, stopped or failed. */
  async run(messages, { temperature, maxTokens }) {
    const words = this.text.appendChild(document.createTextNode(""));
    const timing = { start: performance.now(), first: 0, last: 0, tokens: 0 };
    try {
      const answer = await send("v1/chat/completions", {
        signal: this.abort.signal,
        body: {
          model: this.asked,
          messages,
          temperature,
          max_tokens: maxTokens,
          stream: true,
          stream_options: { include_usage: true, continuous_usage_stats: true },
        },
      });
      this.decided(answer.headers);
      let finish = "";
      for await (const event of events(answer)) {
        const choice = event.choices[0];
        timing.tokens = event.usage?.completion_tokens ?? timing.tokens;
        if (choice?.delta.content) {
          timing.last = performance.now();
          timing.first ||= timing.last;
          words.appendData(choice.delta.content);
          this.show(timing, "");
        }
        finish = choice?.finish_reason ?? finish;
      }
      if (!words.data) this.text.append(element("span", { className: "note" }, "(an empty answer)"));
      this.complete = true;
      this.end("done");
      this.show(timing, finish === "length" ? "cut at max tokens" : "");
    } catch (error) {
      if (error.name === "AbortError") {
        this.end("stopped");
        this.show(timing, "stopped");
      } else {
        this.failed(error);
      }
    }
    this.words = words.data;
  }

  stop() {
    this.abort.abort();
  }

  decided(headers) {
    const expert = headers.get("x-gradientspace-expert");
    if (!expert) return;
    noticeBundle(headers);
    this.badge.textContent = expert;
    this.badge.className = `badge ${tone(expert)}`;
    this.node.className = `answer ${tone(expert)}`;
    this.node.dataset.expert = expert;
    const sure = `${Math.round(100 * Number(headers.get("x-gradientspace-confidence")))} %`;
    this.why.textContent = {
      routed: `routed, ${sure} sure, in ${Number(headers.get("x-gradientspace-router-ms")).toFixed(1)} ms`,
      named: "asked by name",
      low_confidence: `the router was only ${sure} sure, so the fallback answers`,
      unfamiliar: "nothing in training was like this, so no expert answers",
      no_gain: "no expert was measured to help here, so the fallback answers",
      router_error: "the router failed, so the fallback answers",
    }[headers.get("x-gradientspace-reason")] ?? "";
  }

  show({ start, first, last, tokens }, ending) {
    const parts = [];
    if (first) parts.push(`first token ${Math.round(first - start)} ms`);
    if (tokens) parts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
    if (tokens > 1 && last > first) parts.push(`${Math.round((1000 * (tokens - 1)) / (last - first))} tokens/s`);
    if (ending) parts.push(ending);
    this.figures.textContent = parts.join(" · ");
  }

  failed(error) {
    this.end("failed");
    if (error.headers) this.decided(error.headers);
    this.problem.textContent = error.message;
    this.problem.hidden = false;
  }

  end(state) {
    this.node.dataset.state = state;
    this.text.setAttribute("aria-busy", "false");
  }
}
