/** Server-sent events of an answer, parsed as they arrive. */

import { ServiceError } from "./api.js";

/** Yields each event's JSON until [DONE]. Throws ServiceError if an event is an error or the end is missing. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true }; // the connection broke
    });
    if (done) throw new ServiceError("The answer broke off: the connection ended before it was complete");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServiceError(event.error.message ?? "The engine failed", event.error.code);
      yield event;
    }
  }
}
