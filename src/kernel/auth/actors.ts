import type pg from 'pg';
import type { Role } from '#prisma';
import { hashApiKey, isApiKey, sha256Hex } from '../crypto.ts';
import { Unauthenticated } from '../errors.ts';
import { Latest } from '../latest.ts';
import type { Logger } from '../log.ts';
import { anonymous, lowerRole, type Actor, type Origin } from './actor.ts';
import { instanceWorkspaceId } from './instance.ts';
import { Stamps, type Stamp } from './rights.ts';
import type { SessionToken, SessionTokens } from './session-tokens.ts';

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
  /** Whether statements may have names, which a pooler in transaction mode does not allow; default true. */
  readonly named?: boolean;
}

interface PersonRow {
  /** Of the session; null for a token of another issuer, which tells its own end. */
  expires_at: Date | null;
  operator: boolean;
  workspace_id: string | null;
  role: Role | null;
  version: string | null;
  /** Milliseconds until the last use is to be noted again; null: it is not. */
  due: number | null;
}

interface KeyRow {
  id: string;
  user_id: string;
  workspace_id: string;
  key_role: Role;
  member_role: Role;
  scopes: string[];
  expires_at: Date | null;
  version: string | null;
  due: number;
}

// An owner reaches the workspace without its provider, which may be what has to be mended.
const memberships = (ssoConnectionId: string): string =>
  `left join (membership m join workspace w on w.id = m.workspace_id and w.deleted_at is null)
     on m.user_id = u.id and (not w.sso_enforced or m.role = 'OWNER'
       or exists (select 1 from sso_connection c where c.id = ${ssoConnectionId} and c.workspace_id = w.id and c.disabled_at is null))`;
const person = `u.email_verified_at is not null and u.email = any($2) as operator, m.workspace_id, m.role`;
/** When a last use was a minute ago. */
const due = (lastSeenAt: string): string =>
  `coalesce(extract(epoch from ${lastSeenAt} + interval '1 minute' - now()) * 1000, 0)::float8 due`;
// Whatever these read has a trigger that changes `user_rights.version`.
const sessionSql = `select ${person}, s.expires_at, r.version, ${due('s.last_seen_at')}
  from session s join app_user u on u.id = s.user_id left join user_rights r on r.user_id = u.id
    ${memberships('s.sso_connection_id')}
  where s.id = $1 and u.id = $3 and s.ended_at is null and s.expires_at > now() and u.closed_at is null`;
const userSql = `select ${person}, null::timestamptz expires_at, null::uuid as version, null::float8 due from app_user u ${memberships('null')}
  where u.id = $1 and u.closed_at is null`;
const keySql = `select k.id, k.created_by_id user_id, k.workspace_id, k.role key_role, m.role member_role, k.scopes,
    k.expires_at, r.version, ${due('k.last_seen_at')}
  from api_key k left join user_rights r on r.user_id = k.created_by_id
  join membership m on m.workspace_id = k.workspace_id and m.user_id = k.created_by_id
  join workspace w on w.id = k.workspace_id and w.deleted_at is null
  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now()) and `;

const everything = '*';

/** How long a last use is not noted again, milliseconds. */
const noteEveryMs = 60_000;

/** What was read of a credential. */
interface Read {
  /** Without its origin; `expiresAt` is the row's own. */
  readonly actor: Actor;
  readonly stamp: Stamp | null;
  /** From then on it is read again: its last use is to be noted. Milliseconds since 1970. */
  readonly until: number;
}

interface Kept extends Read {
  readonly stamp: Stamp;
}

/** Whether it is not to be read again yet; rights that changed meanwhile are for the stamp to tell. */
function isFresh({ actor: { expiresAt }, until }: Kept): boolean {
  const now = Date.now();
  return now < until && (!expiresAt || expiresAt.getTime() > now);
}

/** What credentials are remembered by. */
const sessionKey = (id: string | null, userId: string | null): string => `SESSION ${id} ${userId}`;
const keyKey = (column: 'id' | 'key_hash', value: string): string => `${column} ${value}`;

const bearerOf = (authorization: string): string | undefined => /^Bearer ([\w.~+/=-]+)$/i.exec(authorization)?.[1];

/** Credentials that are remembered, at most. */
const maxKept = 10_000;

/** A renewal brings the end of a session's row forward; the token's own stays. */
const earlier = (a: Date | null, b: Date | null): Date | null => (a && b && b < a ? b : (a ?? b));

/**
 * Makes actors of credentials. Rights are never older than the operation: they are read from the database, or were read
 * before, and the database says that they are still the same. So a process remembers what it read for a minute, and
 * nothing of it counts without {@link Stamps}.
 */
export class Actors {
  readonly #pool: pg.Pool;
  readonly #tokens: SessionTokens;
  readonly #log: Logger;
  readonly #operators: readonly string[];
  readonly #external: ExternalTokens | undefined;
  readonly #stamps: Stamps;
  readonly #named: boolean;
  readonly #kept = new Latest<string, Kept>(maxKept);
  /** What verified tokens say, by their hash. */
  readonly #verified = new Latest<string, SessionToken>(maxKept);

  constructor(options: ActorsOptions) {
    this.#pool = options.pool;
    this.#named = options.named ?? true;
    this.#stamps = new Stamps(options.pool, this.#named);
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
    const actor = await this.#actorOf(credentials, origin, false);
    return origin ? { ...actor, origin } : actor;
  }

  /**
   * The same with the rights that were read last, where they are remembered, at once and without a question to the database: the
   * actor has a `stamp` then, and whoever reads anything for it makes sure first that it holds.
   * @throws {Unauthenticated} like `authenticate`; one that has one must go there when its stamp does not hold
   */
  recall(credentials: Credentials, origin: Origin | null = null): Actor | Promise<Actor> {
    return this.#recalled(credentials, origin) ?? this.#recall(credentials, origin);
  }

  async #recall(credentials: Credentials, origin: Origin | null): Promise<Actor> {
    const actor = await this.#actorOf(credentials, origin, true);
    return origin ? { ...actor, origin } : actor;
  }

  /** What is remembered; null also for a credential that is not good, of which the other way says what is wrong. */
  #recalled({ apiKey, authorization, session }: Credentials, origin: Origin | null): Actor | null {
    const token = apiKey ? undefined : authorization ? bearerOf(authorization) : session;
    // A cookie is a session's.
    const key = apiKey ?? (authorization && token?.startsWith('sy_') ? token : undefined);
    if (key !== undefined) return this.#known(keyKey('key_hash', hashApiKey(key)), origin);
    if (token == null) return authorization ? null : origin ? { ...anonymous, origin } : anonymous;
    const said = this.#verified.get(sha256Hex(token));
    if (!said || !this.#tokens.isLive(said)) return null;
    const actor = this.#known(sessionKey(said.sessionId, said.userId), origin);
    return actor && { ...actor, expiresAt: earlier(said.expiresAt, actor.expiresAt) };
  }

  #known(key: string, origin: Origin | null): Actor | null {
    const kept = this.#kept.get(key);
    return kept && isFresh(kept) ? { ...kept.actor, stamp: kept.stamp, origin } : null;
  }

  #actorOf(credentials: Credentials, origin: Origin | null, unasked: boolean): Actor | Promise<Actor> {
    if (credentials.apiKey) return this.#byKey(credentials.apiKey, unasked);
    if (credentials.authorization) {
      const bearer = bearerOf(credentials.authorization);
      if (!bearer) throw new Unauthenticated('The Authorization header must be `Bearer <token>`.');
      if (bearer.startsWith('sy_')) return this.#byKey(bearer, unasked);
      // What was found to be of this server is of nobody else.
      return this.#external && !this.#verified.has(sha256Hex(bearer)) && this.#external.claims(bearer)
        ? this.#byExternalToken(this.#external, bearer, origin)
        : this.#bySession(bearer, unasked);
    }
    if (credentials.session) return this.#bySession(credentials.session, unasked);
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
    if (actor.kind === 'API_KEY' && actor.credentialId) return this.#keyActor('id', actor.credentialId, false);
    if (actor.kind === 'SESSION' || actor.kind === 'TOKEN') return this.#withRoles(actor, false);
    return actor;
  }

  async #bySession(token: string, unasked: boolean): Promise<Actor> {
    const { userId, sessionId, expiresAt } = await this.#verify(token);
    return this.#withRoles({ ...anonymous, kind: 'SESSION', userId, credentialId: sessionId, expiresAt }, unasked);
  }

  /** What a token says; a signature is looked at once. */
  async #verify(token: string): Promise<SessionToken> {
    const digest = sha256Hex(token);
    const known = this.#verified.get(digest);
    if (known && this.#tokens.isLive(known)) return known;
    const said = await this.#tokens.verify(token);
    this.#verified.set(digest, said);
    return said;
  }

  async #byExternalToken(external: ExternalTokens, token: string, origin: Origin | null): Promise<Actor> {
    const { userId, expiresAt } = await external.verify(token, origin);
    return this.#withRoles({ ...anonymous, kind: 'TOKEN', userId, expiresAt }, false);
  }

  async #withRoles(base: Actor, unasked: boolean): Promise<Actor> {
    if (base.kind !== 'SESSION') return (await this.#readPerson(base)).actor;
    const key = sessionKey(base.credentialId, base.userId);
    const actor = (await this.#remembered(key, unasked)) ?? this.#keep(key, await this.#readPerson(base));
    return { ...actor, expiresAt: earlier(base.expiresAt, actor.expiresAt) };
  }

  async #readPerson(base: Actor): Promise<Read> {
    const { rows } =
      base.kind === 'SESSION'
        ? await this.#query<PersonRow>('session', sessionSql, [base.credentialId, this.#operators, base.userId])
        : await this.#query<PersonRow>('user', userSql, [base.userId, this.#operators]);
    const [first] = rows;
    if (!first) throw new Unauthenticated('The session has ended. Sign in again.');
    const until = first.due === null ? 0 : this.#used('session', base.credentialId, first.due);
    const roles = new Map<string, Role>();
    for (const { workspace_id, role } of rows) if (workspace_id && role) roles.set(workspace_id, role);
    if (first.operator) roles.set(instanceWorkspaceId, 'OWNER');
    const { kind, userId, credentialId } = base;
    const expiresAt = kind === 'SESSION' ? first.expires_at : base.expiresAt;
    const actor: Actor = { ...anonymous, kind, userId, credentialId, expiresAt, roles };
    return { actor, stamp: stampOf(userId, first.version, expiresAt), until };
  }

  async #byKey(key: string, unasked: boolean): Promise<Actor> {
    // Garbage costs no look-up.
    if (!isApiKey(key)) throw new Unauthenticated('The API key is not valid.');
    return this.#keyActor('key_hash', hashApiKey(key), unasked);
  }

  async #keyActor(column: 'id' | 'key_hash', value: string, unasked: boolean): Promise<Actor> {
    // By each for itself: that there is a key of this id says nothing of a hash that it had once.
    const key = keyKey(column, value);
    const known = await this.#remembered(key, unasked);
    if (known) return known;
    const { rows } = await this.#query<KeyRow>(column, `${keySql}k.${column} = $1`, [value]);
    const [row] = rows;
    if (!row) throw new Unauthenticated('The API key is not valid.');
    const actor: Actor = {
      ...anonymous,
      kind: 'API_KEY',
      userId: row.user_id,
      credentialId: row.id,
      expiresAt: row.expires_at,
      roles: new Map([[row.workspace_id, lowerRole(row.key_role, row.member_role)]]),
      scopes: row.scopes.includes(everything) ? null : new Set(row.scopes),
    };
    const until = this.#used('api_key', row.id, row.due);
    return this.#keep(key, { actor, stamp: stampOf(row.user_id, row.version, row.expires_at), until });
  }

  /** What is remembered: with its stamp, or without one, when the database says that it is so still; else null. */
  async #remembered(key: string, unasked: boolean): Promise<Actor | null> {
    const kept = this.#kept.get(key);
    if (!kept) return null;
    const { actor, stamp } = kept;
    if (isFresh(kept)) {
      if (unasked) return { ...actor, stamp };
      if (await this.#stamps.holds(stamp)) return actor;
    }
    if (this.#kept.get(key) === kept) this.#kept.delete(key);
    return null;
  }

  #keep(key: string, { actor, stamp, until }: Read): Actor {
    if (stamp) this.#kept.set(key, { actor, stamp, until });
    return actor;
  }

  #query<T extends pg.QueryResultRow>(name: string, text: string, values: unknown[]): Promise<pg.QueryResult<T>> {
    return this.#pool.query<T>({ ...(this.#named ? { name: `actors_${name}` } : {}), text, values });
  }

  /** Notes the last use where that is due. @returns when it is due again, milliseconds since 1970 */
  #used(table: 'session' | 'api_key', id: string | null, due: number): number {
    if (due > 0) return Date.now() + due;
    this.#seen(table, id);
    return Date.now() + noteEveryMs;
  }

  /** Notes the last use, once a minute; a request does not wait for it. */
  #seen(table: 'session' | 'api_key', id: string | null): void {
    this.#pool.query(`update ${table} set last_seen_at = now() where id = $1`, [id]).catch((error: unknown) => {
      this.#log.warn({ err: error }, 'last use of a credential not noted');
    });
  }
}

const stampOf = (userId: string | null, version: string | null, endsAt: Date | null): Stamp | null =>
  userId !== null && version !== null ? { userId, version, endsAt } : null;
