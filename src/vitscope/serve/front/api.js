/** The server's API: every answer that is no success becomes an Error with the server's own line. */

const PACE = 250;
const LOST = "the server does not answer; check that it still runs, then try again";

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(LOST);
  }
  if (answer.ok) return answer.json();
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || `the server answers ${answer.status}; try again`);
}

/** The models that are loaded, and what a request may take. */
export async function facts() {
  const [{ models }, limits] = await Promise.all([ask("api/models"), ask("api/limits")]);
  return { models, limits };
}

/**
 * Have pictures explained.
 * @param {FormData} form
 * @param {function(object)} tell how the job stands, again and again
 * @param {AbortSignal} signal gives the job up
 */
export async function explain(form, tell, signal) {
  let job = await ask("api/jobs", { method: "POST", body: form, signal });
  const path = `api/jobs/${encodeURIComponent(job.id)}`;
  const giveUp = () => ask(path, { method: "DELETE" }).catch(() => {});
  signal.addEventListener("abort", giveUp);
  try {
    while (job.state === "waiting" || job.state === "running") {
      tell(job);
      await new Promise((done) => setTimeout(done, PACE));
      job = await ask(path, { signal });
    }
    if (job.state !== "done") throw new Error(job.error || `the job is ${job.state}`);
    return await ask(`${path}/result`, { signal });
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}
