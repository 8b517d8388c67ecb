import { keysShare } from '../rates/address.ts';

/** Connections that stay open, by client: WebSockets and event streams count together. */
export class Connections {
  readonly #open = new Map<string, number>();
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  /**
   * A place, to be given back once by calling what is returned; null when the client has as many as it may, or the keys
   * that it is one of have.
   */
  take(client: string, keys: string | null = null): (() => void) | null {
    if (this.#count(client) >= this.#most) return null;
    if (keys !== null && this.#count(keys) >= keysShare * this.#most) return null;
    const counted = keys === null ? [client] : [client, keys];
    for (const one of counted) this.#open.set(one, this.#count(one) + 1);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      for (const one of counted) {
        const left = this.#count(one) - 1;
        if (left > 0) this.#open.set(one, left);
        else this.#open.delete(one);
      }
    };
  }

  #count(one: string): number {
    return this.#open.get(one) ?? 0;
  }
}
