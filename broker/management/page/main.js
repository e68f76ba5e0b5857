// Login, navigation, and what is asked again every five seconds.

import { h, fill, say } from "./dom.js";
import * as api from "./api.js";
import { overview } from "./views/overview.js";
import { connections, connection, channels } from "./views/connections.js";
import { exchanges, exchange } from "./views/exchanges.js";
import { queues, queue } from "./views/queues.js";
import { cluster, node } from "./views/cluster.js";
import { users, user, vhosts } from "./views/admin.js";
import { policies } from "./views/policies.js";
import { definitions } from "./views/definitions.js";

const EVERY_MS = 5000;
const PAGES = [
  ["", "Overview", overview],
  ["connections", "Connections", connections],
  ["channels", "Channels", channels],
  ["exchanges", "Exchanges", exchanges],
  ["queues", "Queues", queues],
  ["cluster", "Cluster", cluster],
  ["policies", "Policies", policies],
  ["users", "Users", users],
  ["vhosts", "Virtual hosts", vhosts],
  ["definitions", "Definitions", definitions],
];
const DETAILS = { connections: connection, exchanges: exchange, queues: queue, cluster: node, users: user };

const main = document.getElementById("main");
const alarms = document.getElementById("alarms");
/** What all pages share: who is logged in, the chosen virtual host ("" is all of them), and whether there are several. */
export const session = { user: null, vhost: "", vhosts: [] };
let shown = null;
let timer;

/** The list of a kind of object, in the chosen virtual host. */
export function inVhost(kind) {
  return session.vhost ? `${kind}/${encodeURIComponent(session.vhost)}` : kind;
}

function words() {
  return location.hash.replace(/^#\/?/, "").split("/").filter((w) => w !== "").map(decodeURIComponent);
}

async function show() {
  clearTimeout(timer);
  if (!api.loggedIn()) return login();
  if (!session.user && !(await begin())) return undefined;
  await seeVhosts();
  const [page = "", ...names] = words();
  const found = PAGES.find(([name]) => name === page);
  const make = names.length ? DETAILS[page] : found?.[2];
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const view = make ? make(...names) : { element: h("section", {}, h("h1", {}, "There is no such page.")) };
  shown = view;
  const title = view.title || found?.[1] || "Leveret";
  document.title = `${title} – Leveret`;
  fill(main, h("h1", {}, title), view.element);
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
  return again(view);
}

async function again(view) {
  clearTimeout(timer);
  if (view !== shown) return;
  try {
    await Promise.all([view.refresh?.(), askForNodes(view)]);
    main.removeAttribute("data-stale");
  } catch (error) {
    if (error.status === 401) return leave(error.message);
    if (view === shown) say(error.message, true);
    main.setAttribute("data-stale", "true");
  }
  main.setAttribute("data-ready", location.hash || "#/");
  if (view === shown) timer = setTimeout(() => again(view), EVERY_MS);
}

/** Shows at once what an action has changed. */
export function refresh() {
  if (shown) again(shown);
}

/** Says on top of every page what is wrong with nodes. A view that asks for them itself tells what it got. */
export function seeNodes(nodes) {
  const wrong = [];
  for (const n of nodes) {
    if (!n.running) wrong.push(`${n.name} is down`);
    if (n.being_in_minority) wrong.push(`${n.name} hears no majority`);
    if (n.mem_alarm) wrong.push(`${n.name}: memory alarm, publishers are blocked`);
    if (n.disk_free_alarm) wrong.push(`${n.name}: disk alarm, publishers are blocked`);
  }
  const text = wrong.join("; ");
  if (alarms.textContent !== text) alarms.textContent = text;
}

async function askForNodes(view) {
  if (monitors() && !view.seesNodes) seeNodes(await api.get("nodes"));
}

/** Whether the user may look at nodes. */
export function monitors() {
  return session.user.tags.some((tag) => tag === "administrator" || tag === "monitoring");
}

export function administers() {
  return session.user.tags.includes("administrator");
}

function login(message) {
  document.getElementById("top").hidden = true;
  alarms.textContent = "";
  shown = null;
  const problem = h("p.bad", { role: "alert" }, message);
  const name = h("input", { id: "name", autocomplete: "username", required: true });
  const password = h("input", { id: "password", type: "password", autocomplete: "current-password", required: true });
  const enter = async (event) => {
    event.preventDefault();
    api.logIn(name.value, password.value);
    if (await begin(problem)) show();
  };
  document.title = "Log in – Leveret";
  fill(main, h("section.login", {}, h("h1", {}, "Log in to Leveret"),
    h("form", { onsubmit: enter },
      h(".field", {}, h("label", { for: "name" }, "Name"), name),
      h(".field", {}, h("label", { for: "password" }, "Password"), password),
      problem,
      h("button.main", { type: "submit" }, "Log in"))));
  name.focus();
}

function leave(message) {
  api.logOut();
  session.user = null;
  login(message);
}

async function begin(problem) {
  try {
    const user = await api.get("whoami");
    user.tags = Array.isArray(user.tags) ? user.tags : String(user.tags || "").split(",");
    session.user = user;
    const named = await api.get("cluster-name").catch(() => ({ name: "" }));
    document.getElementById("cluster-name").textContent = named.name;
  } catch (error) {
    api.logOut();
    if (problem) problem.textContent = error.message;
    else login(error.message);
    return false;
  }
  const pages = PAGES.filter(([name]) =>
    administers() || !["users", "definitions"].includes(name)).filter(([name]) => monitors() || name !== "cluster");
  fill(document.getElementById("nav"), pages.map(([name, title]) =>
    h("a", { href: `#/${name}`, "data-page": name }, title)));
  document.getElementById("who").textContent = session.user.name;
  document.getElementById("top").hidden = false;
  return true;
}

/** Virtual hosts come and go. */
export async function seeVhosts() {
  try {
    session.vhosts = (await api.get("vhosts")).map((v) => v.name);
  } catch {
    // The view will say what is wrong.
  }
  const choice = document.getElementById("vhost");
  fill(choice, [h("option", { value: "" }, "all"), ...session.vhosts.map((name) => h("option", { value: name }, name))]);
  choice.value = session.vhosts.includes(session.vhost) ? session.vhost : "";
  session.vhost = choice.value;
}

document.getElementById("vhost").addEventListener("change", (event) => {
  session.vhost = event.target.value;
  show();
});
document.getElementById("logout").addEventListener("click", () => leave());
document.getElementById("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("leveret-theme", document.documentElement.dataset.theme);
});
const theme = localStorage.getItem("leveret-theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
addEventListener("hashchange", show);
show();
