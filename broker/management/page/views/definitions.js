import { h, attempt, say, sure } from "../dom.js";
import { get, post } from "../api.js";
import { inVhost, session } from "../main.js";

export function definitions() {
  const save = () => attempt(async () => {
    const value = await get(inVhost("definitions"));
    const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
    const name = `leveret-definitions-${new Date().toISOString().slice(0, 10)}.json`;
    h("a", { href: url, download: name }).click();
    URL.revokeObjectURL(url);
  }, "Exported.");
  const file = h("input", { id: "definitions-file", type: "file", accept: "application/json,.json" });
  const load = async () => {
    if (!file.files.length) return say("Choose a file first.", true);
    const text = await file.files[0].text();
    const where = session.vhost ? `the virtual host ${session.vhost}` : "the whole cluster";
    if (!await sure(`Import ${file.files[0].name} into ${where}? What is there stays; what has the same name is replaced.`, "Import it")) return undefined;
    return attempt(() => post(inVhost("definitions"), text), "Imported.");
  };
  const element = h("div", {},
    h("section", {}, h("h2", {}, "Export"),
      h("p", {}, "Users with their password hashes, virtual hosts, permissions, parameters, policies, exchanges, queues and bindings; no messages. With a virtual host chosen above, only what is in it."),
      h("button", { type: "button", onclick: save }, "Export definitions")),
    h("section", {}, h("h2", {}, "Import"),
      h(".bar", {}, h(".field", {}, h("label", { for: "definitions-file" }, "A file of definitions"), file),
        h("button", { type: "button", onclick: load }, "Import definitions"))));
  return { element };
}
