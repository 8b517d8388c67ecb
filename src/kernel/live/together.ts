import { AsyncLocalStorage } from 'node:async_hooks';

/** Runs outside of whatever asked first: what is answered is not its alone, and has no limits or trace of it. */
const detached = AsyncLocalStorage.snapshot();

interface Waiting<K, V> {
  readonly key: K;
  readonly resolve: (value: V) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Answers what is asked at about the same time together. A few questions are under way at once; what is asked meanwhile
 * waits for one of them to be answered and goes with all else that waits: the more there is to do, the less each costs.
 */
export class Together<K, V> {
  readonly #answer: (keys: readonly K[]) => Promise<readonly V[]>;
  readonly #most: number;
  #free: number;
  #waiting: Waiting<K, V>[] = [];
  #scheduled = false;

  /** @param answer gives a value for each key, in their order */
  constructor(
    answer: (keys: readonly K[]) => Promise<readonly V[]>,
    options: { readonly most: number; readonly underWay: number },
  ) {
    this.#answer = answer;
    this.#most = options.most;
    this.#free = options.underWay;
  }

  /** @throws what the answer throws, for all that was asked with it */
  get(key: K): Promise<V> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, resolve, reject });
      this.#schedule();
    });
  }

  /** With what else is asked in this turn. */
  #schedule(): void {
    if (this.#scheduled || this.#free === 0) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      while (this.#free > 0 && this.#waiting.length > 0) {
        const asked = this.#waiting.splice(0, this.#most);
        void detached(() => this.#ask(asked));
      }
    });
  }

  async #ask(asked: readonly Waiting<K, V>[]): Promise<void> {
    this.#free--;
    try {
      const values = await this.#answer(asked.map(({ key }) => key));
      for (const [index, { resolve }] of asked.entries()) resolve(values[index] as V);
    } catch (error) {
      for (const { reject } of asked) reject(error);
    } finally {
      this.#free++;
      if (this.#waiting.length > 0) this.#schedule();
    }
  }
}
