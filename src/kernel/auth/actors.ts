import type pg from 'pg';
import type { Role } from '#prisma';
import { hashApiKey } from '../crypto.ts';
import { Unauthenticated } from '../errors.ts';
import type { Logger } from '../log.ts';
import { anonymous, lowerRole, type Actor } from './actor.ts';
import type { Sessions } from './session.ts';

/** What a request or connection brings. */
export interface Credentials {
  /** Value of `Authorization`, or of `authorization` in `connection_init`. */
  readonly authorization?: string | null | undefined;
  /** Value of `X-API-Key`, or of `apiKey` in `connection_init`. */
  readonly apiKey?: string | null | undefined;
  /** Value of the session cookie. */
  readonly session?: string | null | undefined;
}

export const sessionCookie = 'switchyard_session';

interface SessionRow {
  session_epoch: number;
  workspace_id: string | null;
  role: Role | null;
}

interface KeyRow {
  id: string;
  user_id: string;
  workspace_id: string;
  key_role: Role;
  member_role: Role;
  expires_at: Date | null;
  stale: boolean;
}

const sessionSql = `select u.session_epoch, m.workspace_id, m.role
  from app_user u left join membership m on m.user_id = u.id where u.id = $1`;
const keySql = `select k.id, k.created_by_id user_id, k.workspace_id, k.role key_role, m.role member_role, k.expires_at,
    (k.last_seen_at is null or k.last_seen_at < now() - interval '1 minute') stale
  from api_key k join membership m on m.workspace_id = k.workspace_id and m.user_id = k.created_by_id
  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now()) and `;

/** Makes actors of credentials. Rights are read from the database each time: they are never older than the operation. */
export class Actors {
  readonly #pool: pg.Pool;
  readonly #sessions: Sessions;
  readonly #log: Logger;

  constructor(options: { pool: pg.Pool; sessions: Sessions; log: Logger }) {
    this.#pool = options.pool;
    this.#sessions = options.sessions;
    this.#log = options.log;
  }

  /**
   * The actor of the first credential that is there: API key, bearer token, cookie. None: anonymous.
   * @throws {Unauthenticated} for a credential that is there and is not good
   */
  async authenticate(credentials: Credentials): Promise<Actor> {
    if (credentials.apiKey) return this.#byKey(credentials.apiKey);
    if (credentials.authorization) {
      const bearer = /^Bearer ([\w.~+/=-]+)$/i.exec(credentials.authorization)?.[1];
      if (!bearer) throw new Unauthenticated('The Authorization header must be `Bearer <token>`.');
      return bearer.startsWith('sy_') ? this.#byKey(bearer) : this.#bySession(bearer);
    }
    if (credentials.session) return this.#bySession(credentials.session);
    return anonymous;
  }

  /** The same credential with the rights that it has now; null when it has ended. */
  async refresh(actor: Actor): Promise<Actor | null> {
    if (actor.expiresAt && actor.expiresAt <= new Date()) return null;
    try {
      if (actor.kind === 'SESSION' && actor.userId)
        return await this.#withRoles(actor, actor.userId, actor.sessionEpoch);
      if (actor.kind === 'API_KEY' && actor.credentialId) return await this.#keyActor('k.id = $1', actor.credentialId);
      return actor;
    } catch (error) {
      if (error instanceof Unauthenticated) return null;
      throw error;
    }
  }

  async #bySession(token: string): Promise<Actor> {
    const session = await this.#sessions.verify(token);
    return this.#withRoles(
      {
        ...anonymous,
        kind: 'SESSION',
        userId: session.userId,
        credentialId: session.tokenId,
        expiresAt: session.expiresAt,
      },
      session.userId,
      session.sessionEpoch,
    );
  }

  async #withRoles(base: Actor, userId: string, epoch: number | undefined): Promise<Actor> {
    const { rows } = await this.#pool.query<SessionRow>(sessionSql, [userId]);
    if (rows[0]?.session_epoch !== epoch) throw new Unauthenticated('The session has ended. Sign in again.');
    const roles = new Map<string, Role>();
    for (const { workspace_id, role } of rows) if (workspace_id && role) roles.set(workspace_id, role);
    return { ...base, sessionEpoch: epoch, roles };
  }

  #byKey(key: string): Promise<Actor> {
    return this.#keyActor('k.key_hash = $1', hashApiKey(key));
  }

  async #keyActor(condition: string, value: string): Promise<Actor> {
    const { rows } = await this.#pool.query<KeyRow>(keySql + condition, [value]);
    const [row] = rows;
    if (!row) throw new Unauthenticated('The API key is not valid.');
    if (row.stale) {
      this.#pool.query(`update api_key set last_seen_at = now() where id = $1`, [row.id]).catch((error: unknown) => {
        this.#log.warn({ err: error }, 'last use of an API key not noted');
      });
    }
    return {
      kind: 'API_KEY',
      userId: row.user_id,
      credentialId: row.id,
      expiresAt: row.expires_at,
      roles: new Map([[row.workspace_id, lowerRole(row.key_role, row.member_role)]]),
    };
  }
}
