// The playground: pick a task, give an input, see answer, probabilities and experts.

import { chat, chatBody, get, setKey } from "./api.js";
import { drawBars, drawInput } from "./draw.js";

const at = (id) => document.getElementById(id);
const state = { model: null, tasks: new Map(), samples: [], input: {}, sample: null, asking: null };

async function start() {
  state.model = null;
  clearAnswer();
  try {
    const [models, tasks, samples] = await Promise.all([
      get("v1/models"),
      get("v1/tasks"),
      get("v1/samples"),
    ]);
    [state.model] = models.data;
    state.tasks = new Map(tasks.data.map((task) => [task.id, task]));
    state.samples = samples.data;
  } catch (error) {
    at("model").textContent = "Not connected.";
    at("problem").textContent = error.message;
    return;
  }
  at("problem").textContent = "";
  const { id, bundle_version: version, base_model: base } = state.model;
  at("model").textContent = `Model ${id}, bundle ${version}, base ${base}`;
  at("task").replaceChildren(group("Trained", "train"), group("Only ever asked", "unseen"));
  await chooseTask();
  busy(false);
}

function group(label, role) {
  const made = document.createElement("optgroup");
  made.label = label;
  for (const task of state.tasks.values()) {
    if (task.role === role) made.append(new Option(task.id.replaceAll("_", " "), task.id));
  }
  return made;
}

const chosenTask = () => state.tasks.get(at("task").value);

async function chooseTask() {
  const task = chosenTask();
  at("task-facts").textContent =
    `Reads ${task.modalities.join(", ")}. Its data in this bundle are ${task.data_kind}.`;
  const samples = state.samples.filter((sample) => sample.task === task.id);
  const none = samples.length ? "none" : "none: the server has no samples of this task";
  const options = samples.map((s, i) => new Option(`${i + 1}: ${s.question.slice(0, 60)}`, s.id));
  at("sample").replaceChildren(...options, new Option(none, ""));
  at("question").value = task.question;
  await chooseSample();
}

async function chooseSample() {
  const id = at("sample").value;
  at("file").value = "";
  takeInput({}, null);
  if (!id) return;
  state.input = null; // until the sample is there
  busy(false);
  try {
    const sample = await get(`v1/samples/${encodeURIComponent(id)}`);
    if (at("sample").value === id) takeInput(sample.input, sample);
  } catch (error) {
    at("problem").textContent = error.message;
  }
}

function takeInput(input, sample) {
  drawInput(at("input"), input, chosenTask().inputs); // first: it throws where this is no input
  state.input = input;
  state.sample = sample;
  at("sample-facts").textContent = sample ? `A ${sample.data_kind} test row, never trained on.` : "";
  if (input.question) at("question").value = input.question;
  clearAnswer();
}

async function takeFile(file) {
  clearAnswer();
  try {
    takeInput(await readFile(file), null);
    at("sample").value = "";
  } catch (error) {
    at("problem").textContent = `${file.name} cannot be read: ${error.message}`;
  }
}

/** Return a file as an input of `predict`: an image, DICOM, or JSON. */
async function readFile(file) {
  if (/\.(dcm|dicom)$/i.test(file.name)) {
    const data = (await dataUrl(file)).split(",")[1];
    return chosenTask().modalities.includes("signal")
      ? { ecg: { file: { format: "dicom", data } } }
      : { image: `data:application/dicom;base64,${data}` };
  }
  if (file.type.startsWith("image/")) return { image: await dataUrl(file) };
  const input = JSON.parse(await file.text());
  if (!(input instanceof Object)) throw new Error("it holds no input.");
  return input;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Take away the answer, and give up one that still comes. */
function clearAnswer() {
  state.asking?.abort();
  state.asking = null; // tells it from one that was stopped, whose words stay
  for (const id of ["answer", "ended", "problem", "recorded", "origin"]) at(id).textContent = "";
  at("labels").replaceChildren();
  at("experts").replaceChildren();
  busy(false);
}

async function ask() {
  clearAnswer();
  const asking = new AbortController();
  state.asking = asking;
  busy(true);
  const started = performance.now();
  const question = at("question").value.trim() || chosenTask().question;
  at("question").value = question;
  let ending = null;
  try {
    const body = chatBody(state.model.id, chosenTask().id, state.input, question);
    for await (const chunk of chat(body, asking.signal)) {
      at("answer").textContent += chunk.choices[0]?.delta.content ?? "";
      ending = chunk.choices[0]?.finish_reason ?? ending;
      if (chunk.fedkim) showFacts(chunk.fedkim, performance.now() - started, question);
    }
    if (ending === "length") at("ended").textContent = "Cut off: it reached its limit of tokens.";
    if (!at("answer").textContent) at("answer").textContent = "(no words)";
  } catch (error) {
    if (error.name !== "AbortError") at("problem").textContent = error.message;
    else if (state.asking === asking) at("ended").textContent = "Stopped: not a whole answer.";
  } finally {
    if (state.asking === asking) busy(false);
  }
}

function showFacts(facts, milliseconds, question) {
  if (facts.label_probabilities) {
    drawBars(at("labels"), "Probability of each answer", facts.label_probabilities);
  }
  if (facts.expert_weights) {
    const named = facts.expert_weights.map((weight, i) => [`Expert ${i + 1}`, weight]);
    const even = (100 / named.length).toFixed(1);
    at("routing").textContent =
      `Each task mixes the LoRA experts by weights of its own; an even share is ${even} %. ` +
      "The longest bar is the strongest expert.";
    const shares = Object.fromEntries(named);
    drawBars(at("experts"), `Expert weights of ${facts.task}`, shares, Math.max(...facts.expert_weights));
  } else {
    at("experts").textContent = "This bundle has no experts.";
  }
  if (state.sample?.question.trim() === question) { // it says nothing about another one
    at("recorded").textContent =
      `Recorded answer in the ${state.sample.data_kind} data: ${state.sample.recorded_answer}`;
  }
  at("origin").textContent =
    `Read ${facts.modalities.join(", ")}; bundle ${facts.bundle_version}; ` +
    `${Math.round(milliseconds)} ms. ${facts.notice}`;
}

/** Set the buttons: nothing can be asked while an answer or a sample comes, or without a server. */
function busy(isBusy) {
  at("ask").disabled = isBusy || !state.model || !state.input;
  at("stop").disabled = !isBusy;
  at("answer").setAttribute("aria-busy", String(isBusy));
}

at("task").addEventListener("change", chooseTask);
at("sample").addEventListener("change", chooseSample);
at("file").addEventListener("click", () => { at("file").value = ""; }); // the same file, edited
at("file").addEventListener("change", () => at("file").files[0] && takeFile(at("file").files[0]));
at("stop").addEventListener("click", () => state.asking?.abort());
at("key").addEventListener("change", () => {
  setKey(at("key").value);
  start();
});
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
const drop = at("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) takeFile(event.dataTransfer.files[0]);
  });
}
start();
