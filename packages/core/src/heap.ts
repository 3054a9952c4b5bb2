/**
 * A binary heap: the item that comes before all others is found at once, adding and taking cost O(log n). Items of
 * which neither comes before the other leave in no particular order, so `before` has to break ties that matter.
 */
export class Heap<T> {
  readonly #items: T[] = [];
  readonly #before: (a: T, b: T) => boolean;

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before;
  }

  get size(): number {
    return this.#items.length;
  }

  peek(): T | undefined {
    return this.#items[0];
  }

  push(item: T): void {
    const items = this.#items;
    let at = items.length;
    while (at > 0) {
      const parentAt = (at - 1) >> 1;
      const parent = items[parentAt] as T;
      if (!this.#before(item, parent)) break;
      items[at] = parent;
      at = parentAt;
    }
    items[at] = item;
  }

  pop(): T | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (items.length > 0) this.#sink(last as T);
    return first;
  }

  /** Takes out all that fit, in no particular order. */
  takeWhere(fits: (item: T) => boolean): T[] {
    const taken: T[] = [];
    const kept: T[] = [];
    for (const item of this.#items) (fits(item) ? taken : kept).push(item);
    if (taken.length === 0) return taken;
    this.#items.length = 0;
    for (const item of kept) this.push(item);
    return taken;
  }

  /** Puts an item in the empty place at the top, and lets it down to where it belongs. */
  #sink(item: T): void {
    const items = this.#items;
    const size = items.length;
    let at = 0;
    for (;;) {
      let childAt = 2 * at + 1;
      if (childAt >= size) break;
      let child = items[childAt] as T;
      const other = items[childAt + 1];
      if (childAt + 1 < size && this.#before(other as T, child)) {
        childAt++;
        child = other as T;
      }
      if (!this.#before(child, item)) break;
      items[at] = child;
      at = childAt;
    }
    items[at] = item;
  }
}
