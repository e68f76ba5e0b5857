import { h, fill } from "../dom.js";
import { get } from "../api.js";
import { chart, points } from "../chart.js";
import { plainTable } from "../table.js";
import { bytes, count, duration, rate, rateOf } from "../format.js";
import { monitors, seeNodes } from "../main.js";

const AGES = [[60, 5, "last minute"], [600, 5, "last ten minutes"]];

export function overview() {
  let [age, step] = AGES[0];
  const tiles = h(".tiles");
  const depth = chart("Messages waiting", (v) => count(Math.round(v)));
  const rates = chart("Message rates", rate);
  const usage = chart("Memory", bytes, true);
  const disk = chart("Free disk", bytes, true);
  const nodes = h("section");
  const more = h(".tiles");
  const choose = h("select", { id: "age", onchange: (event) => {
    [age, step] = AGES[Number(event.target.value)];
    refresh().catch(() => {});
  } }, AGES.map(([, , name], i) => h("option", { value: i }, name)));
  const element = h("div", {}, tiles,
    h(".bar", {}, h(".field.inline", {}, h("label", { for: "age" }, "Charts show the"), choose)),
    h(".charts", {}, depth.element, rates.element, monitors() && [usage.element, disk.element]),
    nodes, more);

  async function refresh() {
    const window = `lengths_age=${age}&lengths_incr=${step}&msg_rates_age=${age}&msg_rates_incr=${step}&data_rates_age=${age}&data_rates_incr=${step}&node_stats_age=${age}&node_stats_incr=${step}`;
    const [all, list] = await Promise.all([get(`overview?${window}`), monitors() ? get(`nodes?${window}`) : []]);
    seeNodes(list);
    const totals = all.object_totals, queued = all.queue_totals, stats = all.message_stats;
    const tile = (number, name, where) => where
      ? h("a.tile", { href: where }, h("b", {}, number), h("span", {}, name))
      : h(".tile", {}, h("b", {}, number), h("span", {}, name));
    fill(tiles,
      tile(count(queued.messages_ready), "messages ready", "#/queues"),
      tile(count(queued.messages_unacknowledged), "unacknowledged", "#/queues"),
      tile(rate(rateOf(stats, "publish") ?? 0), "published"),
      tile(rate(rateOf(stats, "deliver_get") ?? 0), "delivered"),
      tile(count(totals.connections), "connections", "#/connections"),
      tile(count(totals.channels), "channels", "#/channels"),
      tile(count(totals.queues), "queues", "#/queues"),
      tile(count(totals.consumers), "consumers"));
    depth.update([["ready", "messages_ready"], ["unacknowledged", "messages_unacknowledged"]].map(([name, field]) =>
      ({ name, points: points(queued[`${field}_details`], false) })));
    rates.update([["publish", "publish"], ["confirm", "confirm"], ["deliver", "deliver_get"], ["acknowledge", "ack"], ["redeliver", "redeliver"]].map(([name, field]) =>
      ({ name, points: points(stats[`${field}_details`], true) })));
    usage.update(list.filter((n) => n.running).map((n) => ({ name: n.name, points: points(n.mem_used_details, false) })));
    disk.update(list.filter((n) => n.running).map((n) => ({ name: n.name, points: points(n.disk_free_details, false) })));
    fill(nodes, h("h2", {}, "Nodes"), nodeTable(list));
    const churn = all.churn_rates;
    fill(more, ["connection_created", "connection_closed", "channel_created", "channel_closed", "queue_declared", "queue_created", "queue_deleted"].map((name) =>
      tile(rate(rateOf(churn, name)), name.replace("_", "s "))));
  }
  nodes.hidden = !monitors();
  return { element, refresh, seesNodes: true };
}

/** A share of a limit, as a bar with words. */
export function meter(used, limit, words) {
  const share = limit ? Math.min(1, used / limit) : 0;
  const inner = h(share > 0.8 ? "i.high" : "i");
  inner.style.width = `${(share * 100).toFixed(1)}%`;
  return [h("span.meter", { "aria-hidden": "true" }, inner), h("small", {}, words)];
}

/** How a node is, in a word. */
export function stateOf(node) {
  if (!node.running) return h("span.bad", {}, "down");
  if (node.being_in_minority) return h("span.bad", {}, "no majority");
  if (node.being_drained) return h("span.warn", {}, "drained");
  return h("span.good", {}, "running");
}

/** By how many log entries a node is behind, at most, in any group. */
export function lagOf(list, name) {
  let worst = null;
  for (const other of list) {
    for (const group of other.raft_groups || []) {
      const lag = group.lags?.[name];
      if (lag !== undefined) worst = Math.max(worst ?? 0, lag);
    }
  }
  return worst;
}

export function nodeTable(list) {
  const led = (n) => (n.raft_groups || []).filter((g) => g.leader === n.name).length;
  return plainTable(null, [
    { name: "Node", cell: (n) => h("a", { href: `#/cluster/${encodeURIComponent(n.name)}`, "data-key": `node-${n.name}` }, n.name) },
    { name: "State", cell: stateOf },
    { name: "Uptime", cell: (n) => n.running ? duration(n.uptime) : "" },
    { name: "Memory", cell: (n) => n.running ? meter(n.mem_used, n.mem_limit, `${bytes(n.mem_used)} of ${bytes(n.mem_limit)}`) : "" },
    { name: "Free disk", cell: (n) => n.running ? `${bytes(n.disk_free)} (alarm below ${bytes(n.disk_free_limit)})` : "" },
    { name: "Files", cell: (n) => n.running ? meter(n.fd_used, n.fd_total, `${count(n.fd_used)} of ${count(n.fd_total)}`) : "" },
    { name: "Groups led", number: true, cell: (n) => n.running ? count(led(n)) : "" },
    { name: "Entries behind", number: true, cell: (n) => { const lag = lagOf(list, n.name); return lag === null ? "–" : count(lag); } },
  ], list);
}
