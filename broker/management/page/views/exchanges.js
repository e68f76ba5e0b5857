import { h, fill, sure, attempt, say } from "../dom.js";
import { get, put, post, del, path } from "../api.js";
import { pagedTable, plainTable } from "../table.js";
import { form } from "../form.js";
import { oneLine, rate, rateOf } from "../format.js";
import { inVhost, refresh as again, session } from "../main.js";

const TYPES = ["direct", "fanout", "topic", "headers", "x-consistent-hash", "x-modulus-hash", "x-random", "x-local-random"];

/** Badges of what an object is. */
export function features(object) {
  return [
    object.durable && h("span.badge", { title: "durable" }, "durable"),
    object.auto_delete && h("span.badge", {}, "auto-delete"),
    object.exclusive && h("span.badge", {}, "exclusive"),
    object.internal && h("span.badge", {}, "internal"),
    Object.keys(object.arguments || {}).length > 0 && h("span.badge", { title: oneLine(object.arguments) }, "arguments"),
  ];
}

export function vhostField() {
  return { name: "vhost", label: "Virtual host", type: "select", options: session.vhosts, value: session.vhost || session.vhosts[0] };
}

export function exchanges() {
  const table = pagedTable({
    caption: "Exchanges", key: "exchanges", where: () => inVhost("exchanges"),
    columns: [
      { name: "Virtual host", sort: "vhost", cell: (x) => x.vhost },
      { name: "Name", sort: "name", class: "name", cell: (x) => x.name === ""
        ? "(the default exchange)"
        : h("a", { href: `#/exchanges/${path(x.vhost, x.name)}`, "data-key": `${x.vhost}/${x.name}` }, x.name) },
      { name: "Type", sort: "type", cell: (x) => x.type },
      { name: "Features", cell: features },
      { name: "Policy", sort: "policy", cell: (x) => x.policy || "" },
      { name: "Published in", number: true, cell: (x) => rate(rateOf(x.message_stats, "publish_in")) },
      { name: "Published out", number: true, cell: (x) => rate(rateOf(x.message_stats, "publish_out")) },
    ],
  });
  const add = form({
    title: "Add an exchange", verb: "Add exchange",
    fields: [
      vhostField(),
      { name: "name", label: "Name", required: true },
      { name: "type", label: "Type", type: "select", options: TYPES },
      { name: "durable", label: "Durable", type: "checkbox", value: true },
      { name: "auto_delete", label: "Deleted with its last binding", type: "checkbox" },
      { name: "internal", label: "Internal: nobody publishes to it", type: "checkbox" },
      { name: "arguments", label: "Arguments", type: "json", hint: "JSON, or one key = value a line; alternate-exchange = name" },
    ],
    submit: async ({ vhost, name, ...rest }) => {
      await put(`exchanges/${path(vhost, name)}`, rest);
      again();
      return `Exchange ${name} is there.`;
    },
  });
  return { element: h("div", {}, table.element, add), refresh: table.refresh };
}

/** A table of bindings, each with a button to remove it. */
export function bindingTable(caption, bindings, column) {
  const remove = async (b) => {
    if (!await sure(`Remove the binding ${b.source} → ${b.destination} (${b.routing_key})?`, "Remove it")) return;
    const kind = b.destination_type === "queue" ? "q" : "e";
    await attempt(() => del(`bindings/${path(b.vhost)}/e/${path(b.source)}/${kind}/${path(b.destination)}/${path(b.properties_key)}`), "Removed.");
    again();
  };
  return plainTable(caption, [
    column,
    { name: "Routing key", cell: (b) => h("code", {}, b.routing_key) },
    { name: "Arguments", cell: (b) => oneLine(b.arguments) },
    { name: "", cell: (b) => b.source !== "" && h("button.danger", { type: "button", "data-key": `unbind-${b.source}-${b.destination}-${b.properties_key}`, onclick: () => remove(b) }, "Unbind") },
  ], bindings);
}

export const toDestination = { name: "To", cell: (b) => h("a", { href: `#/${b.destination_type === "queue" ? "queues" : "exchanges"}/${path(b.vhost, b.destination)}` }, `${b.destination_type} ${b.destination}`) };
export const fromSource = { name: "From", cell: (b) => b.source === "" ? "(the default exchange)" : h("a", { href: `#/exchanges/${path(b.vhost, b.source)}` }, `exchange ${b.source}`) };

/** A form that publishes a message. */
export function publishForm(vhost, exchangeName, key) {
  return form({
    title: "Publish a message", verb: "Publish",
    fields: [
      { name: "routing_key", label: "Routing key", value: key ?? "" },
      { name: "delivery_mode", label: "Delivery mode", type: "select", options: [["1", "transient"], ["2", "persistent"]], value: "2" },
      { name: "headers", label: "Headers", type: "json" },
      { name: "properties", label: "Properties", type: "json", hint: "content_type = text/plain, reply_to = …" },
      { name: "payload", label: "Payload", type: "textarea" },
    ],
    submit: async ({ routing_key, delivery_mode, headers, properties, payload }) => {
      const sent = await post(`exchanges/${path(vhost, exchangeName || "amq.default")}/publish`, {
        routing_key, payload, payload_encoding: "string",
        properties: { ...properties, delivery_mode: Number(delivery_mode), headers },
      });
      again();
      if (!sent.routed) say("The message was routed to no queue.", true);
      return sent.routed ? "Published." : "The message was routed to no queue.";
    },
  });
}

export function exchange(vhost, name) {
  const about = h("section");
  const out = h("section");
  const into = h("section");
  const where = `exchanges/${path(vhost, name)}`;
  const remove = async () => {
    if (!await sure(`Delete the exchange ${name}?`, "Delete it")) return;
    const gone = await attempt(async () => { await del(where); return true; }, "Deleted.");
    if (gone) location.hash = "#/exchanges";
  };
  const bind = form({
    title: "Bind a queue or an exchange to this one", verb: "Bind",
    fields: [
      { name: "kind", label: "To", type: "select", options: [["q", "queue"], ["e", "exchange"]] },
      { name: "destination", label: "Name", required: true },
      { name: "routing_key", label: "Routing key" },
      { name: "arguments", label: "Arguments", type: "json" },
    ],
    submit: async ({ kind, destination, ...rest }) => {
      await post(`bindings/${path(vhost)}/e/${path(name)}/${kind}/${path(destination)}`, rest);
      again();
      return "Bound.";
    },
  });
  const element = h("div", {}, about, out, into, bind, publishForm(vhost, name),
    h("section", {}, h("button.danger", { type: "button", onclick: remove }, "Delete this exchange")));
  async function refresh() {
    const [x, source, destination] = await Promise.all([get(where), get(`${where}/bindings/source`), get(`${where}/bindings/destination`)]);
    const lines = [["Type", x.type], ["Virtual host", x.vhost], ["Features", features(x)], ["Arguments", oneLine(x.arguments)], ["Policy", x.policy || ""]];
    fill(about, h("dl", {}, lines.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])));
    fill(out, bindingTable("Bindings from this exchange", source, toDestination));
    fill(into, bindingTable("Bindings to this exchange", destination, fromSource));
  }
  return { title: `Exchange ${name}`, element, refresh };
}
