// Tables. The broker pages, sorts and filters, so that ten thousand queues are as fast as ten.

import { h, fill } from "./dom.js";
import { count } from "./format.js";
import { get } from "./api.js";

/**
 * A table of a list of the API.
 * columns: {name, title?, cell(item), number?, sort?: field}
 */
export function pagedTable({ caption, where, columns, key, pageSize = 100, query = {}, regex = true }) {
  const state = { page: 1, name: "", use_regex: false, sort: undefined, reverse: false };
  const head = h("tr");
  const body = h("tbody");
  const text = h("caption");
  const previous = h("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const next = h("button", { type: "button", onclick: () => turn(1) }, "Next");
  const where_ = h("span.quiet", { "aria-live": "polite" });
  let typing;
  const filter = h("input", { type: "search", id: `filter-${key}`, autocomplete: "off", oninput: (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.name = event.target.value; state.page = 1; refresh(); }, 250);
  } });
  const pattern = h("input", { type: "checkbox", id: `regex-${key}`, onchange: (event) => {
    state.use_regex = event.target.checked;
    state.page = 1;
    refresh();
  } });
  const element = h("section", {},
    h(".bar", {},
      h(".field.grow", {}, h("label", { for: `filter-${key}` }, "Filter by name"), filter),
      regex && h(".field.inline", {}, pattern, h("label", { for: `regex-${key}` }, "Regular expression")),
      previous, next, where_),
    h(".scroll", {}, h("table", {}, text, h("thead", {}, head), body)));

  function headings() {
    fill(head, columns.map((column) => {
      const sorted = state.sort === column.sort && column.sort ? (state.reverse ? "descending" : "ascending") : undefined;
      const inner = column.sort
        ? h("button", { type: "button", "data-key": `sort-${column.sort}`, onclick: () => {
          state.reverse = state.sort === column.sort ? !state.reverse : false;
          state.sort = column.sort;
          refresh();
        } }, column.name)
        : column.name;
      return h(column.number ? "th.number" : "th", { scope: "col", "aria-sort": sorted }, inner);
    }));
  }

  function turn(by) {
    state.page += by;
    refresh();
  }

  let asked = 0;
  async function refresh() {
    const mine = ++asked;
    const parameters = new URLSearchParams({ ...query, page: state.page, page_size: pageSize });
    if (state.name) {
      parameters.set("name", state.name);
      parameters.set("use_regex", state.use_regex);
    }
    if (state.sort) {
      parameters.set("sort", state.sort);
      parameters.set("sort_reverse", state.reverse);
    }
    headings();
    let answer;
    try {
      answer = await get(`${typeof where === "function" ? where() : where}?${parameters}`);
    } catch (error) {
      // The last page went away, or the pattern is half written.
      if (error.status === 400 && state.page > 1) { state.page = 1; return refresh(); }
      if (error.status === 400) { fill(where_, error.message); return undefined; }
      throw error;
    }
    // Somebody typed on meanwhile.
    if (mine !== asked) return undefined;
    const pages = Math.max(1, answer.page_count);
    fill(text, `${caption} – ${count(answer.filtered_count)} of ${count(answer.total_count)}`);
    fill(where_, `page ${answer.page} of ${pages}`);
    previous.disabled = answer.page <= 1;
    next.disabled = answer.page >= pages;
    const rows = answer.items.map((item) => h("tr", {}, columns.map((column) =>
      h(column.number ? "td.number" : column.class ? `td.${column.class}` : "td", {}, column.cell(item)))));
    fill(body, rows.length ? rows : h("tr", {}, h("td.quiet", { colspan: columns.length }, "None.")));
    return answer;
  }
  return { element, refresh };
}

/** A table of what is there already. */
export function plainTable(caption, columns, items) {
  return h(".scroll", {}, h("table", {},
    caption && h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((c) => h(c.number ? "th.number" : "th", { scope: "col" }, c.name)))),
    h("tbody", {}, items.length
      ? items.map((item) => h("tr", {}, columns.map((c) => h(c.number ? "td.number" : "td", {}, c.cell(item)))))
      : h("tr", {}, h("td.quiet", { colspan: columns.length }, "None.")))));
}
