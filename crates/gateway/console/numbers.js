// Judges whether each published number arrived once and in order. It has no clock and no page.

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

  /** Takes the number of a change. */
  arrived(number) {
    this.arrivals.push(number);
    if (this.arrivals.length > ARRIVALS_MAX) this.arrivals.shift();
    if (number <= this.#whole || this.#beyond.has(number)) {
      this.duplicates += 1;
      return;
    }
    if (this.#beyond.size > 0 && number < Math.max(...this.#beyond)) this.disordered += 1;
    this.#beyond.add(number);
    while (this.#beyond.delete(this.#whole + 1)) this.#whole += 1;
  }

  get received() {
    return this.#whole + this.#beyond.size;
  }

  /** The numbers that are durable and have not arrived. A number may arrive before its acknowledgement. */
  get missing() {
    const late = [...this.#beyond].filter((number) => number <= this.published).length;
    return Math.max(0, this.published - this.#whole - late);
  }
}
