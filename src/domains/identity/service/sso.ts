import { randomBytes } from 'node:crypto';
import type { SsoConnection } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow, type Verb } from '#kernel/auth/policy.ts';
import { Sessions } from '#kernel/auth/sessions.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineSealedColumn } from '#kernel/sealing/columns.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { ProviderUnusable, type ProviderClient } from '../../../integrations/oidc/index.ts';
import { DomainNotVerified, SsoMisconfigured, SsoNotReady } from '../errors.ts';
import {
  ssoConnectionCreated,
  ssoConnectionDisabled,
  ssoConnectionUpdated,
  ssoDomainAdded,
  ssoDomainRemoved,
  ssoDomainVerified,
  ssoEnforcementChanged,
} from '../events.ts';
import { domainOfEmail, NewSsoConnection, NewSsoDomain, SsoConnectionChange, SsoEnforcement } from '../model.ts';
import { can } from '../policy.ts';
import { Outside, outsideLimit } from './outside.ts';
import { isTaken, lockWorkspace, mayGive, mayGiveNow, type Written } from './shared.ts';

const secretColumn = defineSealedColumn({ table: 'sso_connection', column: 'client_secret' });

/** Name of the TXT record that holds a domain's challenge. */
export const challengeRecord = (domain: string): string => `_switchyard-challenge.${domain}`;

/** Where a browser begins to sign in by a connection. */
export const ssoPath = (connectionId: string): string => `/auth/sso/${connectionId}`;

/**
 * Where it comes back to: each connection has an address of its own, so that what was begun at one provider and is
 * answered by another one is seen, whether that says who it is or not.
 * @see https://www.rfc-editor.org/rfc/rfc9700#section-4.4.2 Mix-up defences
 */
export const ssoCallbackPath = (connectionId: string): string => `${ssoPath(connectionId)}/callback`;

/** The same of a change that may have been made already: then there is no event. */
type Changed = Omit<Written, 'event'> & { readonly event: Appended | null };

/** Ways in that an address has by its domain. */
export interface SignInMethods {
  readonly password: boolean;
  readonly github: boolean;
  readonly sso: readonly { readonly id: string; readonly name: string; readonly url: string }[];
}

/** Whether a domain is verified as the workspace's own. */
export async function isDomainOf(tx: Transaction, workspaceId: string, email: string): Promise<boolean> {
  const domain = domainOfEmail(email);
  if (domain === null) return false;
  return (await tx.db.ssoDomain.count({ where: { workspaceId, domain, verifiedAt: { not: null } } })) > 0;
}

/** Providers and domains of workspaces. The only writer of sso_connection and sso_domain. */
export const Sso = service('sso', (app) => {
  /** @throws {SsoMisconfigured} unless the provider can be used */
  const check = async (client: ProviderClient): Promise<void> => {
    try {
      await app.use(Outside).oidc.check(client, outsideLimit());
    } catch (error) {
      if (!(error instanceof ProviderUnusable)) throw error;
      throw new SsoMisconfigured(error.problem, error.message);
    }
  };
  const connectionOf = async (id: string) => (isId(id) ? app.db.ssoConnection.findUnique({ where: { id } }) : null);
  const domainOf = async (id: string) => (isId(id) ? app.db.ssoDomain.findUnique({ where: { id } }) : null);
  /** Its workspace, locked: it may have been closed meanwhile, or whoever asked been removed. */
  const lock = async (tx: Transaction, verb: Verb, workspaceId: string): Promise<void> => {
    if (!(await lockWorkspace(tx, workspaceId))) throw new NotFound('Workspace', workspaceId);
    await mayGiveNow(tx, tx.actor, verb, workspaceId);
  };
  const isReady = async (tx: Transaction, workspaceId: string): Promise<boolean> =>
    (await tx.db.ssoConnection.count({ where: { workspaceId, disabledAt: null } })) > 0 &&
    (await tx.db.ssoDomain.count({ where: { workspaceId, verifiedAt: { not: null } } })) > 0;
  /** While a workspace that is locked asks for it, there is a way in. @throws {SsoNotReady} */
  const stayReady = async (tx: Transaction, workspaceId: string): Promise<void> => {
    const enforced = (await tx.db.workspace.count({ where: { id: workspaceId, ssoEnforced: true } })) > 0;
    if (enforced && !(await isReady(tx, workspaceId))) throw new SsoNotReady();
  };

  return {
    /**
     * Sets up a provider, after a look whether it can be used.
     * @throws {ValidationError} {NotFound} {Forbidden} {SsoMisconfigured}
     */
    async createSsoConnection(actor: Actor, raw: unknown): Promise<Written> {
      const { clientSecret, provisionRole, trustEmail, ...input } = parse(NewSsoConnection, raw);
      const { workspaceId } = input;
      authorize(actor, can.createSsoConnection, workspaceId);
      if (provisionRole) mayGive(actor, workspaceId, provisionRole);
      await check({ ...input, clientSecret: clientSecret ?? null });
      const id = newId();
      const sealed = clientSecret == null ? null : await app.use(Sealing).seal(clientSecret, secretColumn.context(id));
      return app.transact(actor, async (tx) => {
        await lock(tx, can.createSsoConnection, workspaceId);
        await tx.db.ssoConnection.create({
          data: {
            id,
            ...input,
            clientSecret: sealed,
            provisionRole: provisionRole ?? null,
            trustEmail: trustEmail ?? false,
          },
        });
        return { id, workspaceId, event: tx.append({ type: ssoConnectionCreated, workspaceId, subjectId: id }) };
      });
    },

    /**
     * Changes a provider's settings, not its issuer.
     * @throws {ValidationError} {NotFound} {Forbidden} {SsoMisconfigured}
     */
    async updateSsoConnection(actor: Actor, raw: unknown): Promise<Written> {
      const { id, name, clientId, clientSecret, provisionRole, trustEmail } = parse(SsoConnectionChange, raw);
      const connection = await connectionOf(id);
      authorizeRow(actor, can.updateSsoConnection, connection, 'SsoConnection', id);
      const { workspaceId, issuer } = connection;
      if (provisionRole) mayGive(actor, workspaceId, provisionRole);
      const secret = clientSecret === undefined ? await this.secretOf(connection) : clientSecret;
      if (clientId != null || clientSecret !== undefined) {
        await check({ issuer, clientId: clientId ?? connection.clientId, clientSecret: secret });
      }
      const sealed = clientSecret ? await app.use(Sealing).seal(clientSecret, secretColumn.context(id)) : null;
      return app.transact(actor, async (tx) => {
        await lock(tx, can.updateSsoConnection, workspaceId);
        // One that was switched off stays so, and gets no secret any more.
        const { count } = await tx.db.ssoConnection.updateMany({
          where: { id, disabledAt: null },
          data: {
            ...(name == null ? {} : { name }),
            ...(clientId == null ? {} : { clientId }),
            ...(clientSecret === undefined ? {} : { clientSecret: sealed }),
            ...(provisionRole === undefined ? {} : { provisionRole }),
            ...(trustEmail == null ? {} : { trustEmail }),
          },
        });
        if (count === 0) throw new NotFound('SsoConnection', id);
        return { id, workspaceId, event: tx.append({ type: ssoConnectionUpdated, workspaceId, subjectId: id }) };
      });
    },

    /**
     * Switches a provider off for good, forgets its secret, and ends the sessions that it vouched for.
     * @throws {NotFound} {Forbidden} {SsoNotReady} for the last one while it is enforced
     */
    async disableSsoConnection(actor: Actor, id: string): Promise<Changed> {
      const connection = await connectionOf(id);
      authorizeRow(actor, can.disableSsoConnection, connection, 'SsoConnection', id);
      const { workspaceId } = connection;
      return app.transact(actor, async (tx) => {
        await lock(tx, can.disableSsoConnection, workspaceId);
        const { count } = await tx.db.ssoConnection.updateMany({
          where: { id, disabledAt: null },
          data: { disabledAt: new Date(), clientSecret: null },
        });
        if (count === 0) return { id, workspaceId, event: null };
        await stayReady(tx, workspaceId);
        await app.use(Sessions).endOf(tx, { ssoConnectionId: id });
        return { id, workspaceId, event: tx.append({ type: ssoConnectionDisabled, workspaceId, subjectId: id }) };
      });
    },

    /**
     * Notes a domain that is to be the workspace's own; its row has the challenge for its DNS.
     * @throws {ValidationError} also for public mail providers, {NotFound} {Forbidden} {Conflict}
     */
    async addSsoDomain(actor: Actor, raw: unknown): Promise<Written> {
      const { workspaceId, domain } = parse(NewSsoDomain, raw);
      authorize(actor, can.addSsoDomain, workspaceId);
      const id = newId();
      const challenge = `switchyard=${randomBytes(32).toString('base64url')}`;
      try {
        return await app.transact(actor, async (tx) => {
          await lock(tx, can.addSsoDomain, workspaceId);
          await tx.db.ssoDomain.create({ data: { id, workspaceId, domain, challenge } });
          return { id, workspaceId, event: tx.append({ type: ssoDomainAdded, workspaceId, subjectId: id }) };
        });
      } catch (error) {
        if (isTaken(error)) throw new Conflict(`The workspace has ${domain} already.`);
        throw error;
      }
    },

    /**
     * Looks for the challenge in the domain's DNS.
     * @throws {NotFound} {Forbidden} {DomainNotVerified} {Conflict} when it is another workspace's
     */
    async verifySsoDomain(actor: Actor, id: string): Promise<Changed> {
      const row = await domainOf(id);
      authorizeRow(actor, can.verifySsoDomain, row, 'SsoDomain', id);
      const { workspaceId, domain, challenge } = row;
      const record = challengeRecord(domain);
      const found = await app
        .use(Outside)
        .resolveTxt(record, outsideLimit())
        .catch((error: unknown) => {
          app.log.debug({ err: error, record }, 'no TXT record');
          return [];
        });
      if (!found.some((text) => text.trim() === challenge)) throw new DomainNotVerified(record);
      return app.transact(actor, async (tx) => {
        await lock(tx, can.verifySsoDomain, workspaceId);
        // Two workspaces may both control it: the first one has it until it gives it up.
        await tx.db.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${`sso domain ${domain}`}, 0))`;
        const taken = await tx.db.ssoDomain.count({
          where: { domain, verifiedAt: { not: null }, workspaceId: { not: workspaceId } },
        });
        if (taken > 0) throw new Conflict(`${domain} is verified for another workspace.`);
        const { count } = await tx.db.ssoDomain.updateMany({
          where: { id, verifiedAt: null },
          data: { verifiedAt: new Date() },
        });
        if (count === 0 && (await tx.db.ssoDomain.count({ where: { id } })) === 0) throw new NotFound('SsoDomain', id);
        const event = count > 0 ? tx.append({ type: ssoDomainVerified, workspaceId, subjectId: id }) : null;
        return { id, workspaceId, event };
      });
    },

    /** Gives a domain up. @throws {NotFound} {Forbidden} {SsoNotReady} for the last one while a provider is enforced */
    async removeSsoDomain(actor: Actor, id: string): Promise<Written> {
      const row = await domainOf(id);
      authorizeRow(actor, can.removeSsoDomain, row, 'SsoDomain', id);
      const { workspaceId } = row;
      return app.transact(actor, async (tx) => {
        await lock(tx, can.removeSsoDomain, workspaceId);
        const { count } = await tx.db.ssoDomain.deleteMany({ where: { id } });
        if (count === 0) throw new NotFound('SsoDomain', id);
        await stayReady(tx, workspaceId);
        return { id, workspaceId, event: tx.append({ type: ssoDomainRemoved, workspaceId, subjectId: id }) };
      });
    },

    /**
     * Says whether members other than owners must come in by the workspace's providers. Streams of those who do not are
     * closed at once.
     * @throws {NotFound} {Forbidden} {SsoNotReady}
     */
    async setSsoEnforced(actor: Actor, raw: unknown): Promise<Changed> {
      const { workspaceId, enforced } = parse(SsoEnforcement, raw);
      authorize(actor, can.setSsoEnforced, workspaceId);
      return app.transact(actor, async (tx) => {
        await lock(tx, can.setSsoEnforced, workspaceId);
        if (enforced && !(await isReady(tx, workspaceId))) throw new SsoNotReady();
        const { count } = await tx.db.workspace.updateMany({
          where: { id: workspaceId, ssoEnforced: !enforced },
          data: { ssoEnforced: enforced },
        });
        const [from, to] = enforced ? ['OPTIONAL', 'ENFORCED'] : ['ENFORCED', 'OPTIONAL'];
        const event =
          count > 0 ? tx.append({ type: ssoEnforcementChanged, workspaceId, subjectId: workspaceId, from, to }) : null;
        return { id: workspaceId, workspaceId, event };
      });
    },

    /** Which ways in an address has by its domain. Never tells whether there is an account. */
    async signInMethods(email: string): Promise<SignInMethods> {
      const domain = email.length > 320 ? null : domainOfEmail(email);
      const connections =
        domain === null
          ? []
          : await app.db.ssoConnection.findMany({
              where: {
                disabledAt: null,
                workspace: { deletedAt: null, ssoDomains: { some: { domain, verifiedAt: { not: null } } } },
              },
              orderBy: [{ name: 'asc' }, { id: 'asc' }],
              take: 20,
            });
      const { github, baseUrl } = app.use(Outside);
      return {
        password: true,
        github: github !== null,
        sso: connections.map(({ id, name }) => ({ id, name, url: `${baseUrl()}${ssoPath(id)}` })),
      };
    },

    /** A connection that people can come in by; null: there is none. */
    async open(id: string): Promise<(SsoConnection & { readonly client: ProviderClient }) | null> {
      const found = isId(id)
        ? await app.db.ssoConnection.findUnique({ where: { id, disabledAt: null, workspace: { deletedAt: null } } })
        : null;
      if (!found) return null;
      const { issuer, clientId } = found;
      return { ...found, client: { issuer, clientId, clientSecret: await this.secretOf(found) } };
    },

    /** @throws {UnknownKey} {SealBroken} */
    async secretOf({ id, clientSecret }: SsoConnection): Promise<string | null> {
      return clientSecret === null ? null : app.use(Sealing).openText(clientSecret, secretColumn.context(id));
    },
  };
});
