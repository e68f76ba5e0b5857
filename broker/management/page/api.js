// The HTTP API. The name and password are sent by this page only, with each request: there is no cookie that another
// site could use. They are kept for as long as the tab is open.

const KEY = "leveret-login";
let authorization = sessionStorage.getItem(KEY);

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function loggedIn() {
  return authorization !== null;
}

export function logIn(name, password) {
  const bytes = new TextEncoder().encode(`${name}:${password}`);
  authorization = "Basic " + btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  sessionStorage.setItem(KEY, authorization);
}

export function logOut() {
  authorization = null;
  sessionStorage.removeItem(KEY);
}

/** A path of names: each is quoted. */
export function path(...parts) {
  return parts.map((part) => encodeURIComponent(part)).join("/");
}

export async function call(method, where, body) {
  const headers = { Accept: "application/json" };
  if (authorization) headers.Authorization = authorization;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`api/${where}`, {
      method, headers, credentials: "omit", cache: "no-store",
      body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "The node cannot be reached.");
  }
  const text = await response.text();
  let value = null;
  try { value = text ? JSON.parse(text) : null; } catch { value = null; }
  if (!response.ok) {
    const reason = value && (value.reason || value.error);
    const words = typeof reason === "string" ? reason : reason ? JSON.stringify(reason) : response.statusText;
    throw new ApiError(response.status, `${response.status}: ${words}`);
  }
  return value;
}

export const get = (where) => call("GET", where);
export const put = (where, body = {}) => call("PUT", where, body);
export const post = (where, body = {}) => call("POST", where, body);
export const del = (where, body) => call("DELETE", where, body);
