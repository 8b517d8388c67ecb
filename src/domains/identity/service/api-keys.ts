import type { ApiKey } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { allPolicies, authorize, authorizeRow, type Verb } from '#kernel/auth/policy.ts';
import { newApiKey } from '#kernel/crypto.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, Forbidden, NotFound, ValidationError } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { apiKeyCreated, apiKeyRotated, apiKeyUpdated } from '../events.ts';
import { KeyChange, KeyRotation, NewKey } from '../model.ts';
import { can } from '../policy.ts';
import { lockWorkspace, mayGive, mayGiveNow, revokeKeys, type Written } from './shared.ts';

/** A key that was made, and its text, which is told this once. */
export interface MadeKey extends Written {
  readonly key: string;
}

/** Credentials for programs. The only writer of `api_key`, beside the end of its maker's membership. */
export const ApiKeys = service('api keys', (app) => {
  /** A key, its workspace locked: no key of it is made, changed or revoked meanwhile. */
  const find = async (tx: Transaction, id: string): Promise<ApiKey | null> => {
    const found = isId(id) ? await tx.db.apiKey.findUnique({ where: { id }, select: { workspaceId: true } }) : null;
    if (!found || !(await lockWorkspace(tx, found.workspaceId))) return null;
    return tx.db.apiKey.findUnique({ where: { id } });
  };

  const make = async (
    tx: Transaction,
    of: Pick<ApiKey, 'workspaceId' | 'name' | 'role' | 'scopes' | 'expiresAt' | 'parentId'>,
  ): Promise<MadeKey> => {
    const { key, prefix, hash } = newApiKey();
    const { id } = await tx.db.apiKey.create({
      data: { id: newId(), createdById: tx.actor.userId as string, prefix, keyHash: hash, ...of },
    });
    const { workspaceId, role } = of;
    const event = tx.append({ type: apiKeyCreated, workspaceId, subjectId: id, data: { role } });
    return { id, workspaceId, event, key };
  };

  return {
    /**
     * Makes a key. It is in the answer and nowhere else. One that is made with a key has no more than that one: not its
     * verbs, not its time; and it is revoked with it.
     * @throws {ValidationError} {NotFound} {Forbidden}
     */
    async createApiKey(actor: Actor, raw: unknown): Promise<MadeKey> {
      const { workspaceId, name, role, scopes, expiresAt = null } = parse(NewKey, raw);
      authorize(actor, can.createApiKey, workspaceId);
      mayGive(actor, workspaceId, role);
      knowScopes(scopes);
      within(actor, workspaceId, { scopes, expiresAt });
      return app.transact(actor, async (tx) => {
        if (!(await lockWorkspace(tx, workspaceId))) throw new NotFound('Workspace', workspaceId);
        await mayGiveNow(tx, actor, can.createApiKey, workspaceId, role);
        const parentId = await makerOf(tx, can.createApiKey, workspaceId);
        return make(tx, { workspaceId, name, role, scopes, expiresAt, parentId });
      });
    },

    /** Changes a key's name. @throws {ValidationError} {NotFound} {Forbidden} */
    async updateApiKey(actor: Actor, raw: unknown): Promise<Written> {
      const { id, name } = parse(KeyChange, raw);
      return app.transact(actor, async (tx) => {
        const key = await find(tx, id);
        authorizeRow(actor, can.updateApiKey, key, 'ApiKey', id);
        mayGive(actor, key.workspaceId, key.role);
        await tx.db.apiKey.update({ where: { id }, data: { name } });
        const event = tx.append({ type: apiKeyUpdated, workspaceId: key.workspaceId, subjectId: id });
        return { id, workspaceId: key.workspaceId, event };
      });
    },

    /**
     * Makes a key in place of another: same name, role, scopes and end. The old one ends, at once or after a time of
     * grace. The new one is the actor's: it acts for whoever asked for it.
     * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} when the old one has ended
     */
    async rotateApiKey(actor: Actor, raw: unknown): Promise<MadeKey & { readonly oldId: string }> {
      const { id, graceS } = parse(KeyRotation, raw);
      return app.transact(actor, async (tx) => {
        const old = await find(tx, id);
        authorizeRow(actor, can.rotateApiKey, old, 'ApiKey', id);
        await mayGiveNow(tx, actor, can.rotateApiKey, old.workspaceId, old.role);
        within(actor, old.workspaceId, old);
        if (old.revokedAt || (old.expiresAt && old.expiresAt <= new Date())) {
          throw new Conflict('This API key has ended: make a new one.');
        }
        const { workspaceId, name, role, scopes, expiresAt } = old;
        // What a key makes is revoked with it, also what takes its own place: it may be a thief who has it.
        const maker = await makerOf(tx, can.rotateApiKey, workspaceId);
        const parentId = maker ?? old.parentId;
        const made = await make(tx, { workspaceId, name, role, scopes, expiresAt, parentId });
        // What it made goes on with the one that took its place. Not the key that asks, if it comes of the old one: it
        // would be its own ancestor, and out of reach of whoever revokes the old one.
        const stay = [made.id, ...(maker === null ? [] : await lineOf(tx, maker))];
        await tx.db.apiKey.updateMany({
          where: { parentId: id, id: { notIn: stay } },
          data: { parentId: made.id },
        });
        const end = new Date(Date.now() + graceS * 1000);
        if (graceS === 0) await tx.db.apiKey.update({ where: { id }, data: { revokedAt: end } });
        else if (!expiresAt || expiresAt > end) {
          await tx.db.apiKey.update({ where: { id }, data: { expiresAt: end } });
        }
        const event = tx.append({ type: apiKeyRotated, workspaceId, subjectId: id, data: { successorId: made.id } });
        return { ...made, event, oldId: id };
      });
    },

    /**
     * Ends a key, those that were made with it, and their streams. Doing it again changes nothing.
     * @throws {NotFound} {Forbidden} also for a key whose role is above the actor's
     */
    async revokeApiKey(actor: Actor, id: string): Promise<{ id: string; workspaceId: string; event: Appended | null }> {
      return app.transact(actor, async (tx) => {
        const key = await find(tx, id);
        authorizeRow(actor, can.revokeApiKey, key, 'ApiKey', id);
        mayGive(actor, key.workspaceId, key.role);
        return { id, workspaceId: key.workspaceId, event: await revoke(tx, key) };
      });
    },
  };
});

/**
 * The key that asks for another one; null for a person. It may have been revoked since the request began, and what it
 * makes would outlive it.
 * @throws {Forbidden}
 */
async function makerOf(tx: Transaction, verb: Verb, workspaceId: string): Promise<string | null> {
  const { kind, credentialId } = tx.actor;
  if (kind !== 'API_KEY' || credentialId === null) return null;
  const key = await tx.db.apiKey.findUnique({ where: { id: credentialId }, select: { revokedAt: true } });
  if (key?.revokedAt !== null) throw new Forbidden(verb.name, workspaceId);
  return credentialId;
}

/** A key and those that it comes of. */
async function lineOf(tx: Transaction, id: string): Promise<string[]> {
  const line = await tx.db.$queryRaw<{ id: string }[]>`
    with recursive line as (
      select id, parent_id from api_key where id = ${id}::uuid
      union select k.id, k.parent_id from api_key k join line l on k.id = l.parent_id
    )
    select id from line`;
  return line.map((key) => key.id);
}

/**
 * Revokes a key, whose workspace is locked, with those that were made with it.
 * @returns the event of the key itself; null when it was revoked before
 */
async function revoke(tx: Transaction, { id }: ApiKey): Promise<Appended | null> {
  const family = await tx.db.$queryRaw<{ id: string }[]>`
    with recursive family as (
      select ${id}::uuid as id union select k.id from api_key k join family f on k.parent_id = f.id
    )
    select id from family`;
  return (await revokeKeys(tx, { id: { in: family.map((key) => key.id) } })).get(id) ?? null;
}

/** @throws {ValidationError} for what is no verb that a key can use */
function knowScopes(scopes: readonly string[]): void {
  const known = new Set(['*', ...scopeNames()]);
  const unknown = scopes.filter((name) => !known.has(name));
  if (unknown.length === 0) return;
  throw new ValidationError(unknown.map((name) => ({ path: 'scopes', message: `There is no verb ${name} for keys.` })));
}

/** Names of the verbs that a key can be for: those that a role has. */
const scopeNames = (): string[] =>
  allPolicies()
    .flatMap(({ verbs }) => Object.values(verbs))
    .filter(({ least }) => least !== 'public' && least !== 'user')
    .map(({ name }) => name);

/** A key gives no verb that it lacks, and no later end than its own. @throws {Forbidden} */
function within(actor: Actor, workspaceId: string, given: Pick<ApiKey, 'scopes' | 'expiresAt'>): void {
  if (actor.kind !== 'API_KEY') return;
  const { scopes, expiresAt } = actor;
  const wider = scopes && given.scopes.find((name) => !scopes.has(name));
  if (wider) throw new Forbidden(wider === '*' ? 'identity.giveAllScopes' : wider, workspaceId);
  if (expiresAt && (!given.expiresAt || given.expiresAt > expiresAt)) {
    throw new Forbidden('identity.giveLaterEnd', workspaceId);
  }
}
