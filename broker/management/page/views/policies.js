import { h, fill, sure, attempt } from "../dom.js";
import { get, put, del, path } from "../api.js";
import { plainTable } from "../table.js";
import { form } from "../form.js";
import { oneLine } from "../format.js";
import { administers, inVhost, refresh as again } from "../main.js";
import { vhostField } from "./exchanges.js";

const KEYS = "ha-mode, message-ttl, expires, max-length, max-length-bytes, overflow, dead-letter-exchange, dead-letter-routing-key, delivery-limit, alternate-exchange, …";

function section(kind, title, note) {
  const list = h("section");
  const add = form({
    title: `Add or change ${note}`, verb: "Set policy",
    fields: [
      vhostField(),
      { name: "name", label: "Name", required: true },
      { name: "pattern", label: "Pattern", required: true, hint: "a regular expression of names" },
      { name: "apply-to", label: "Applies to", type: "select", options: kind === "policies" ? ["all", "queues", "classic_queues", "quorum_queues", "exchanges"] : ["queues", "classic_queues", "quorum_queues"] },
      { name: "priority", label: "Priority", type: "number", value: 0 },
      { name: "definition", label: "Definition", type: "json", hint: `JSON, or one key = value a line: ${KEYS}` },
    ],
    submit: async ({ vhost, name, ...rest }) => {
      await put(`${kind}/${path(vhost, name)}`, rest);
      again();
      return `Policy ${name} is set.`;
    },
  });
  const remove = async (p) => {
    if (!await sure(`Clear the policy ${p.name}?`, "Clear it")) return;
    await attempt(() => del(`${kind}/${path(p.vhost, p.name)}`), "Cleared.");
    again();
  };
  async function refresh() {
    const all = await get(inVhost(kind));
    fill(list, plainTable(title, [
      { name: "Virtual host", cell: (p) => p.vhost },
      { name: "Name", cell: (p) => p.name },
      { name: "Pattern", cell: (p) => h("code", {}, p.pattern) },
      { name: "Applies to", cell: (p) => p["apply-to"] },
      { name: "Definition", cell: (p) => oneLine(p.definition) },
      { name: "Priority", number: true, cell: (p) => p.priority },
      { name: "", cell: (p) => h("button.danger", { type: "button", "data-key": `clear-${kind}-${p.vhost}-${p.name}`, onclick: () => remove(p) }, "Clear") },
    ], all));
  }
  return { element: h("div", {}, list, add), refresh };
}

export function policies() {
  const users = section("policies", "Policies", "a policy");
  const operators = section("operator-policies", "Operator policies: they bound what users and policies may ask for", "an operator policy");
  return {
    element: h("div", {}, users.element, administers() && operators.element),
    refresh: () => Promise.all([users.refresh(), administers() && operators.refresh()]),
  };
}
