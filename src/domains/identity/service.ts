import { Prisma, type Role } from '#prisma';
import { service } from '#kernel/app.ts';
import { atLeast, type Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import { SessionTokens } from '#kernel/auth/tokens.ts';
import { hashPassword, needsRehash, newApiKey, verifyPassword } from '#kernel/crypto.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, Forbidden, NotFound } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { LastOwner, SignInRefused } from './errors.ts';
import {
  apiKeyCreated,
  apiKeyRevoked,
  memberAdded,
  memberRemoved,
  memberRoleChanged,
  sessionsEnded,
  workspaceCreated,
} from './events.ts';
import { NewKey, NewMember, NewWorkspace, RoleChange, SignIn, SignUp } from './model.ts';
import { can } from './policy.ts';

export interface SignedIn {
  readonly userId: string;
  readonly token: string;
  readonly expiresAt: Date;
}

export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended;
}

/** The only writer of app_user, workspace, membership and api_key. */
export const Identity = service('identity', (app) => {
  const session = async (user: { id: string; sessionEpoch: number }): Promise<SignedIn> => {
    const { token, expiresAt } = await app
      .use(SessionTokens)
      .issue({ userId: user.id, sessionEpoch: user.sessionEpoch });
    return { userId: user.id, token, expiresAt };
  };
  return {
    /**
     * Registers a person and signs them in.
     * @throws {ValidationError} {Conflict} when the address is taken
     */
    async signUp(actor: Actor, raw: unknown): Promise<SignedIn> {
      const input = parse(SignUp, raw);
      authorize(actor, can.signUp, null);
      const passwordHash = await hashPassword(input.password);
      try {
        const user = await app.db.user.create({
          data: { id: newId(), email: input.email, name: input.name, passwordHash },
        });
        return await session(user);
      } catch (error) {
        if (isTaken(error)) throw new Conflict('There is an account with this e-mail address already.');
        throw error;
      }
    },

    /** @throws {ValidationError} {SignInRefused} */
    async signIn(actor: Actor, raw: unknown): Promise<SignedIn> {
      const input = parse(SignIn, raw);
      authorize(actor, can.signIn, null);
      const user = await app.db.user.findUnique({ where: { email: input.email } });
      const good = await verifyPassword(user?.passwordHash ?? null, input.password);
      if (!user?.passwordHash || !good) throw new SignInRefused();
      if (needsRehash(user.passwordHash)) {
        await app.db.user.update({
          where: { id: user.id },
          data: { passwordHash: await hashPassword(input.password) },
        });
      }
      return session(user);
    },

    /** Ends every session of the actor, on every device, open streams included. @throws {Unauthenticated} {Forbidden} */
    async signOutEverywhere(actor: Actor): Promise<void> {
      authorize(actor, can.signOutEverywhere, null);
      const userId = actor.userId as string;
      await app.transact(actor, async (tx) => {
        await tx.db.user.update({ where: { id: userId }, data: { sessionEpoch: { increment: 1 } } });
        const memberships = await tx.db.membership.findMany({ where: { userId } });
        for (const { workspaceId } of memberships) {
          tx.append({ type: sessionsEnded, workspaceId, subjectId: userId, data: { userId } });
        }
      });
    },

    /** Creates a workspace whose owner is the actor. @throws {ValidationError} {Unauthenticated} {Forbidden} {Conflict} */
    async createWorkspace(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(NewWorkspace, raw);
      authorize(actor, can.createWorkspace, null);
      const userId = actor.userId as string;
      try {
        return await app.transact(actor, async (tx) => {
          const { id } = await tx.db.workspace.create({ data: { id: newId(), ...input } });
          await tx.db.eventHead.create({ data: { workspaceId: id } });
          const event = tx.append({ type: workspaceCreated, workspaceId: id, subjectId: id });
          await addMember(tx, id, userId, 'OWNER');
          return { id, workspaceId: id, event };
        });
      } catch (error) {
        if (isTaken(error)) throw new Conflict(`There is a workspace ${input.slug} already.`);
        throw error;
      }
    },

    /** Makes a registered person a member. @throws {ValidationError} {NotFound} {Forbidden} {Conflict} */
    async addMember(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(NewMember, raw);
      authorize(actor, can.addMember, input.workspaceId);
      mayGive(actor, input.workspaceId, input.role);
      const user = await app.db.user.findUnique({ where: { email: input.email }, select: { id: true } });
      if (!user) throw new NotFound('User', input.email);
      try {
        return await app.transact(actor, (tx) => addMember(tx, input.workspaceId, user.id, input.role));
      } catch (error) {
        if (isTaken(error)) throw new Conflict('They are a member already.');
        throw error;
      }
    },

    /** @throws {ValidationError} {NotFound} {Forbidden} {LastOwner} */
    async changeMemberRole(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(RoleChange, raw);
      return app.transact(actor, async (tx) => {
        const membership = await lockMembership(tx, input.membershipId);
        authorizeRow(actor, can.changeMemberRole, membership, 'Membership', input.membershipId);
        mayGive(actor, membership.workspaceId, membership.role);
        mayGive(actor, membership.workspaceId, input.role);
        if (membership.role === 'OWNER' && input.role !== 'OWNER') await keepAnOwner(tx, membership);
        await tx.db.membership.update({ where: { id: membership.id }, data: { role: input.role } });
        const event = tx.append({
          type: memberRoleChanged,
          workspaceId: membership.workspaceId,
          subjectId: membership.id,
          from: membership.role,
          to: input.role,
          data: { userId: membership.userId },
        });
        return { id: membership.id, workspaceId: membership.workspaceId, event };
      });
    },

    /** Ends a membership, and with it the API keys that the person made there. @throws {NotFound} {Forbidden} {LastOwner} */
    async removeMember(actor: Actor, membershipId: string): Promise<Written> {
      return app.transact(actor, async (tx) => {
        const membership = await lockMembership(tx, membershipId);
        authorizeRow(actor, can.removeMember, membership, 'Membership', membershipId);
        mayGive(actor, membership.workspaceId, membership.role);
        if (membership.role === 'OWNER') await keepAnOwner(tx, membership);
        await tx.db.membership.delete({ where: { id: membership.id } });
        // Revoked, not only out of use: their keys must not come back to life when the person does.
        const keys = await tx.db.apiKey.updateManyAndReturn({
          where: { workspaceId: membership.workspaceId, createdById: membership.userId, revokedAt: null },
          data: { revokedAt: new Date() },
          select: { id: true },
        });
        for (const key of keys)
          tx.append({ type: apiKeyRevoked, workspaceId: membership.workspaceId, subjectId: key.id });
        const event = tx.append({
          type: memberRemoved,
          workspaceId: membership.workspaceId,
          subjectId: membership.id,
          data: { userId: membership.userId },
        });
        return { id: membership.id, workspaceId: membership.workspaceId, event };
      });
    },

    /** Makes a key. It is in the answer and nowhere else. @throws {ValidationError} {NotFound} {Forbidden} */
    async createApiKey(actor: Actor, raw: unknown): Promise<Written & { readonly key: string }> {
      const input = parse(NewKey, raw);
      authorize(actor, can.createApiKey, input.workspaceId);
      mayGive(actor, input.workspaceId, input.role);
      const made = newApiKey();
      return app.transact(actor, async (tx) => {
        const { id } = await tx.db.apiKey.create({
          data: {
            id: newId(),
            workspaceId: input.workspaceId,
            createdById: actor.userId as string,
            name: input.name,
            prefix: made.prefix,
            keyHash: made.hash,
            role: input.role,
            expiresAt: input.expiresAt ?? null,
          },
        });
        const event = tx.append({
          type: apiKeyCreated,
          workspaceId: input.workspaceId,
          subjectId: id,
          data: { role: input.role },
        });
        return { id, workspaceId: input.workspaceId, event, key: made.key };
      });
    },

    /** Ends a key and the streams that it opened. Doing it again changes nothing. @throws {NotFound} {Forbidden} */
    async revokeApiKey(actor: Actor, id: string): Promise<{ id: string; workspaceId: string; event: Appended | null }> {
      if (!isId(id)) throw new NotFound('ApiKey', id);
      return app.transact(actor, async (tx) => {
        const key = await tx.db.apiKey.findUnique({ where: { id } });
        authorizeRow(actor, can.revokeApiKey, key, 'ApiKey', id);
        const { count } = await tx.db.apiKey.updateMany({
          where: { id, revokedAt: null },
          data: { revokedAt: new Date() },
        });
        const event =
          count === 0 ? null : tx.append({ type: apiKeyRevoked, workspaceId: key.workspaceId, subjectId: id });
        return { id, workspaceId: key.workspaceId, event };
      });
    },
  };
});

/** Nobody gives or takes a role above their own. @throws {Forbidden} */
function mayGive(actor: Actor, workspaceId: string, role: Role): void {
  const own = actor.roles.get(workspaceId);
  if (!own || !atLeast(own, role)) throw new Forbidden(`identity.give${role}`);
}

async function addMember(tx: Transaction, workspaceId: string, userId: string, role: Role): Promise<Written> {
  const { id } = await tx.db.membership.create({ data: { id: newId(), workspaceId, userId, role } });
  const event = tx.append({ type: memberAdded, workspaceId, subjectId: id, data: { userId, role } });
  return { id, workspaceId, event };
}

async function lockMembership(tx: Transaction, id: string) {
  if (!isId(id)) return null;
  // The workspace's owners are counted under this lock, so that two of them cannot leave at once.
  await tx.db
    .$queryRaw`select 1 from workspace w join membership m on m.workspace_id = w.id where m.id = ${id}::uuid for update of w`;
  return tx.db.membership.findUnique({ where: { id } });
}

/** @throws {LastOwner} */
async function keepAnOwner(tx: Transaction, leaving: { id: string; workspaceId: string }): Promise<void> {
  const others = await tx.db.membership.count({
    where: { workspaceId: leaving.workspaceId, role: 'OWNER', id: { not: leaving.id } },
  });
  if (others === 0) throw new LastOwner();
}

const isTaken = (error: unknown): boolean =>
  error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002';
