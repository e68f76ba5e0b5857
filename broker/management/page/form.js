// Forms, from a list of fields.

import { h, attempt } from "./dom.js";

let made = 0;

/**
 * fields: {name, label, type?: text|number|password|select|checkbox|textarea|json, options?, value?, required?, hint?, wide?}
 * A `json` field is read as JSON, or as lines of `key = value`.
 */
export function form({ title, fields, verb, submit, open = false, danger = false }) {
  const id = `form-${++made}`;
  const inputs = new Map();
  const rows = fields.map((field) => {
    const name = `${id}-${field.name}`;
    const common = { id: name, name: field.name, required: field.required, "aria-describedby": field.hint && `${name}-hint` };
    let input;
    if (field.type === "select") {
      input = h("select", common, field.options.map((option) => {
        const [value, label] = Array.isArray(option) ? option : [option, option];
        return h("option", { value, selected: value === field.value }, label);
      }));
    } else if (field.type === "textarea" || field.type === "json") {
      input = h("textarea", { ...common, spellcheck: "false", value: field.value ?? "" });
    } else if (field.type === "checkbox") {
      input = h("input", { ...common, type: "checkbox", checked: Boolean(field.value) });
    } else {
      const type = field.type || "text";
      input = h("input", { ...common, type, value: field.value ?? "", autocomplete: type === "password" ? "new-password" : "off", min: field.min });
    }
    inputs.set(field.name, { input, field });
    const label = h("label", { for: name }, field.label);
    const hint = field.hint && h("small.quiet", { id: `${name}-hint` }, field.hint);
    const kind = field.type === "checkbox" ? "inline" : field.wide || field.type === "json" || field.type === "textarea" ? "wide" : "plain";
    return h(`.field.${kind}`, {}, field.type === "checkbox" ? [input, label] : [label, input], hint);
  });
  async function submitted(event) {
    event.preventDefault();
    const button = event.target.querySelector("button[type=submit]");
    button.disabled = true;
    await attempt(async () => {
      const values = {};
      for (const [name, { input, field }] of inputs) values[name] = read(input, field);
      const said = await submit(values, event.target);
      return said;
    }, (said) => said || "Done.");
    button.disabled = false;
  }
  const inner = h("form.grid", { onsubmit: submitted }, rows,
    h(".wide", {}, h(danger ? "button.danger" : "button.main", { type: "submit" }, verb)));
  return title ? h("details.card", { open }, h("summary", {}, title), inner) : inner;
}

function read(input, field) {
  if (field.type === "checkbox") return input.checked;
  if (field.type === "number") return input.value === "" ? undefined : Number(input.value);
  if (field.type === "json") return jsonOf(input.value, field.label);
  return input.value;
}

/** An object: JSON, or lines of `key = value`, where values that are JSON count as such. */
export function jsonOf(text, label) {
  const trimmed = text.trim();
  if (!trimmed) return {};
  if (trimmed.startsWith("{")) {
    try { return JSON.parse(trimmed); } catch (error) { throw new Error(`${label}: ${error.message}`); }
  }
  const out = {};
  for (const line of trimmed.split("\n")) {
    if (!line.trim()) continue;
    const at = line.search(/[=:]/);
    if (at < 1) throw new Error(`${label}: "${line.trim()}" is no "key = value"`);
    const key = line.slice(0, at).trim(), value = line.slice(at + 1).trim();
    try { out[key] = JSON.parse(value); } catch { out[key] = value; }
  }
  return out;
}
