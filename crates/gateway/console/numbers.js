// Judges whether each published number arrived once and in order. It has no clock and no page.

import { grouped } from "./shown.js";

/** The numbers that are kept in the order of their arrival. */
const ARRIVALS_MAX = 2_000;

/** Expects the numbers from 1 on. */
export class Numbers {
  /** The highest number whose document is durable. */
  published = 0;
  duplicates = 0;
  disordered = 0;
  arrivals = [];
  /** All numbers up to this one have arrived. */
  #whole = 0;
  /** Numbers that arrived beyond it. */
  #beyond = new Set();
  /** The highest number that arrived. */
  #highest = 0;

  /** Takes the number of a change. */
  arrived(number) {
    this.arrivals.push(number);
    if (this.arrivals.length > ARRIVALS_MAX) this.arrivals.shift();
    if (number <= this.#whole || this.#beyond.has(number)) {
      this.duplicates += 1;
      return;
    }
    if (number < this.#highest) this.disordered += 1;
    this.#highest = Math.max(this.#highest, number);
    this.#beyond.add(number);
    while (this.#beyond.delete(this.#whole + 1)) this.#whole += 1;
  }

  get received() {
    return this.#whole + this.#beyond.size;
  }

  /** The numbers that have not arrived, though a higher one has. */
  get missing() {
    return this.#highest - this.received;
  }

  /** The numbers that are durable and may still arrive in order. A number may arrive before its acknowledgement. */
  get underWay() {
    return Math.max(0, this.published - this.#highest);
  }

  /** Returns the verdict on a run that publishes no more, as a text and its kind. */
  verdict(gaps) {
    const faults = [
      [this.missing, "missing"],
      [this.duplicates, "twice"],
      [this.disordered, "out of order"],
      [gaps, gaps === 1 ? "gap" : "gaps"],
    ].filter(([count]) => count > 0);
    const found = this.underWay > 0 ? [...faults, [this.underWay, "on the way"]] : faults;
    const text = found.map(([count, what]) => `${grouped(count)} ${what}`).join(", ");
    if (faults.length > 0) return [`stopped; ${text}`, "bad"];
    if (this.underWay > 0) return [`stopped; ${text}`, ""];
    if (this.published === 0) return ["stopped before the first number", ""];
    return ["stopped; every number arrived once and in order", "good"];
  }
}
