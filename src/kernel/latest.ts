/**
 * A map of so many entries at most. What is set is the latest, also where it was there before; those that were set
 * longest ago go.
 */
export class Latest<K, V> extends Map<K, V> {
  readonly #most: number;

  /** @param most entries, 1 or more */
  constructor(most: number) {
    super();
    this.#most = most;
  }

  override set(key: K, value: V): this {
    this.delete(key);
    super.set(key, value);
    for (const oldest of this.keys()) {
      if (this.size <= this.#most) break;
      this.delete(oldest);
    }
    return this;
  }
}
