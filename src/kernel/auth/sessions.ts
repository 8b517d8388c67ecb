import type { Prisma } from '#prisma';
import { required, service } from '../app.ts';
import type { Transaction } from '../db/transact.ts';
import { Forbidden, Unauthenticated } from '../errors.ts';
import { defineEvent } from '../events/define.ts';
import { newId } from '../ids.ts';
import { signedIn } from '../audit/events.ts';
import type { Actor, Origin, SignInMethod } from './actor.ts';
import { instanceWorkspaceId } from './instance.ts';
import type { SessionTokens } from './session-tokens.ts';

export interface SessionSettings {
  readonly tokens: SessionTokens;
  /** How long a session lasts unless it is rotated, seconds. */
  readonly ttlS: number;
  /** How long after signing in a session ends however often it was rotated, seconds. */
  readonly maxAgeS: number;
}

/** How this server makes sessions. */
export const SessionSettings = required<SessionSettings>('session settings');

/** A session and its token, which is told once. */
export interface SignedIn {
  readonly userId: string;
  readonly sessionId: string;
  readonly token: string;
  readonly expiresAt: Date;
}

export const sessionsEnded = defineEvent<{ userId: string }>('user.sessionsEnded', {
  subject: 'User',
  description: 'One or all of the sessions of somebody ended before their time.',
  rights: true,
});

/**
 * Sessions of a person are made and ended under this lock, so that what ends all of them ends also the one that is just
 * being made or renewed.
 * @throws {Unauthenticated} when there is no such person
 */
async function lockPerson(tx: Transaction, userId: string): Promise<{ readonly closed: boolean }> {
  const [found] = await tx.db.$queryRaw<{ closed: boolean }[]>`
    select closed_at is not null closed from app_user where id = ${userId}::uuid for no key update`;
  if (!found) throw new Unauthenticated();
  return found;
}

/** Whether the provider of a session is still there; it is not switched off before the transaction is over. */
async function vouchedFor(tx: Transaction, ssoConnectionId: string | null): Promise<boolean> {
  if (ssoConnectionId === null) return true;
  const found = await tx.db.$queryRaw<unknown[]>`
    select 1 from sso_connection where id = ${ssoConnectionId}::uuid and disabled_at is null for share`;
  return found.length > 0;
}

/** Time in which requests that were under way with a rotated session still arrive, seconds. */
const rotationGraceS = 30;

/** The only writer of session. */
export const Sessions = service('sessions', (app) => {
  const make = async (
    tx: Transaction,
    of: {
      readonly userId: string;
      readonly method: string;
      readonly ssoConnectionId: string | null;
      readonly origin: Origin | null;
      readonly signedInAt: Date;
    },
  ): Promise<SignedIn> => {
    const { tokens, ttlS, maxAgeS } = app.use(SessionSettings);
    const endMs = Math.min(Date.now() + ttlS * 1000, of.signedInAt.getTime() + maxAgeS * 1000);
    // To the second, as the token says it.
    const expiresAt = new Date(Math.floor(endMs / 1000) * 1000);
    const { userId, origin } = of;
    const sessionId = newId();
    await tx.db.session.create({
      data: {
        id: sessionId,
        userId,
        method: of.method,
        ssoConnectionId: of.ssoConnectionId,
        address: origin?.address ?? null,
        userAgent: origin?.userAgent ?? null,
        signedInAt: of.signedInAt,
        expiresAt,
      },
    });
    return { userId, sessionId, token: await tokens.issue({ userId, sessionId, expiresAt }), expiresAt };
  };

  /** Open streams of these people look at their rights again; those of operators follow the instance's log. */
  const tell = async (tx: Transaction, userIds: readonly string[]): Promise<void> => {
    const places = await tx.db.membership.findMany({
      where: { userId: { in: [...userIds] }, workspace: { deletedAt: null } },
      select: { workspaceId: true, userId: true },
    });
    const instance = userIds.map((userId) => ({ workspaceId: instanceWorkspaceId, userId }));
    for (const { workspaceId, userId } of [...places, ...instance]) {
      tx.append({ type: sessionsEnded, workspaceId, subjectId: userId, data: { userId } });
    }
  };

  const endWhere = async (tx: Transaction, where: Prisma.SessionWhereInput): Promise<number> => {
    const ended = await tx.db.session.updateManyAndReturn({
      where: { ...where, endedAt: null, expiresAt: { gt: new Date() } },
      data: { endedAt: new Date() },
      select: { userId: true },
    });
    if (ended.length > 0) await tell(tx, [...new Set(ended.map(({ userId }) => userId))]);
    return ended.length;
  };

  return {
    /**
     * A new session of somebody who has just proved who they are; never one that was there before.
     * @throws {Unauthenticated} when the account was closed meanwhile
     */
    async open(
      tx: Transaction,
      of: {
        readonly userId: string;
        readonly method: SignInMethod;
        readonly ssoConnectionId?: string;
        readonly origin: Origin | null;
      },
    ): Promise<SignedIn> {
      if ((await lockPerson(tx, of.userId)).closed) throw new Unauthenticated('The account is closed.');
      tx.append({
        type: signedIn,
        workspaceId: instanceWorkspaceId,
        subjectId: of.userId,
        data: { method: of.method },
      });
      return make(tx, { ssoConnectionId: null, ...of, signedInAt: new Date() });
    },

    /**
     * Gives the actor's session a new id and a new time; the old token is good for 30 more seconds.
     * @throws {Unauthenticated} when it has ended meanwhile, {Forbidden} for an actor without a session
     */
    async rotate(actor: Actor): Promise<SignedIn> {
      if (actor.kind !== 'SESSION' || !actor.credentialId) throw new Forbidden('identity.refreshSession');
      const id = actor.credentialId;
      return app.transact(actor, async (tx) => {
        // Of two that rotate at once, the second finds it shortened and does it again from there.
        await lockPerson(tx, actor.userId ?? '');
        const old = await tx.db.session.findFirst({ where: { id, endedAt: null, expiresAt: { gt: new Date() } } });
        if (!old || !(await vouchedFor(tx, old.ssoConnectionId)))
          throw new Unauthenticated('The session has ended. Sign in again.');
        const { userId, method, ssoConnectionId, signedInAt } = old;
        const made = await make(tx, { userId, method, ssoConnectionId, signedInAt, origin: actor.origin });
        const grace = new Date(Date.now() + rotationGraceS * 1000);
        if (old.expiresAt > grace) {
          await tx.db.session.update({ where: { id }, data: { expiresAt: grace } });
          await tell(tx, [userId]);
        }
        return made;
      });
    },

    /** Ends one session of a person. @returns false when there is no such one that is still good */
    async end(tx: Transaction, userId: string, id: string): Promise<boolean> {
      return (await endWhere(tx, { id, userId })) > 0;
    },

    /** Ends every session of a person, but the one that is to stay. @returns how many */
    async endAll(tx: Transaction, userId: string, but: string | null = null): Promise<number> {
      await lockPerson(tx, userId);
      return endWhere(tx, { userId, ...(but ? { id: { not: but } } : {}) });
    },

    /** Ends every session that a provider vouched for, whoever's it is. @returns how many */
    endOf: (tx: Transaction, of: { readonly ssoConnectionId: string }): Promise<number> => endWhere(tx, of),
  };
});
