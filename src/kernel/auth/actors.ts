import type pg from 'pg';
import type { Role } from '#prisma';
import { hashApiKey, isApiKey } from '../crypto.ts';
import { Unauthenticated } from '../errors.ts';
import type { Logger } from '../log.ts';
import { anonymous, lowerRole, type Actor, type Origin } from './actor.ts';
import { instanceWorkspaceId } from './instance.ts';
import type { SessionTokens } from './session-tokens.ts';

export const sessionCookie = 'switchyard_session';
/** Of a browser whose person is at another system to sign in. */
export const signInCookie = 'switchyard_sign_in';

/** What a request or connection brings. */
export interface Credentials {
  /** Value of `Authorization`, or of `authorization` in `connection_init`. */
  readonly authorization?: string | null | undefined;
  /** Value of `X-API-Key`, or of `apiKey` in `connection_init`. */
  readonly apiKey?: string | null | undefined;
  /** Value of the session cookie. */
  readonly session?: string | null | undefined;
}

/** JWTs of issuers that this server trusts beside itself. */
export interface ExternalTokens {
  /** Whether a token says that it is of such an issuer; nothing is verified. */
  claims(token: string): boolean;
  /**
   * The person whom a token names.
   * @throws {Unauthenticated} for every token that is not a good one of such an issuer
   */
  verify(token: string, origin: Origin | null): Promise<{ readonly userId: string; readonly expiresAt: Date }>;
}

export interface ActorsOptions {
  readonly pool: pg.Pool;
  readonly tokens: SessionTokens;
  readonly log: Logger;
  /** E-mail addresses, lower case, of the people who operate this server. */
  readonly operators: ReadonlySet<string>;
  readonly external?: ExternalTokens | undefined;
}

interface PersonRow {
  /** Of the session; null for a token of another issuer, which tells its own end. */
  expires_at: Date | null;
  operator: boolean;
  workspace_id: string | null;
  role: Role | null;
  stale: boolean;
}

interface KeyRow {
  id: string;
  user_id: string;
  workspace_id: string;
  key_role: Role;
  member_role: Role;
  scopes: string[];
  expires_at: Date | null;
  stale: boolean;
}

// An owner reaches the workspace without its provider, which may be what has to be mended.
const memberships = (ssoConnectionId: string): string =>
  `left join (membership m join workspace w on w.id = m.workspace_id and w.deleted_at is null)
     on m.user_id = u.id and (not w.sso_enforced or m.role = 'OWNER'
       or exists (select 1 from sso_connection c where c.id = ${ssoConnectionId} and c.workspace_id = w.id and c.disabled_at is null))`;
const person = `u.email_verified_at is not null and u.email = any($2) as operator, m.workspace_id, m.role`;
const sessionSql = `select ${person}, s.expires_at, s.last_seen_at < now() - interval '1 minute' stale
  from session s join app_user u on u.id = s.user_id ${memberships('s.sso_connection_id')}
  where s.id = $1 and u.id = $3 and s.ended_at is null and s.expires_at > now() and u.closed_at is null`;
const userSql = `select ${person}, null::timestamptz expires_at, false stale from app_user u ${memberships('null')}
  where u.id = $1 and u.closed_at is null`;
const keySql = `select k.id, k.created_by_id user_id, k.workspace_id, k.role key_role, m.role member_role, k.scopes,
    k.expires_at, (k.last_seen_at is null or k.last_seen_at < now() - interval '1 minute') stale
  from api_key k join membership m on m.workspace_id = k.workspace_id and m.user_id = k.created_by_id
  join workspace w on w.id = k.workspace_id and w.deleted_at is null
  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now()) and `;

const everything = '*';

/** A renewal brings the end of a session's row forward; the token's own stays. */
const earlier = (a: Date | null, b: Date | null): Date | null => (a && b && b < a ? b : (a ?? b));

/** Makes actors of credentials. Rights are read from the database each time: they are never older than the operation. */
export class Actors {
  readonly #pool: pg.Pool;
  readonly #tokens: SessionTokens;
  readonly #log: Logger;
  readonly #operators: readonly string[];
  readonly #external: ExternalTokens | undefined;

  constructor(options: ActorsOptions) {
    this.#pool = options.pool;
    this.#tokens = options.tokens;
    this.#log = options.log;
    this.#operators = [...options.operators];
    this.#external = options.external;
  }

  /**
   * The actor of the first credential that is there: API key, bearer token, cookie. None: anonymous.
   * @throws {Unauthenticated} for a credential that is there and is not good
   */
  async authenticate(credentials: Credentials, origin: Origin | null = null): Promise<Actor> {
    const actor = await this.#actorOf(credentials, origin);
    return origin ? { ...actor, origin } : actor;
  }

  #actorOf(credentials: Credentials, origin: Origin | null): Actor | Promise<Actor> {
    if (credentials.apiKey) return this.#byKey(credentials.apiKey);
    if (credentials.authorization) {
      const bearer = /^Bearer ([\w.~+/=-]+)$/i.exec(credentials.authorization)?.[1];
      if (!bearer) throw new Unauthenticated('The Authorization header must be `Bearer <token>`.');
      if (bearer.startsWith('sy_')) return this.#byKey(bearer);
      return this.#external?.claims(bearer)
        ? this.#byExternalToken(this.#external, bearer, origin)
        : this.#bySession(bearer);
    }
    if (credentials.session) return this.#bySession(credentials.session);
    return anonymous;
  }

  /** The same credential with the rights that it has now; null when it has ended. */
  async refresh(actor: Actor): Promise<Actor | null> {
    if (actor.expiresAt && actor.expiresAt <= new Date()) return null;
    try {
      const now = await this.#again(actor);
      return { ...now, origin: actor.origin };
    } catch (error) {
      if (error instanceof Unauthenticated) return null;
      throw error;
    }
  }

  #again(actor: Actor): Actor | Promise<Actor> {
    if (actor.kind === 'API_KEY' && actor.credentialId) return this.#keyActor('k.id = $1', actor.credentialId);
    if (actor.kind === 'SESSION' || actor.kind === 'TOKEN') return this.#withRoles(actor);
    return actor;
  }

  async #bySession(token: string): Promise<Actor> {
    const { userId, sessionId, expiresAt } = await this.#tokens.verify(token);
    return this.#withRoles({ ...anonymous, kind: 'SESSION', userId, credentialId: sessionId, expiresAt });
  }

  async #byExternalToken(external: ExternalTokens, token: string, origin: Origin | null): Promise<Actor> {
    const { userId, expiresAt } = await external.verify(token, origin);
    return this.#withRoles({ ...anonymous, kind: 'TOKEN', userId, expiresAt });
  }

  async #withRoles(base: Actor): Promise<Actor> {
    const { rows } =
      base.kind === 'SESSION'
        ? await this.#pool.query<PersonRow>(sessionSql, [base.credentialId, this.#operators, base.userId])
        : await this.#pool.query<PersonRow>(userSql, [base.userId, this.#operators]);
    const [first] = rows;
    if (!first) throw new Unauthenticated('The session has ended. Sign in again.');
    if (first.stale) this.#seen('session', base.credentialId);
    const roles = new Map<string, Role>();
    for (const { workspace_id, role } of rows) if (workspace_id && role) roles.set(workspace_id, role);
    if (first.operator) roles.set(instanceWorkspaceId, 'OWNER');
    return { ...base, expiresAt: earlier(base.expiresAt, first.expires_at), roles };
  }

  #byKey(key: string): Promise<Actor> {
    // Garbage costs no look-up.
    if (!isApiKey(key)) throw new Unauthenticated('The API key is not valid.');
    return this.#keyActor('k.key_hash = $1', hashApiKey(key));
  }

  async #keyActor(condition: string, value: string): Promise<Actor> {
    const { rows } = await this.#pool.query<KeyRow>(keySql + condition, [value]);
    const [row] = rows;
    if (!row) throw new Unauthenticated('The API key is not valid.');
    if (row.stale) this.#seen('api_key', row.id);
    return {
      ...anonymous,
      kind: 'API_KEY',
      userId: row.user_id,
      credentialId: row.id,
      expiresAt: row.expires_at,
      roles: new Map([[row.workspace_id, lowerRole(row.key_role, row.member_role)]]),
      scopes: row.scopes.includes(everything) ? null : new Set(row.scopes),
    };
  }

  /** Notes the last use, once a minute; a request does not wait for it. */
  #seen(table: 'session' | 'api_key', id: string | null): void {
    this.#pool.query(`update ${table} set last_seen_at = now() where id = $1`, [id]).catch((error: unknown) => {
      this.#log.warn({ err: error }, 'last use of a credential not noted');
    });
  }
}
