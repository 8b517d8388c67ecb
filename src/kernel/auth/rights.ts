import type pg from 'pg';

/** What rights were read together with: they are those of now for as long as it holds. */
export interface Stamp {
  readonly userId: string;
  /** `user_rights.version`, random: no two states of somebody's rights have the same. */
  readonly version: string;
  /** When the credential's row ends by itself, which is told by the database's clock; null: it does not. */
  readonly endsAt: Date | null;
}

/**
 * Whether a stamp holds, for a statement that checks it by itself and in the same snapshot as what it reads.
 * @param userId SQL of the stamp's `userId`, such as `$1`, and so on
 */
export const stampHolds = (userId: string, version: string, endsAt: string): string =>
  `(exists (select 1 from user_rights where user_id = ${userId}::uuid and version = ${version}::uuid)
    and (${endsAt}::timestamptz is null or ${endsAt}::timestamptz > now()))`;

interface Waiting {
  readonly stamp: Stamp;
  readonly resolve: (holds: boolean) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Asks whether stamps hold, by one statement for all that are asked for in one turn of the event loop. It is sent after
 * they were asked for, so that it sees every change that was committed before.
 */
export class Stamps {
  readonly #pool: pg.Pool;
  readonly #name: string | undefined;
  #waiting: Waiting[] = [];

  /** @param named whether statements may have names: a pooler in transaction mode gives each another connection */
  constructor(pool: pg.Pool, named: boolean) {
    this.#pool = pool;
    this.#name = named ? 'user_rights' : undefined;
  }

  holds(stamp: Stamp): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ stamp, resolve, reject });
      if (this.#waiting.length === 1) setImmediate(() => void this.#ask());
    });
  }

  async #ask(): Promise<void> {
    const asked = this.#waiting;
    this.#waiting = [];
    const [first] = asked;
    const users =
      asked.length === 1 && first ? [first.stamp.userId] : [...new Set(asked.map((one) => one.stamp.userId))];
    try {
      const { rows } = await this.#pool.query<{ user_id: string; version: string; now: Date }>({
        ...(this.#name ? { name: this.#name } : {}),
        text: 'select user_id, version, now() as now from user_rights where user_id = any($1::uuid[])',
        values: [users],
      });
      const found = new Map(rows.map((row) => [row.user_id, row]));
      for (const { stamp, resolve } of asked) {
        const row = found.get(stamp.userId);
        resolve(row?.version === stamp.version && (stamp.endsAt === null || stamp.endsAt > row.now));
      }
    } catch (error) {
      for (const { reject } of asked) reject(error);
    }
  }
}
