import { h, fill, attempt } from "../dom.js";
import { get, post, path } from "../api.js";
import { plainTable } from "../table.js";
import { bytes, count, duration } from "../format.js";
import { nodeTable, stateOf, meter } from "./overview.js";
import { administers, refresh as again, seeNodes } from "../main.js";

function kindOf(group) {
  if (group === 0) return "metadata";
  if (group < 256) return "one node's queues";
  return group < 512 ? "durable queues" : "queues that are not durable";
}

/** Each group once, as its leader sees it; without one, as any member does. */
function groupsOf(nodes) {
  const groups = new Map();
  for (const node of nodes) {
    for (const group of node.raft_groups || []) {
      const known = groups.get(group.group);
      if (!known || group.leader === node.name) groups.set(group.group, { ...group, seenBy: node.name });
    }
  }
  return [...groups.values()].sort((a, b) => a.group - b.group);
}

export function cluster() {
  const nodes = h("section");
  const safe = h("section");
  const groups = h("section");
  const even = h("button", { type: "button", onclick: () => attempt(() => post("rebalance/queues"), "Leaders are being spread.").then(again) }, "Spread the leaders evenly");
  const element = h("div", {}, nodes, safe, groups, administers() && h("section", {}, even));
  async function refresh() {
    const list = await get("nodes");
    seeNodes(list);
    fill(nodes, h("h2", {}, "Nodes"), nodeTable(list));
    const up = list.filter((n) => n.running).length;
    const majority = Math.floor(list.length / 2) + 1;
    const spare = up - majority;
    const words = list.length === 1 ? "This node is alone: what it serves pauses while it is stopped."
      : spare > 0 ? `Safe to stop ${spare === 1 ? "one node" : `${spare} nodes`}: ${up} of ${list.length} are up, ${majority} are needed.`
        : spare === 0 ? `Not safe to stop any node: ${up} of ${list.length} are up, and all of them are needed.`
          : `No majority: ${up} of ${list.length} are up, ${majority} are needed.`;
    fill(safe, h(spare > 0 || list.length === 1 ? "p" : "p.bad", {}, words));
    const all = groupsOf(list);
    fill(groups, h("h2", {}, "Groups"), plainTable(all.length ? "A group is a log that the nodes keep together; each queue belongs to one." : "A node alone has none.", [
      { name: "Group", number: true, cell: (g) => g.group },
      { name: "Keeps", cell: (g) => kindOf(g.group) },
      { name: "Leader", cell: (g) => g.leader || h("span.bad", {}, "none") },
      { name: "Term", number: true, cell: (g) => count(g.term) },
      { name: "Committed", number: true, cell: (g) => count(g.commit_index) },
      { name: "Entries behind", cell: (g) => Object.entries(g.lags || {}).map(([name, lag]) =>
        h(lag > 1000 ? "div.warn" : "div", {}, `${name}: ${count(lag)}`)) },
    ], all));
  }
  return { title: "Cluster", element, refresh, seesNodes: true };
}

export function node(name) {
  const about = h("section");
  const memory = h("section");
  const where = `nodes/${path(name)}`;
  async function refresh() {
    const n = await get(where);
    const lines = [["State", stateOf(n)]];
    if (n.running) {
      lines.push(["Uptime", duration(n.uptime)], ["Process", n.os_pid], ["Cores", n.processors],
        ["Memory", meter(n.mem_used, n.mem_limit, `${bytes(n.mem_used)} of ${bytes(n.mem_limit)}`)],
        ["Free disk", `${bytes(n.disk_free)} (alarm below ${bytes(n.disk_free_limit)})`],
        ["Files", meter(n.fd_used, n.fd_total, `${count(n.fd_used)} of ${count(n.fd_total)}`)],
        ["Data", n.db_dir], ["Plugins", (n.enabled_plugins || []).join(", ")]);
    }
    fill(about, h("dl", {}, lines.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])));
    fill(memory, h("h2", {}, "Listens on"), plainTable(null, [
      { name: "Protocol", cell: (c) => c.description },
      { name: "Address", cell: (c) => `${c.ip}:${c.port}` },
    ], n.contexts || []));
  }
  return { title: `Node ${name}`, element: h("div", {}, about, memory), refresh };
}
