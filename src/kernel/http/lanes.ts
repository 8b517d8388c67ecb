import type { Actor } from '../auth/actor.ts';

/** Who is in, and who waits. */
interface Lane {
  busy: number;
  readonly waiting: (() => void)[];
}

/**
 * Room for what one person asks at once, by whatever sessions, tokens and keys. Operations that wait for each other in
 * the database hold its connections meanwhile: whoever sends many of them keeps others waiting no longer than this.
 */
export class Lanes {
  readonly #width: number;
  readonly #open = new Map<string, Lane>();

  /** @param width how many operations of one person are executed at once */
  constructor(width = 4) {
    this.#width = width;
  }

  /** Does the work in its turn: at once, where there is a place. */
  run<T>(key: string | null, work: () => Promise<T> | T): Promise<T> | T {
    if (key === null) return work();
    let lane = this.#open.get(key);
    if (!lane) this.#open.set(key, (lane = { busy: 0, waiting: [] }));
    if (lane.busy < this.#width) {
      lane.busy++;
      return this.#within(key, lane, work);
    }
    const { waiting } = lane;
    const open = lane;
    return new Promise<void>((resolve) => waiting.push(resolve)).then(() => this.#within(key, open, work));
  }

  #within<T>(key: string, lane: Lane, work: () => Promise<T> | T): Promise<T> | T {
    const leave = (): void => {
      // The place goes to the next one, or away.
      const next = lane.waiting.shift();
      if (next) next();
      else if (--lane.busy === 0) this.#open.delete(key);
    };
    let done: Promise<T> | T;
    try {
      done = work();
    } catch (error) {
      leave();
      throw error;
    }
    if (done instanceof Promise) {
      void done.then(leave, leave);
      return done;
    }
    leave();
    return done;
  }
}

/** Whose lane an operation has; null: of strangers, whom their budget keeps few. */
export const laneOf = ({ userId, credentialId, kind }: Actor): string | null =>
  userId ?? (kind === 'MACHINE' ? credentialId : null);
