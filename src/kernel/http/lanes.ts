import type { Actor } from '../auth/actor.ts';

/**
 * Room for what one person asks at once, by whatever sessions, tokens and keys. Operations that wait for each other in
 * the database hold its connections meanwhile: whoever sends many of them keeps others waiting no longer than this.
 */
export class Lanes {
  readonly #width: number;
  readonly #open = new Map<string, { busy: number; readonly waiting: (() => void)[] }>();

  /** @param width how many operations of one person are executed at once */
  constructor(width = 4) {
    this.#width = width;
  }

  /** Does the work in its turn. */
  async run<T>(key: string | null, work: () => Promise<T> | T): Promise<T> {
    if (key === null) return work();
    const lane = this.#open.get(key) ?? { busy: 0, waiting: [] };
    this.#open.set(key, lane);
    if (lane.busy < this.#width) lane.busy++;
    else await new Promise<void>((resolve) => lane.waiting.push(resolve));
    try {
      return await work();
    } finally {
      // The place goes to the next one, or away.
      const next = lane.waiting.shift();
      if (next) next();
      else if (--lane.busy === 0) this.#open.delete(key);
    }
  }
}

/** Whose lane an operation has; null: of strangers, whom their budget keeps few. */
export const laneOf = ({ userId, credentialId, kind }: Actor): string | null =>
  userId ?? (kind === 'MACHINE' ? credentialId : null);
