import { h, fill, sure, attempt } from "../dom.js";
import { get, put, del, path } from "../api.js";
import { plainTable } from "../table.js";
import { form } from "../form.js";
import { count, rate, rateOf } from "../format.js";
import { administers, refresh as again, seeVhosts, session } from "../main.js";

const TAGS = "administrator, monitoring, policymaker, management; none: no access to this page";
const tagsOf = (text) => text.split(",").map((tag) => tag.trim()).filter(Boolean).join(",");

export function users() {
  const list = h("section");
  const add = form({
    title: "Add a user", verb: "Add user",
    fields: [
      { name: "name", label: "Name", required: true },
      { name: "password", label: "Password", type: "password", required: true },
      { name: "tags", label: "Tags", hint: TAGS },
    ],
    submit: async ({ name, password, tags }, shown) => {
      await put(`users/${path(name)}`, { password, tags: tagsOf(tags) });
      shown.reset();
      again();
      return `User ${name} is there. It may do nothing before it has permissions.`;
    },
  });
  async function refresh() {
    const [all, permissions] = await Promise.all([get("users"), get("permissions")]);
    const hosts = (name) => permissions.filter((p) => p.user === name).map((p) => p.vhost);
    fill(list, plainTable("Users", [
      { name: "Name", cell: (u) => h("a", { href: `#/users/${path(u.name)}`, "data-key": u.name }, u.name) },
      { name: "Tags", cell: (u) => u.tags.map((tag) => h("span.badge", {}, tag)) },
      { name: "Virtual hosts", cell: (u) => hosts(u.name).join(", ") || h("span.warn", {}, "none") },
      { name: "Password", cell: (u) => u.password_hash ? "set" : "none" },
    ], all));
  }
  return { element: h("div", {}, list, add), refresh };
}

export function user(name) {
  const where = `users/${path(name)}`;
  const list = h("section");
  const allow = form({
    title: "Set permissions in a virtual host", verb: "Set permissions", open: true,
    fields: [
      { name: "vhost", label: "Virtual host", type: "select", options: session.vhosts },
      { name: "configure", label: "Configure", value: ".*" },
      { name: "write", label: "Write", value: ".*" },
      { name: "read", label: "Read", value: ".*" },
    ],
    submit: async ({ vhost, ...rest }) => { await put(`permissions/${path(vhost, name)}`, rest); again(); return "Set."; },
  });
  const topics = form({
    title: "Set topic permissions", verb: "Set topic permissions",
    fields: [
      { name: "vhost", label: "Virtual host", type: "select", options: session.vhosts },
      { name: "exchange", label: "Exchange", required: true, value: "amq.topic" },
      { name: "write", label: "Write", value: ".*" },
      { name: "read", label: "Read", value: ".*" },
    ],
    submit: async ({ vhost, ...rest }) => { await put(`topic-permissions/${path(vhost, name)}`, rest); again(); return "Set."; },
  });
  const change = form({
    title: "Change the password or the tags", verb: "Change",
    fields: [
      { name: "password", label: "New password", type: "password", hint: "empty: the present one stays" },
      { name: "tags", label: "Tags", hint: TAGS },
    ],
    submit: async ({ password, tags }) => {
      const present = await get(where);
      const secret = password ? { password } : { password_hash: present.password_hash, hashing_algorithm: present.hashing_algorithm };
      await put(where, { ...secret, tags: tagsOf(tags) });
      again();
      return "Changed.";
    },
  });
  const remove = async () => {
    if (!await sure(`Delete the user ${name}? Its connections are closed.`, "Delete it")) return;
    const gone = await attempt(async () => { await del(where); return true; }, "Deleted.");
    if (gone) location.hash = "#/users";
  };
  const revoke = async (p) => {
    if (!await sure(`Take ${name}'s permissions in ${p.vhost} away?`, "Take them away")) return;
    await attempt(() => del(`permissions/${path(p.vhost, name)}`), "Taken away.");
    again();
  };
  let first = true;
  async function refresh() {
    const [u, permissions, topic] = await Promise.all([get(where), get(`${where}/permissions`), get(`${where}/topic-permissions`)]);
    if (first) {
      change.querySelector("input[name=tags]").value = u.tags.join(", ");
      first = false;
    }
    fill(list, h("p", {}, "Tags: ", u.tags.length ? u.tags.map((tag) => h("span.badge", {}, tag)) : "none"),
      plainTable("Permissions, as regular expressions", [
        { name: "Virtual host", cell: (p) => p.vhost },
        { name: "Configure", cell: (p) => h("code", {}, p.configure) },
        { name: "Write", cell: (p) => h("code", {}, p.write) },
        { name: "Read", cell: (p) => h("code", {}, p.read) },
        { name: "", cell: (p) => h("button.danger", { type: "button", "data-key": `revoke-${p.vhost}`, onclick: () => revoke(p) }, "Take away") },
      ], permissions),
      plainTable("Topic permissions", [
        { name: "Virtual host", cell: (p) => p.vhost },
        { name: "Exchange", cell: (p) => p.exchange },
        { name: "Write", cell: (p) => h("code", {}, p.write) },
        { name: "Read", cell: (p) => h("code", {}, p.read) },
      ], topic));
  }
  const element = h("div", {}, list, allow, topics, change,
    h("section", {}, h("button.danger", { type: "button", onclick: remove }, "Delete this user")));
  return { title: `User ${name}`, element, refresh };
}

export function vhosts() {
  const list = h("section");
  const changed = async () => {
    await seeVhosts();
    again();
  };
  const add = form({
    title: "Add a virtual host", verb: "Add virtual host",
    fields: [
      { name: "name", label: "Name", required: true },
      { name: "description", label: "Description" },
      { name: "tags", label: "Tags" },
    ],
    submit: async ({ name, description, tags }) => {
      await put(`vhosts/${path(name)}`, { description, tags: tagsOf(tags) });
      await changed();
      return `Virtual host ${name} is there.`;
    },
  });
  const remove = async (name) => {
    if (!await sure(`Delete the virtual host ${name} with all its queues and messages?`, "Delete it")) return;
    await attempt(() => del(`vhosts/${path(name)}`), "Deleted.");
    changed();
  };
  async function refresh() {
    const all = await get("vhosts");
    fill(list, plainTable("Virtual hosts", [
      { name: "Name", cell: (v) => v.name },
      { name: "Description", cell: (v) => v.description },
      { name: "Ready", number: true, cell: (v) => count(v.messages_ready) },
      { name: "Unacked", number: true, cell: (v) => count(v.messages_unacknowledged) },
      { name: "Published", number: true, cell: (v) => rate(rateOf(v.message_stats, "publish")) },
      { name: "Delivered", number: true, cell: (v) => rate(rateOf(v.message_stats, "deliver_get")) },
      { name: "", cell: (v) => administers() && h("button.danger", { type: "button", "data-key": `delete-${v.name}`, onclick: () => remove(v.name) }, "Delete") },
    ], all));
  }
  return { element: h("div", {}, list, administers() && add), refresh };
}
