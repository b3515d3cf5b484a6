/** Light, dark, or as the system has it. */

import { h } from "./dom.js";

const THEMES = [
  ["", "◐ as the system"],
  ["light", "☀ light"],
  ["dark", "☾ dark"],
];

/** A button that goes round the themes; the page has the system's until it is pressed. */
export function themeButton() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let now = 0;
  const button = h("button", { type: "button", class: "theme", onclick: () => turn(now + 1) });
  const turn = (next) => {
    now = next % THEMES.length;
    const [theme, words] = THEMES[now];
    document.documentElement.dataset.theme = theme || (system.matches ? "dark" : "light");
    button.textContent = words;
    button.setAttribute("aria-label", `colours of the page: ${words.slice(2)}`);
  };
  system.addEventListener("change", () => turn(now));
  turn(0);
  return button;
}
