// Numbers as people read them, each with its unit.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const NONE = "–";

export function count(value) {
  return value === null || value === undefined ? NONE : GROUPED.format(value);
}

/** 12,345 up to five digits, 1.23M beyond. */
export function compact(value) {
  return value === null || value === undefined ? NONE : value < 100000 ? TENTHS.format(value) : SHORT.format(value);
}

/** A share as a percentage: enough digits to tell small ones apart, none where they say nothing. */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  const value = share * 100;
  const digits = value === 0 || value >= 99.95 ? 0 : value < 1 ? 2 : value < 10 ? 1 : 0;
  return `${value.toFixed(digits)} %`;
}

export function influenceOf(value) {
  return value === null || value === undefined ? NONE : value.toFixed(4);
}

export function times(value) {
  return value === null || !Number.isFinite(value) ? NONE : `${value.toFixed(value < 10 ? 1 : 0)}×`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(seconds < 600 ? 1 : 0)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

/** A moment in the reader's own time zone. */
export function moment(seconds) {
  if (!seconds) return NONE;
  return new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function gib(value) {
  return `${value.toFixed(2)} GiB`;
}
