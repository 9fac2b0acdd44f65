/** Requests to the service that this page came from, and what can go wrong with them. */

let key = ""; // nowhere else: a reload forgets it

export function useKey(value) {
  key = value.trim();
}

/** What the service said is wrong. `headers` are those of its answer, if there was one. */
export class ServiceError extends Error {
  constructor(message, status = 0, headers = new Headers()) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

/** The answer to a GET, or to a POST if there is a body. Throws ServiceError, or AbortError once `signal` fired. */
export async function send(path, { body, signal } = {}) {
  const headers = new Headers();
  if (body !== undefined) headers.set("content-type", "application/json");
  try {
    if (key) headers.set("authorization", `Bearer ${key}`);
  } catch {
    throw new ServiceError("The API key has characters that can't be sent: letters, digits and signs of ASCII can");
  }
  let answer;
  try {
    const method = body === undefined ? "GET" : "POST";
    answer = await fetch(path, { method, headers, body: JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service can't be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  throw new ServiceError(await sentence(answer), answer.status, answer.headers);
}

async function sentence(answer) {
  const found = await answer.json().catch(() => null);
  const said = found?.error?.message ?? `The service answered ${answer.status} and did not say why`;
  const wait = answer.headers.get("retry-after");
  return wait && /^\d+$/.test(wait) ? `${said} (try again in ${wait} s)` : said;
}
