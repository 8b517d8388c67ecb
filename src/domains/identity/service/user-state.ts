import { setTimeout as pause } from 'node:timers/promises';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { codeOf } from '#kernel/db/transact.ts';
import { Conflict, ValidationError } from '#kernel/errors.ts';
import { parse } from '#kernel/input.ts';
import { VersionConflict } from '../errors.ts';
import { maxStateBytes, StatePatch, StateWrite } from '../model.ts';
import { can } from '../policy.ts';

/** Somebody's document as it is now. */
export interface State {
  /** 0: there is none yet, or one from before there were versions. */
  readonly version: number;
  readonly value: unknown;
  /** Null: there is none yet. */
  readonly updatedAt: Date | null;
}

/** Waits before the second, third and fourth try, milliseconds. */
const retryDelaysMs = [50, 100, 150];
/** A writer that waits longer than this for the one before it tries again. */
const lockTimeout = '1s';
/** lock_not_available, serialization_failure, deadlock_detected: another try may do. */
const retriable = new Set(['55P03', '40001', '40P01']);

/**
 * One JSON document a person, kept for their programs. Every write is one statement, so that no two writers can lose
 * each other's fields: there is no reading, merging and putting back anywhere. The only writer of user_state.
 */
export const UserStates = service('user states', (app) => {
  /**
   * Runs one statement, up to three more times when the row is held by others for too long.
   * @throws {Conflict} after the last one, {ValidationError} for a document that would be too large
   */
  async function write(path: string, sql: string, values: unknown[]): Promise<State | undefined> {
    for (let attempt = 0; ; attempt++) {
      const client = await app.database.pool.connect();
      let broken: Error | undefined;
      try {
        await client.query('begin');
        await client.query(`set local lock_timeout = '${lockTimeout}'`);
        const { rows } = await client.query<State>(sql, values);
        await client.query('commit');
        return rows[0];
      } catch (error) {
        // Without its rollback the connection may be in a transaction still: nobody gets it again.
        await client.query('rollback').catch((failed: Error) => {
          broken = failed;
          app.log.warn({ err: failed }, 'no rollback: the connection is closed');
        });
        const code = codeOf(error);
        if (code === '23514') {
          throw new ValidationError([{ path, message: `must leave a document of at most ${maxStateBytes} bytes` }]);
        }
        if (!retriable.has(code)) throw error;
        const delay = retryDelaysMs[attempt];
        if (delay === undefined) throw new Conflict('Others are writing this document all the time. Try again later.');
        await pause(delay);
      } finally {
        client.release(broken);
      }
    }
  }

  const read = async (userId: string): Promise<State> => {
    const row = await app.db.userState.findUnique({ where: { userId } });
    return row ? { ...row, version: row.version ?? 0 } : { version: 0, value: {}, updatedAt: null };
  };

  return {
    /** The document of a person; an empty one when there is none. */
    read,

    /**
     * Puts a document in place of the one that the caller has read.
     * @throws {ValidationError} {Unauthenticated} {Forbidden} {Conflict}
     * @throws {VersionConflict} when it is at another version: trying the same again cannot succeed
     */
    async saveUserState(actor: Actor, raw: unknown): Promise<State> {
      const { value, expectedVersion } = parse(StateWrite, raw);
      authorize(actor, can.saveUserState, null);
      const userId = actor.userId as string;
      const saved = await write('value', saveSql, [userId, JSON.stringify(value), expectedVersion]);
      if (!saved) throw new VersionConflict((await read(userId)).version);
      return saved;
    },

    /**
     * Merges a patch into the document, whatever its version.
     * @throws {ValidationError} {Unauthenticated} {Forbidden} {Conflict}
     * @see https://www.rfc-editor.org/rfc/rfc7396
     */
    async patchUserState(actor: Actor, raw: unknown): Promise<State> {
      const { patch } = parse(StatePatch, raw);
      authorize(actor, can.patchUserState, null);
      const patched = await write('patch', patchSql, [actor.userId, JSON.stringify(patch)]);
      if (!patched) throw new Error('A patch wrote nothing');
      return patched;
    },
  };
});

const answer = `returning version, value, updated_at as "updatedAt"`;
// Without a row only version 0 can be expected; with one, its version decides, and a row without one counts as 0.
const saveSql = `
  with updated as (
    update user_state set value = $2::jsonb, version = $3::int + 1, updated_at = now()
    where user_id = $1::uuid and coalesce(version, 0) = $3::int ${answer}
  ), inserted as (
    insert into user_state (user_id, value, version)
    select $1::uuid, $2::jsonb, 1 where $3::int = 0 and not exists (select 1 from updated)
    on conflict (user_id) do nothing ${answer}
  )
  select * from updated union all select * from inserted`;
const patchSql = `
  insert into user_state as s (user_id, value, version) values ($1::uuid, json_merge_patch('{}', $2::jsonb), 1)
  on conflict (user_id) do update
  set value = json_merge_patch(s.value, $2::jsonb), version = coalesce(s.version, 0) + 1, updated_at = now()
  ${answer}`;
