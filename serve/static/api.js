// What this page asks of its server. Nothing leaves for any other address, and paths are relative:
// the page works below any prefix.

let key = "";

/** Use an API key from now on; it is kept in memory only. */
export function setKey(value) {
  key = value.trim();
}

function headers() {
  const base = { "Content-Type": "application/json" };
  return key ? { ...base, Authorization: `Bearer ${key}` } : base;
}

/** Return the JSON at a path, or throw the server's own words. */
export async function get(path) {
  const answer = await fetch(path, { headers: headers() });
  if (!answer.ok) throw new Error(await problem(answer));
  return answer.json();
}

/** Ask the chat endpoint and yield its chunks as they come. */
export async function* chat(body, signal) {
  const answer = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  if (!answer.ok) throw new Error(await problem(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}

/** Return a request of the chat endpoint for one patient's input, as `predict` takes it.
 *  Its last text is read as the question, so there must be one: a note would be taken for it. */
export function chatBody(model, task, input, question) {
  const content = [];
  if (input.text) content.push({ type: "text", text: input.text });
  if (input.image) content.push({ type: "image_url", image_url: { url: input.image } });
  if (input.ecg) content.push({ type: "input_ecg", input_ecg: input.ecg });
  if (input.series) content.push({ type: "input_series", input_series: input.series });
  content.push({ type: "text", text: question });
  return { model, task, messages: [{ role: "user", content }] };
}

async function problem(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}
