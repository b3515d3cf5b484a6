/** The server's page: ask, wait, look. */

import { explain, facts } from "./api.js";
import { Ask } from "./ask.js";
import { h } from "./dom.js";
import { themeButton } from "./theme.js";
import { Viewer } from "./viewer.js";

const status = h("p", { class: "status", role: "status" });
const failure = h("p", { class: "failure", role: "alert" });
const bar = h("progress", { hidden: true, "aria-label": "progress" });
const stop = h("button", { type: "button", hidden: true }, "stop");
const viewer = new Viewer(JSON.parse(document.getElementById("content").textContent).palettes);
viewer.element.hidden = true;

function waiting(job) {
  const { state, ahead, progress } = job;
  if (state === "waiting") status.textContent = ahead ? `Waiting; ${ahead} before this one.` : "Waiting; next.";
  else
    status.textContent = progress
      ? `${progress.method}: ${progress.done} of ${progress.total} forwards`
      : "Explaining …";
  if (progress) [bar.max, bar.value] = [progress.total, progress.done];
  else bar.removeAttribute("value");
}

/** One request at a time: a new one gives the one before up. */
let running = null;

async function run(form, ask) {
  failure.textContent = ask.why();
  if (failure.textContent) return;
  running?.abort();
  const mine = (running = new AbortController());
  [bar.hidden, stop.hidden, ask.button.disabled] = [false, false, true];
  status.textContent = "Sending …";
  stop.onclick = () => mine.abort();
  try {
    const result = await explain(form, waiting, mine.signal);
    viewer.element.hidden = false;
    viewer.open(result);
    ask.images.answered = true;
    status.textContent = "";
    viewer.element.scrollIntoView({ block: "start", behavior: "smooth" });
  } catch (error) {
    status.textContent = mine.signal.aborted ? "Stopped." : "";
    if (!mine.signal.aborted) failure.textContent = error.message;
  } finally {
    if (running === mine) [bar.hidden, stop.hidden, ask.button.disabled] = [true, true, false];
  }
}

async function start() {
  const host = document.getElementById("view");
  document.querySelector(".top").append(themeButton());
  try {
    const ask = new Ask({ ...(await facts()), onask: (form) => run(form, ask) });
    host.append(ask.element);
  } catch (error) {
    failure.textContent = error.message;
  }
  host.append(h("div", { class: "bar waiting" }, bar, status, stop), failure, viewer.element);
  document.documentElement.dataset.ready = performance.now();
}

window.vitscope = viewer;
start();
