import { createHash } from 'node:crypto';

/** How long a name is not used before another text may have its place, seconds: connections do not live longer. */
export const nameLifetimeS = 3600;
/** How often is looked for such while there is no place, milliseconds. */
const lookMs = 10_000;

/**
 * Names for prepared statements, so that PostgreSQL parses and plans each distinct text once a connection. Each is memory
 * of every connection until that ends, and texts have no end: so there are so many names at once, and one that was not
 * used for as long as a connection lives gives its place to another. A connection has at most twice as many.
 */
export class Names {
  readonly #prefix: string;
  readonly #most: number;
  readonly #longest: number;
  readonly #known = new Map<string, { readonly name: string; usedAt: number }>();
  #lookAt = 0;

  /** @param of.longest text that is given a name, characters */
  constructor(of: { prefix: string; most: number; longest?: number }) {
    this.#prefix = of.prefix;
    this.#most = of.most;
    this.#longest = of.longest ?? Infinity;
  }

  /** The name of a text that is used now; undefined: it has none. */
  of(text: string, now = Date.now()): string | undefined {
    const known = this.#known.get(text);
    if (known) {
      known.usedAt = now;
      return known.name;
    }
    if (text.length > this.#longest || !this.#hasPlace(now)) return undefined;
    const name = `${this.#prefix}${createHash('sha1').update(text).digest('base64url')}`;
    this.#known.set(text, { name, usedAt: now });
    return name;
  }

  #hasPlace(now: number): boolean {
    if (this.#known.size < this.#most) return true;
    if (now < this.#lookAt) return false;
    this.#lookAt = now + lookMs;
    for (const [text, { usedAt }] of this.#known) if (now - usedAt > nameLifetimeS * 1000) this.#known.delete(text);
    return this.#known.size < this.#most;
  }
}
