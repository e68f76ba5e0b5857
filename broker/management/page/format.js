// Numbers for people.

const whole = new Intl.NumberFormat("en");

export function count(value) {
  return value === undefined || value === null ? "" : whole.format(value);
}

export function rate(value) {
  if (value === undefined || value === null) return "";
  if (value === 0) return "0/s";
  return value < 10 ? `${value.toFixed(1)}/s` : `${whole.format(Math.round(value))}/s`;
}

export function bytes(value) {
  if (value === undefined || value === null) return "";
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < 5) { value /= 1024; unit += 1; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

export function duration(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${seconds % 60} s`;
  return `${seconds} s`;
}

export function when(milliseconds) {
  return milliseconds ? new Date(milliseconds).toLocaleString() : "";
}

/** The rate of one of `message_stats`. */
export function rateOf(stats, name) {
  return stats?.[`${name}_details`]?.rate;
}

/** Arguments of a queue, an exchange or a policy, in one line. */
export function oneLine(value) {
  return Object.entries(value || {}).map(([key, v]) => `${key}: ${typeof v === "string" ? v : JSON.stringify(v)}`).join(", ");
}
