import { h, fill, sure, attempt } from "../dom.js";
import { get, del, path } from "../api.js";
import { pagedTable, plainTable } from "../table.js";
import { bytes, count, rate, when, rateOf } from "../format.js";
import { session } from "../main.js";

const listIn = (kind) => session.vhost ? `vhosts/${encodeURIComponent(session.vhost)}/${kind}` : kind;

export function connections() {
  return pagedTable({
    caption: "Connections", key: "connections", where: () => listIn("connections"),
    columns: [
      { name: "Name", sort: "name", class: "name", cell: (c) => [
        h("a", { href: `#/connections/${encodeURIComponent(c.name)}`, "data-key": c.name }, c.user_provided_name || c.name),
        c.user_provided_name && h("div.quiet", {}, c.name)] },
      { name: "User", sort: "user", cell: (c) => c.user },
      { name: "Virtual host", sort: "vhost", cell: (c) => c.vhost },
      { name: "Node", sort: "node", cell: (c) => c.node },
      { name: "State", cell: (c) => h(c.state === "blocked" || c.state === "blocking" ? "span.warn" : "span", {}, c.state) },
      { name: "TLS", cell: (c) => c.ssl ? "yes" : "no" },
      { name: "Channels", sort: "channels", number: true, cell: (c) => count(c.channels) },
      { name: "From client", number: true, cell: (c) => c.recv_oct_details && `${bytes(Math.round(c.recv_oct_details.rate))}/s` },
      { name: "To client", number: true, cell: (c) => c.send_oct_details && `${bytes(Math.round(c.send_oct_details.rate))}/s` },
      { name: "Connected", sort: "connected_at", cell: (c) => when(c.connected_at) },
    ],
  });
}

export function connection(name) {
  const about = h("section");
  const open = h("section");
  const where = `connections/${path(name)}`;
  const close = async () => {
    if (!await sure(`Close the connection ${name}?`, "Close it")) return;
    const gone = await attempt(async () => { await del(where); return true; }, "Closed.");
    if (gone) location.hash = "#/connections";
  };
  const element = h("div", {}, about, open,
    h("section", {}, h("button.danger", { type: "button", onclick: close }, "Close this connection")));
  async function refresh() {
    const [c, channels] = await Promise.all([get(where), get(`${where}/channels`)]);
    const lines = [["Node", c.node], ["User", c.user], ["Virtual host", c.vhost], ["Client", `${c.peer_host}:${c.peer_port}`],
      ["TLS", c.ssl ? "yes" : "no"], ["State", c.state], ["Connected", when(c.connected_at)],
      ["Heartbeat", c.timeout ? `${c.timeout} s` : "none"], ["Frame size", bytes(c.frame_max)], ["Channels at most", count(c.channel_max)]];
    for (const [key, value] of Object.entries(c.client_properties || {})) {
      if (typeof value !== "object") lines.push([`Client: ${key}`, value]);
    }
    fill(about, h("dl", {}, lines.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])));
    fill(open, h("h2", {}, "Channels"), plainTable(null, channelColumns, channels));
  }
  return { title: name, element, refresh };
}

const channelColumns = [
  { name: "Channel", sort: "name", class: "name", cell: (c) => h("a", { href: `#/connections/${encodeURIComponent(c.connection_details.name)}`, "data-key": c.name }, c.name) },
  { name: "User", sort: "user", cell: (c) => c.user },
  { name: "Virtual host", sort: "vhost", cell: (c) => c.vhost },
  { name: "Node", sort: "node", cell: (c) => c.node },
  { name: "Mode", cell: (c) => [c.confirm && h("span.badge", {}, "confirms"), c.transactional && h("span.badge", {}, "transactions")] },
  { name: "Prefetch", number: true, cell: (c) => count(c.prefetch_count || c.global_prefetch_count) || "0" },
  { name: "Consumers", sort: "consumer_count", number: true, cell: (c) => count(c.consumer_count) },
  { name: "Unacked", sort: "messages_unacknowledged", number: true, cell: (c) => count(c.messages_unacknowledged) },
  { name: "Publish", number: true, cell: (c) => rate(rateOf(c.message_stats, "publish")) },
  { name: "Deliver", number: true, cell: (c) => rate(rateOf(c.message_stats, "deliver_get")) },
];

export function channels() {
  return pagedTable({ caption: "Channels", key: "channels", where: () => listIn("channels"), columns: channelColumns });
}
