import { h, fill, sure, attempt } from "../dom.js";
import { get, put, post, del, path } from "../api.js";
import { chart, points } from "../chart.js";
import { pagedTable, plainTable } from "../table.js";
import { form } from "../form.js";
import { bytes, count, oneLine, rate, rateOf, when } from "../format.js";
import { inVhost, refresh as again } from "../main.js";
import { bindingTable, features, fromSource, publishForm, vhostField } from "./exchanges.js";

const link = (q) => h("a", { href: `#/queues/${path(q.vhost, q.name)}`, "data-key": `${q.vhost}/${q.name}` }, q.name);

/** Where a queue is: its leader, and how many of its mirrors are there. */
function place(q) {
  const members = q.members || [], online = q.online || members;
  const few = members.length > 1 && online.length < members.length;
  return [q.leader || q.node || h("span.warn", {}, "no leader"),
    members.length > 1 && h(few ? "div.warn" : "div.quiet", {}, `${online.length} of ${members.length} mirrors`)];
}

export function queues() {
  const table = pagedTable({
    caption: "Queues", key: "queues", where: () => inVhost("queues"),
    columns: [
      { name: "Virtual host", sort: "vhost", cell: (q) => q.vhost },
      { name: "Name", sort: "name", class: "name", cell: link },
      { name: "Type", sort: "type", cell: (q) => q.type },
      { name: "Features", cell: features },
      { name: "Policy", sort: "policy", cell: (q) => q.policy || "" },
      { name: "Leader", cell: place },
      { name: "State", sort: "state", cell: (q) => h(q.state === "running" ? "span" : "span.warn", {}, q.state) },
      { name: "Ready", sort: "messages_ready", number: true, cell: (q) => count(q.messages_ready) },
      { name: "Unacked", sort: "messages_unacknowledged", number: true, cell: (q) => count(q.messages_unacknowledged) },
      { name: "Total", sort: "messages", number: true, cell: (q) => count(q.messages) },
      { name: "Consumers", sort: "consumers", number: true, cell: (q) => count(q.consumers) },
      { name: "Incoming", sort: "message_stats.publish_details.rate", number: true, cell: (q) => rate(rateOf(q.message_stats, "publish")) },
      { name: "Delivered", sort: "message_stats.deliver_get_details.rate", number: true, cell: (q) => rate(rateOf(q.message_stats, "deliver_get")) },
      { name: "Acked", sort: "message_stats.ack_details.rate", number: true, cell: (q) => rate(rateOf(q.message_stats, "ack")) },
    ],
  });
  const add = form({
    title: "Add a queue", verb: "Add queue",
    fields: [
      vhostField(),
      { name: "name", label: "Name", required: true },
      { name: "type", label: "Type", type: "select", options: [["classic", "classic"], ["quorum", "quorum"]] },
      { name: "durable", label: "Durable", type: "checkbox", value: true },
      { name: "auto_delete", label: "Deleted with its last consumer", type: "checkbox" },
      { name: "arguments", label: "Arguments", type: "json", hint: "JSON, or one key = value a line: x-message-ttl, x-expires, x-max-length, x-max-priority, x-dead-letter-exchange, x-single-active-consumer, …" },
    ],
    submit: async ({ vhost, name, type, ...rest }) => {
      if (type === "quorum") rest.arguments["x-queue-type"] = "quorum";
      await put(`queues/${path(vhost, name)}`, rest);
      again();
      return `Queue ${name} is there.`;
    },
  });
  return { element: h("div", {}, table.element, add), refresh: table.refresh };
}

function messageCard(message, number) {
  const properties = message.properties || {};
  return h("section", {},
    h("h2", {}, `Message ${number}`),
    h("dl", {},
      [["Exchange", message.exchange || "(the default exchange)"], ["Routing key", message.routing_key], ["Redelivered", message.redelivered ? "yes" : "no"],
        ["Left in the queue", count(message.message_count)], ["Properties", oneLine(properties)], ["Size", bytes(message.payload_bytes)],
        ["Encoding", message.payload_encoding]].map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
    h("pre", { tabindex: "0", "aria-label": "Payload" }, message.payload));
}

function getForm(where) {
  const shown = h("div", { "aria-live": "polite" });
  const asking = form({
    verb: "Get messages",
    fields: [
      { name: "ackmode", label: "What becomes of them", type: "select", options: [
        ["ack_requeue_true", "go back to the queue, marked redelivered"], ["ack_requeue_false", "are taken out of the queue"],
        ["reject_requeue_true", "are rejected and go back"], ["reject_requeue_false", "are rejected (and dead-lettered)"]] },
      { name: "count", label: "Messages at most", type: "number", value: 1, min: 1 },
      { name: "encoding", label: "Encoding", type: "select", options: [["auto", "text if it is, else base64"], ["base64", "base64"]] },
      { name: "truncate", label: "Bytes of each at most", type: "number", value: 50000, min: 1 },
    ],
    submit: async (values) => {
      const got = await post(`${where}/get`, values);
      fill(shown, got.map((message, i) => messageCard(message, i + 1)));
      again();
      return got.length ? `${got.length} got.` : "The queue is empty.";
    },
  });
  return h("details.card", {}, h("summary", {}, "Get messages"), asking, shown);
}

export function queue(vhost, name) {
  const where = `queues/${path(vhost, name)}`;
  const about = h("section");
  const bound = h("section");
  const taking = h("section");
  const depth = chart("Messages", (v) => count(Math.round(v)));
  const rates = chart("Rates", rate);
  const purge = async () => {
    if (!await sure(`Throw away all messages that wait in ${name}?`, "Purge it")) return;
    await attempt(() => del(`${where}/contents`), "Purged.");
    again();
  };
  const remove = async () => {
    if (!await sure(`Delete the queue ${name} with all its messages?`, "Delete it")) return;
    const gone = await attempt(async () => { await del(where); return true; }, "Deleted.");
    if (gone) location.hash = "#/queues";
  };
  const bind = form({
    title: "Bind this queue to an exchange", verb: "Bind",
    fields: [
      { name: "source", label: "Exchange", required: true },
      { name: "routing_key", label: "Routing key" },
      { name: "arguments", label: "Arguments", type: "json" },
    ],
    submit: async ({ source, ...rest }) => {
      await post(`bindings/${path(vhost)}/e/${path(source)}/q/${path(name)}`, rest);
      again();
      return "Bound.";
    },
  });
  const element = h("div", {}, h(".charts", {}, depth.element, rates.element), about, taking, bound, bind,
    publishForm(vhost, "", name), getForm(where),
    h("section", {}, h(".bar", {},
      h("button.danger", { type: "button", onclick: purge }, "Purge"),
      h("button.danger", { type: "button", onclick: remove }, "Delete"))));
  async function refresh() {
    const window = "lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=5";
    const [q, bindings] = await Promise.all([get(`${where}?${window}`), get(`${where}/bindings`)]);
    const members = q.members || [], online = q.online || members;
    const lines = [
      ["Virtual host", q.vhost], ["Type", q.type], ["Features", features(q)], ["Arguments", oneLine(q.arguments)],
      ["Policy", q.policy || "none"], ["In force", oneLine(q.effective_policy_definition)], ["State", q.state],
      ["Leader", q.leader || q.node || "none known"],
      ["Mirrors", members.length > 1 ? members.map((m) => h(online.includes(m) ? "span.badge" : "span.badge.bad", {}, online.includes(m) ? m : `${m} (down)`)) : "none"],
      ["Messages", `${count(q.messages_ready)} ready, ${count(q.messages_unacknowledged)} unacknowledged`],
      ["Bytes", `${bytes(q.message_bytes_ready)} ready, ${bytes(q.message_bytes_unacknowledged)} unacknowledged`],
      ["Consumers", count(q.consumers)], ["Idle since", q.idle_since ? when(Date.parse(q.idle_since) || q.idle_since) : "in use"],
    ];
    fill(about, h("dl", {}, lines.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])));
    depth.update([["ready", "messages_ready"], ["unacknowledged", "messages_unacknowledged"]].map(([title, field]) =>
      ({ name: title, points: points(q[`${field}_details`], false) })));
    rates.update([["publish", "publish"], ["deliver", "deliver_get"], ["acknowledge", "ack"], ["redeliver", "redeliver"]].map(([title, field]) =>
      ({ name: title, points: points(q.message_stats?.[`${field}_details`], true) })));
    fill(taking, plainTable("Consumers", [
      { name: "Tag", cell: (c) => c.consumer_tag },
      { name: "Channel", cell: (c) => h("a", { href: `#/connections/${encodeURIComponent(c.channel_details.connection_name)}` }, c.channel_details.name) },
      { name: "Acknowledges", cell: (c) => c.ack_required ? "yes" : "no" },
      { name: "Prefetch", number: true, cell: (c) => count(c.prefetch_count) },
      { name: "Exclusive", cell: (c) => c.exclusive ? "yes" : "no" },
      { name: "Active", cell: (c) => c.active ? "yes" : "no" },
    ], q.consumer_details || []));
    fill(bound, bindingTable("Bindings", bindings, fromSource));
  }
  return { title: `Queue ${name}`, element, refresh };
}
